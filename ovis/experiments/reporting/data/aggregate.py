"""From runs to numbers: one value per run, then the mean over seeds with its uncertainty. Tables in, tables out.

Both tables that leave here hold the groups of runs in the same order, the best first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.metrics import Metric, Pivot

__all__ = ["BANDS", "curve_table", "pivot_table", "run_values", "smooth_runs", "thin_curves"]

#: The bands that can be drawn around a mean over seeds, as a figure names them.
BANDS = {"std": "± 0.5 std over seeds", "ci": "95 % CI of the mean", "none": ""}

#: 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom (scipy would take a second to import).
STUDENT = np.array(
    [
        *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
        *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
        *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
    ]
)


def run_values(experiment: ExperimentData, pivot: Pivot) -> pd.Series[float]:
    """One number per run, indexed by the run's name; runs without this metric are not in it.

    A NaN that a run ends with stays NaN in its final value: a diverged run is not to look like its last good step.
    """
    rows = _metric_rows(experiment.curves, pivot.metric)
    if pivot.aggregate == "last":
        values = rows.drop_duplicates("run", keep="last").set_index("run")["value"]
    else:
        values = rows.groupby("run", observed=True)["value"].agg(pivot.aggregate)
    values.index = values.index.astype(str)
    return values


def _metric_rows(curves: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The rows of one metric; they lie in order of run and step."""
    if metric.name == "time":
        rows = curves.drop_duplicates(["run", "step"]).dropna(subset=["time"])
        return rows.assign(value=rows["time"])
    return curves[curves["metric"] == metric.name]


@dataclass(frozen=True)
class _Groups:
    """Runs that are averaged.

    Attributes:
        number: the group of each run, indexed by the run's name.
        seed: of each run, as text, indexed by the run's name; a run without one is a seed of its own.
        about: one row per group: its keys, ``of`` (its seeds), ``runs`` (how many it has) and ``done`` (how many of
            these are).
    """

    number: pd.Series[int]
    seed: pd.Series[str]
    about: pd.DataFrame


def _group(runs: pd.DataFrame, keys: list[str]) -> _Groups:
    groups = runs.groupby(keys, dropna=False, sort=False) if keys else runs.groupby(np.zeros(len(runs), dtype=int))
    names = runs["run"].astype(str)
    number = pd.Series(groups.ngroup().to_numpy(), index=names)
    seeds = runs["seed"].where(runs["seed"].notna(), names) if "seed" in runs else names
    seed = pd.Series(seeds.astype(str).to_numpy(), index=names)
    about = runs[keys].groupby(number.to_numpy()).head(1).reset_index(drop=True)
    done = (runs["state"] == "done").groupby(number.to_numpy())
    return _Groups(number, seed, about.assign(of=seed.groupby(number).nunique(), runs=done.size(), done=done.sum()))


def pivot_table(experiment: ExperimentData, keys: Sequence[str], pivots: Sequence[Pivot]) -> pd.DataFrame:
    """Mean over seeds and its standard error (std / sqrt(seeds), NaN for one seed), the best group first.

    Runs of one seed (which differ in another setting) are averaged first: they are no repetitions.

    Args:
        experiment: what was read.
        keys: settings that tell groups of runs apart.
        pivots: what to compute of each run; the first one ranks.

    Returns:
        one row per group and pivot, columns ``*keys, pivot, mean, se, low, high`` (0.5 std on either side, NaN for one
        seed; see :func:`_clip`), ``seeds`` (with this metric), ``of`` (seeds of the group), ``runs`` (of the group),
        ``done`` (how many of these).
    """
    groups = _group(experiment.runs, list(keys))
    tables = [
        _over_seeds(run_values(experiment, pivot), groups, pivot.metric.kind.log).assign(pivot=pivot.name)
        for pivot in pivots
    ]
    order = _best_first(groups.about, tables[0]["mean"], pivots[0])
    rows = pd.concat([table.loc[[group]] for group in order for table in tables])
    columns = [*keys, "pivot", "mean", "se", "low", "high", "seeds", "of", "runs", "done"]
    return rows.join(groups.about)[columns].reset_index(drop=True)


def _over_seeds(values: pd.Series[float], groups: _Groups, log: bool) -> pd.DataFrame:
    """Columns mean, se, low, high, seeds, one row per group; a NaN among the values makes a NaN."""
    number, seed = groups.number.reindex(values.index), groups.seed.reindex(values.index)
    found: dict[int, dict[str, list[float]]] = {}
    for group, name, value in zip(number, seed, values, strict=True):
        found.setdefault(int(group), {}).setdefault(name, []).append(float(value))
    rows = [
        _mean_and_error(np.array([np.mean(runs) for runs in found.get(group, {}).values()]), log)
        for group in groups.about.index
    ]
    return pd.DataFrame(rows, columns=["mean", "se", "low", "high", "seeds"], index=groups.about.index)


