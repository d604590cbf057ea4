"""Gradient estimators: ``get_config(id)`` gives the class and its settings, or import a class by its name."""

from __future__ import annotations

import importlib
from typing import Any

from ovis.estimators.ids import ESTIMATORS

#: Public name -> module; imported at first use: ``ovis.estimators.ids`` has to be importable without torch.
_LAZY = {
    "GradientEstimator": "ovis.estimators.base",
    "get_config": "ovis.estimators.config",
    **{name: module for module, _, name in (row.implementation.partition(":") for row in ESTIMATORS.values())},
}

__all__ = ["ESTIMATORS", "GradientEstimator", "get_config"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
