"""Statistics of gradients by K, from their draws, and how they grow with K; each with its standard error.

Standard errors are those of the delete-a-group jackknife (Quenouille 1956): draw number i belongs to group i mod G, and
of every statistic T, slopes included,

    se(T)^2 = (G - 1) / G  sum_g (T without group g - their mean)^2,     G = 100,

which is itself right to about 7 %. A group is left out at every K at once: draws of one number share random numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ovis.paper.figure1.asymptotic_runs import Sample, toy_name
from ovis.paper.figure1.asymptotic_settings import EPSILON

__all__ = ["SHOWN", "STATISTICS", "Measured", "fit_slope", "measure", "slope_table", "statistics_table"]

Array = NDArray[np.float64]

#: Statistics whose slopes are fitted, in the order of the figure's panels.
SHOWN = ("snr", "dsnr", "variance", "magnitude")

#: Percentiles of the signal-to-noise ratios over entries.
PERCENTILES = (5, 25, 50, 75, 95)

STATISTICS = (*SHOWN, *(f"snr_p{p}" for p in PERCENTILES), "keep_ratio")

GROUPS = 100

#: Keeps a draw without any part normal to the mean finite, as in ``ovis.functional.statistics``.
TINY = 1e-15

#: A ratio below this multiple of its value for pure noise is not fitted.
ABOVE_NOISE = 2.0


@dataclass(frozen=True)
class Measured:
    """The statistics of a sample.

    Attributes:
        sample: what was measured.
        values: the statistics by name: [1 + G], of all draws, then without each group.
    """

    sample: Sample
    values: Mapping[str, Array]

    @property
    def floors(self) -> dict[str, float]:
        """SNR and DSNR of a gradient with mean zero: they depend on the number of draws and on that of entries."""
        n, D = self.sample.draws.shape
        snr, dsnr = (math.sqrt(2 / (math.pi * max(count, 1))) for count in (n, D - 1))
        return {"snr": snr, "dsnr": dsnr}

    def is_noise(self, statistic: str) -> bool:
        """Whether a statistic shows the noise of the draws rather than their mean."""
        ratio = {"snr": "snr", "magnitude": "snr", "dsnr": "dsnr"}.get(statistic)
        return ratio is not None and self.values[ratio][0] < ABOVE_NOISE * self.floors[ratio]


def measure(sample: Sample) -> Measured:
    """All statistics of a sample (averages over the entries that vary), of all draws and without each group."""
    draws = sample.draws.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = _kept(sample.numbers)
        mean, variance = _moments(draws, kept)
        values = _summary(mean, variance)
        values["dsnr"] = _directional_snr(draws, mean, kept)
    broken = ~np.isfinite(mean).all(1) | ~np.isfinite(variance).all(1)
    return Measured(sample, {name: np.where(broken, math.nan, value) for name, value in values.items()})


def statistics_table(measured: Iterable[Measured]) -> pd.DataFrame:
    """One row per toy, estimator and K.

    Returns:
        columns ``toy`` (its name), the toy's settings, ``estimator, iw, draws``; each statistic and ``..._se``;
        ``noise_...`` of each of :data:`SHOWN`: whether it shows the noise of the draws rather than their mean;
        ``theory_...``: closed form for large K, or NaN.
    """
    measured = list(measured)
    toys = [m.sample.toy for m in measured]
    rows = []
    for m in measured:
        row: dict[str, Any] = {"toy": toy_name(m.sample.toy, toys), **m.sample.toy}
        row |= {"estimator": m.sample.estimator, "iw": m.sample.iw, "draws": len(m.sample.draws)}
        for name in STATISTICS:
            row |= {name: float(m.values[name][0]), f"{name}_se": jackknife(m.values[name])}
        row |= {f"noise_{name}": m.is_noise(name) for name in SHOWN}
        row |= {f"theory_{name}": m.sample.theory.get(name, math.nan) for name in ("snr", "variance", "magnitude")}
        rows.append(row)
    return pd.DataFrame(rows)


def slope_table(measured: Iterable[Measured]) -> pd.DataFrame:
    """Least squares of log statistic over log K, one row per toy, estimator and statistic.

    Ratios and magnitudes that are noise are left out of the fit, and counted.

    Returns:
        columns ``toy, estimator, statistic, points`` (K that are fitted), ``fitted`` (these K as text), ``slope``,
        ``slope_se`` (of the draws), ``fit_se`` (of the least squares, by the points' distance from a line; NaN for two
        points), ``last`` and ``last_se``: between the two largest K.
    """
    measured = list(measured)
    toys = [m.sample.toy for m in measured]
    rows = []
    for key, group in groupby(measured, key=lambda m: (json.dumps(m.sample.toy, default=str), m.sample.estimator)):
        by_iw = list(group)
        toy = toy_name(by_iw[0].sample.toy, toys)
        for name in SHOWN:
            rows.append({"toy": toy, "estimator": key[1], "statistic": name, **_slopes(by_iw, name)})
    return pd.DataFrame(rows)


def jackknife(values: Array) -> float:
    """The standard error of a statistic: [1 + G], of all draws, then without each group."""
    left_out = values[1:]
    return float(np.sqrt((len(left_out) - 1) * np.mean((left_out - left_out.mean()) ** 2)))


def fit_slope(iw: Sequence[float], values: Array) -> Array:
    """Slopes of log values over log K: values [n, G] at K [n] -> [G]."""
    x = np.log(np.asarray(iw, np.float64))
    x = x - x.mean()
    slopes: Array = x @ np.log(values) / (x @ x)
    return slopes


def _slopes(by_iw: Sequence[Measured], name: str) -> dict[str, Any]:
    used = [m for m in by_iw if m.values[name][0] > 0 and not m.is_noise(name)]
    iw = [m.sample.iw for m in used]
    row = {"points": len(iw), "fitted": " ".join(map(str, iw))}
    if len(used) < 2:
        return {**row, **dict.fromkeys(("slope", "slope_se", "fit_se", "last", "last_se"), math.nan)}
    values = np.stack([m.values[name] for m in used])
    with np.errstate(invalid="ignore", divide="ignore"):
        slope, last = fit_slope(iw, values), fit_slope(iw[-2:], values[-2:])
    return {
        **row,
        "slope": slope[0],
        "slope_se": jackknife(slope),
        "fit_se": _fit_error(np.log(iw), np.log(values[:, 0]), float(slope[0])),
        "last": last[0],
        "last_se": jackknife(last),
    }


def _fit_error(x: Array, y: Array, slope: float) -> float:
    """The standard error of a least-squares slope, from the residuals."""
    if len(x) < 3:
        return math.nan
    residuals = y - y.mean() - slope * (x - x.mean())
    return math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float((x - x.mean()) @ (x - x.mean())))


def _kept(numbers: NDArray[np.int64]) -> Array:
    """Weights [1 + G, n]: all draws, then all but those of each group."""
    everything = np.ones((1, len(numbers)))
    return np.concatenate([everything, (numbers % GROUPS) != np.arange(GROUPS)[:, None]]).astype(np.float64)


def _moments(draws: Array, kept: Array) -> tuple[Array, Array]:
    """Mean and unbiased variance of each entry, of every selection of draws: [1 + G, D] each."""
    count = kept.sum(1, keepdims=True)
    centre = draws.mean(0)
    shifted = draws - centre  # before squares are summed: a mean may be 1e4 standard deviations
    mean = kept @ shifted / count
    variance = (kept @ shifted**2 - count * mean**2) / (count - 1)
    return centre + mean, np.maximum(variance, 0.0)


def _summary(mean: Array, variance: Array) -> dict[str, Array]:
    """Averages over entries of the moments [1 + G, D]: [1 + G] each."""
    vary = variance > EPSILON
    count = vary.sum(1)
    snr = np.abs(mean) / np.maximum(np.sqrt(variance), EPSILON)
    averaged = {"snr": snr, "variance": variance, "magnitude": np.abs(mean)}
    statistics: dict[str, Array] = {
        name: np.where(vary, entries, 0.0).sum(1) / np.maximum(count, 1) for name, entries in averaged.items()
    }
    # Entries that don't vary sort behind all others, as infinity, and are not counted.
    ranked = np.sort(np.where(vary, snr, math.inf), axis=1)
    for p in PERCENTILES:
        position = p / 100 * np.maximum(count - 1, 0)
        low, high = (np.take_along_axis(ranked, f(position).astype(int)[:, None], 1)[:, 0] for f in (np.floor, np.ceil))
        between = np.where(high == low, low, low + (high - low) * (position - np.floor(position)))
        statistics[f"snr_p{p}"] = np.where(count > 0, between, math.nan)
    return {**statistics, "keep_ratio": count / mean.shape[1]}


def _directional_snr(draws: Array, mean: Array, kept: Array) -> Array:
    """Mean over the kept draws of |g_par| / |g_perp|, parallel and normal to their mean: [1 + G]."""
    unit = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    parallel = unit @ draws.T  # [1 + G, n]
    normal = np.sqrt(np.maximum((draws**2).sum(1) - parallel**2, 0.0))
    ratio: Array = (kept * np.abs(parallel) / (TINY + normal)).sum(1) / kept.sum(1)
    return ratio