def _mean_and_error(values: NDArray[np.floating[Any]], log: bool) -> tuple[float, float, float, float, int]:
    n = len(values)
    with np.errstate(invalid="ignore"):  # inf - inf: a diverged run has no standard error
        std = float(values.std(ddof=1)) if n > 1 else math.nan
    mean = float(values.mean()) if n else math.nan
    low = float(_clip(np.array([mean - 0.5 * std]), values.min(initial=math.inf), log)[0])
    return mean, std / math.sqrt(max(n, 1)), low, mean + 0.5 * std, n


def _clip(low: NDArray[np.float64], smallest: Any, log: Any) -> NDArray[np.float64]:
    """The lower end of a band, no lower than the smallest seed where the axis is logarithmic.

    There a mean minus its spread, near zero or below, would be a spike of decades that no seed has seen. On other axes
    only a band of positive values that would reach below zero ends at the smallest seed.
    """
    beyond = np.where(log, low < smallest, (low <= 0) & (smallest > 0))  # a NaN is never beyond
    return np.where(beyond, smallest, low)


def _best_first(about: pd.DataFrame, mean: pd.Series[float], pivot: Pivot) -> list[int]:
    """The groups by their value, the best first and NaN last; data sets, and then K, one after the other."""
    ascending = pivot.metric.kind.sign < 0 or (pivot.metric.kind.sign == 0 and pivot.aggregate == "min")
    table = about.assign(_value=mean)
    by = [name for name in ("dataset", "iw") if name in about.columns]
    table = table.sort_values([*by, "_value"], ascending=[*(True for _ in by), ascending], kind="stable")
    return [int(group) for group in table.index]


def curve_table(
    experiment: ExperimentData, keys: Sequence[str], metrics: Sequence[Metric], band: str, order: pd.DataFrame
) -> pd.DataFrame:
    """Mean over seeds at every step, with a band.

    Args:
        experiment: what was read.
        keys: settings that tell curves apart.
        metrics: what to average.
        band: a key of :data:`BANDS`.
        order: a pivot table: its groups, in the order in which the curves are wanted.

    Returns:
        columns ``*keys, metric, step, mean, std, low, high, seeds``; low and high are NaN where there is no band.
    """
    keys, names = list(keys), [metric.name for metric in metrics]
    groups = _group(experiment.runs, keys)
    rows = experiment.curves[experiment.curves["metric"].isin(names)]
    folders = rows["run"].astype(str)
    rows = rows.assign(
        group=folders.map(groups.number), seed=folders.map(groups.seed), metric=rows["metric"].astype(str)
    )
    # Runs of one seed are no repetitions: they are averaged first.
    values = rows.groupby(["group", "metric", "step", "seed"])["value"].mean()
    table = values.groupby(level=[0, 1, 2]).agg(["mean", "std", "count", "min"]).reset_index()
    logarithmic = {metric.name for metric in metrics if metric.kind.log}
    table["low"], table["high"] = _band(table, band, table["metric"].isin(logarithmic))
    wanted = order[keys].drop_duplicates().reset_index(drop=True)
    rank = _rank_groups(groups.about[keys], wanted)
    table = table.assign(_rank=table["group"].map(rank), _metric=table["metric"].map(names.index))
    table = table.sort_values(["_rank", "_metric", "step"]).join(groups.about[keys], on="group")
    table = table.rename(columns={"count": "seeds"})
    return table[[*keys, "metric", "step", "mean", "std", "low", "high", "seeds"]].reset_index(drop=True)


def _rank_groups(keys: pd.DataFrame, wanted: pd.DataFrame) -> dict[int, int]:
    """Group -> its place in ``wanted``."""
    places = {_hashable(row): place for place, row in enumerate(wanted.itertuples(index=False))}
    return {int(str(group)): places[_hashable(row)] for group, *row in keys.itertuples()}


def _hashable(row: Sequence[object]) -> tuple[str, ...]:
    """Text in place of values: NaN, a setting that an older run does not have, equals itself."""
    return tuple(str(value) for value in row)


def _band(table: pd.DataFrame, band: str, log: pd.Series[bool]) -> tuple[NDArray[np.float64], pd.Series[float]]:
    seeds = table["count"].to_numpy()
    if band == "std":
        half = 0.5 * table["std"]
    elif band == "ci":
        quantile = np.where(seeds > len(STUDENT), 1.96 + 2.5 / seeds, STUDENT[np.clip(seeds - 2, 0, len(STUDENT) - 1)])
        half = table["std"] * quantile / np.sqrt(seeds)
    else:
        half = table["std"] * math.nan
    low = (table["mean"] - half).to_numpy(np.float64)
    return _clip(low, table["min"].to_numpy(np.float64), log.to_numpy(bool)), table["mean"] + half


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
