"""Distributions of one entry of the gradient, as histograms and kernel density estimates: samples in, a table out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ovis.paper.figure1.samples import Sample, toy_name

__all__ = ["density_table", "pick_entry"]

Array = NDArray[np.float64]

#: Draws farther from the quartiles than so many interquartile ranges are left out.
OUTLIERS = 3.0

BINS = 40
POINTS = 240


def density_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """Densities at the smallest, the middle and the largest K of each toy.

    Args:
        samples: sorted by toy, as they are read.

    Returns:
        columns ``toy, estimator, iw, entry`` (which one of the gradient), ``kind`` (``bin``: x is its middle, or
        ``kde``), ``x, density``, ``width`` (of a bin), ``mean`` (of all draws) and ``sd`` (without outliers).
    """
    rows: list[pd.DataFrame] = []
    toys = [sample.toy for sample in samples]
    for _, group in groupby(samples, key=lambda sample: sample.key[0]):
        members = list(group)
        entry = pick_entry(members)
        for iw in _three(sorted({sample.iw for sample in members})):
            for sample in members:
                if sample.iw == iw:
                    found = _densities(sample.draws[:, entry].astype(np.float64))
                    name = toy_name(sample.toy, toys)
                    rows.append(found.assign(toy=name, estimator=sample.estimator, iw=iw, entry=entry))
    columns = ["toy", "estimator", "iw", "entry", "kind", "x", "density", "width", "mean", "sd"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def pick_entry(samples: Sequence[Sample]) -> int:
    """The entry whose mean is the largest, by the first estimator at its smallest K."""
    mean = np.abs(samples[0].draws.astype(np.float64).mean(0))
    return int(np.nan_to_num(mean, nan=-1.0).argmax())


def _three(values: Sequence[int]) -> list[int]:
    """The smallest, the middle and the largest."""
    return sorted({values[0], values[len(values) // 2], values[-1]})


def _densities(values: Array) -> pd.DataFrame:
    """The histogram and the kernel density estimate of some numbers; no rows where they don't vary."""
    mean = float(values.mean())
    kept = _without_outliers(values[np.isfinite(values)])
    sd = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
    if not sd > 0:
        return pd.DataFrame({"kind": [], "x": [], "density": [], "width": [], "mean": [], "sd": []})
    heights, edges = np.histogram(kept, BINS, density=True)
    bandwidth = _bandwidth(kept, sd)
    x = np.linspace(kept.min() - 3 * bandwidth, kept.max() + 3 * bandwidth, POINTS)
    bins: dict[str, Any] = {"kind": "bin", "x": (edges[1:] + edges[:-1]) / 2, "density": heights}
    curve: dict[str, Any] = {"kind": "kde", "x": x, "density": _kernel_density(kept, x, bandwidth)}
    parts = [pd.DataFrame(bins).assign(width=edges[1] - edges[0]), pd.DataFrame(curve).assign(width=0.0)]
    return pd.concat(parts).assign(mean=mean, sd=sd)


def _without_outliers(values: Array) -> Array:
    if not len(values):
        return values
    low, high = np.quantile(values, (0.25, 0.75))
    reach = OUTLIERS * (high - low)
    kept: Array = values[(values >= low - reach) & (values <= high + reach)]
    return kept


def _bandwidth(values: Array, sd: float) -> float:
    """Silverman's (1986, eq. 3.31), which a heavy tail does not widen."""
    low, high = np.quantile(values, (0.25, 0.75))
    spread = min(sd, float(high - low) / 1.349) or sd
    return float(0.9 * spread * len(values) ** -0.2)


def _kernel_density(values: Array, x: Array, bandwidth: float, chunk: int = 2000) -> Array:
    """Gaussian kernels, at x."""
    total = np.zeros_like(x)
    for start in range(0, len(values), chunk):
        z = (x[:, None] - values[start : start + chunk]) / bandwidth
        total += np.exp(-0.5 * z**2).sum(1)
    density: Array = total / (len(values) * bandwidth * np.sqrt(2 * np.pi))
    return density
