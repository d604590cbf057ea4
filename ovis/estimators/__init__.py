"""Gradient estimators: ``get_config(id)`` gives the class and its settings."""

from ovis.estimators.base import GradientEstimator
from ovis.estimators.config import ESTIMATORS, get_config

__all__ = ["ESTIMATORS", "GradientEstimator", "get_config"]
