"""Curves made easier to read: exponential smoothing of every run, fewer points. Tables in, tables out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["smooth_runs", "thin_curves"]


def smooth_runs(curves: pd.DataFrame, weight: float) -> pd.DataFrame:
    """Debiased exponential moving average of every metric of every run, over its evaluations.

        s_t = weight s_{t-1} + (1 - weight) x_t,  s_0 = 0;  the result is s_t / (1 - weight^t)

    so that the first value stays what it is (Kingma and Ba 2015, section 3). A value that is not finite stays where it
    is, and does not enter those after it.

    Args:
        curves: of an experiment, in order of run and step.
        weight: of the past, in [0, 1); 0 changes nothing.
    """
    finite = curves["value"].where(np.isfinite(curves["value"]))
    parts = finite.groupby([curves["run"], curves["metric"]], observed=True, sort=False)
    # Weights that are normalized over the values so far are the debiased average.
    smoothed = parts.ewm(alpha=1.0 - weight, adjust=True, ignore_na=True).mean()
    smoothed = smoothed.reset_index(level=[0, 1], drop=True).reindex(curves.index)
    return curves.assign(value=smoothed.where(finite.notna(), curves["value"]))


def thin_curves(table: pd.DataFrame, keys: Sequence[str], points: int) -> pd.DataFrame:
    """Keep at most so many points of every curve: the first, the last, and others at equal distances between them.

    Args:
        table: of curves, see :func:`ovis.experiments.reporting.data.aggregate.curve_table`.
        keys: settings that tell its curves apart.
        points: 2 or more.
    """
    parts = table.groupby([*keys, "metric"], dropna=False, sort=False, observed=True)
    place, size = parts.cumcount().to_numpy(), parts["step"].transform("size").to_numpy()
    # Point number i of n is kept where the grid of so many places over 0 ... n - 1 has a point nearest to it.
    spacing = np.maximum((size - 1) / (points - 1), 1.0)
    nearest = np.round(np.round(place / spacing) * spacing).astype(int)
    kept: pd.DataFrame = table.loc[nearest == place]
    return kept.reset_index(drop=True)
