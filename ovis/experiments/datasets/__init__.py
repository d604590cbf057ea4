"""Data sets as whole tensors, and fresh synthetic data."""

from ovis.experiments.datasets.splits import FreshData, Splits, StoredData, TrainSource, as_float

__all__ = ["FreshData", "Splits", "StoredData", "TrainSource", "as_float"]
