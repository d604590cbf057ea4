"""Aggregation: one value per run, then the mean over seeds with its uncertainty.

Both tables have the groups of runs in the same order, the best first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.metrics import Metric, Pivot

__all__ = ["BANDS", "curve_table", "pivot_table", "run_values", "smooth_runs", "thin_curves"]

#: Bands around a mean over seeds, and their names in figures.
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

    A NaN that a run ends with stays NaN in its final value: a diverged run must not look like its last good step.
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


def pivot_table(experiment: ExperimentData, keys: Sequence[str], pivots: Sequence[Pivot]) -> pd.DataFrame:
    """Mean over seeds and its standard error (std / sqrt(seeds), NaN for one seed), the best group first.

    Runs of one seed (which differ in another setting) are averaged first: they are no repetitions.

    Args:
        experiment: what was read.
        keys: settings that distinguish groups of runs.
        pivots: what to compute of each run; the first one ranks.

    Returns:
        one row per group and pivot, columns ``*keys, pivot, mean, se, low, high`` (0.5 std on either side, NaN for one
        seed; see :func:`_clip`), ``seeds`` (with this metric), ``of`` (seeds of the group), ``runs`` (of the group),
        ``done`` (how many of these).
    """
    keys, names = list(keys), [pivot.name for pivot in pivots]
    groups = experiment.runs[keys].drop_duplicates().reset_index(drop=True) if keys else pd.DataFrame(index=[0])
    labels = _label_runs(experiment.runs, groups)
    by_group = labels.groupby("group")
    about = groups.assign(of=by_group["seed"].nunique(), runs=by_group.size(), done=by_group["done"].sum())
    values = pd.concat([run_values(experiment, pivot).to_frame("value").assign(pivot=pivot.name) for pivot in pivots])
    values = values.join(labels)
    table = _over_seeds(values, ["group", "pivot"])
    by_pivot = values.groupby(["group", "pivot"])
    table["seeds"] = by_pivot["seed"].nunique()
    diverged = by_pivot["value"].count() < by_pivot.size()  # a NaN among the values makes a NaN
    table.loc[diverged, ["mean", "std"]] = math.nan

    table = table.reindex(pd.MultiIndex.from_product([groups.index, names], names=["group", "pivot"])).reset_index()
    logarithmic = table["pivot"].isin([pivot.name for pivot in pivots if pivot.metric.kind.log])
    table["se"] = table["std"] / np.sqrt(table["seeds"])
    table["low"] = _clip(table["mean"] - 0.5 * table["std"], table["min"], logarithmic)
    table["high"] = table["mean"] + 0.5 * table["std"]
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    rank = _best_first(about, table.loc[table["pivot"] == names[0]].set_index("group")["mean"], pivots[0])
    table = table.sort_values("group", key=lambda group: group.map(rank), kind="stable")
    columns = [*keys, "pivot", "mean", "se", "low", "high", "seeds", "of", "runs", "done"]
    return table.join(about, on="group")[columns].reset_index(drop=True)


def _label_runs(runs: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """``group``, ``seed`` and ``done`` of each run, indexed by its name; a run without a seed is a seed of its own.

    Args:
        runs: of an experiment.
        groups: one row per group, one column per key; its index numbers the groups.
    """
    names, keys = runs["run"].astype(str), list(groups.columns)
    number = runs[keys].merge(groups.assign(_group=groups.index), on=keys, how="left")["_group"] if keys else 0
    seeds = runs["seed"].where(runs["seed"].notna(), names) if "seed" in runs else names
    labels = pd.DataFrame({"seed": seeds.astype(str), "done": runs["state"] == "done"})
    return labels.assign(group=np.asarray(number)).set_index(names)


def _over_seeds(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """``mean, std, count, min`` over seeds of each group of values; runs of one seed are averaged first."""
    per_seed = values.groupby([*by, "seed"], observed=True)["value"].mean()
    return per_seed.groupby(level=by).agg(["mean", "std", "count", "min"])


def _best_first(about: pd.DataFrame, mean: pd.Series[float], pivot: Pivot) -> dict[int, int]:
    """Group -> its rank by this value, the best first and NaN last; data sets, and then K, one after the other."""
    ascending = pivot.metric.kind.sign < 0 or (pivot.metric.kind.sign == 0 and pivot.aggregate == "min")
    by = [name for name in ("dataset", "iw") if name in about]
    table = about.assign(_value=mean)
    table = table.sort_values([*by, "_value"], ascending=[*(True for _ in by), ascending], kind="stable")
    return {int(group): rank for rank, group in enumerate(table.index)}


def _clip(low: pd.Series[float], smallest: pd.Series[float], log: pd.Series[bool]) -> pd.Series[float]:
    """The lower end of a band, no lower than the smallest seed where the axis is logarithmic.

    There a mean minus its spread, near zero or below, would be a spike of decades that no seed has seen. On other axes
    only a band of positive values that would reach below zero ends at the smallest seed.
    """
    beyond = (log & (low < smallest)) | (~log & (low <= 0) & (smallest > 0))  # a NaN is never beyond
    return low.mask(beyond, smallest)


def curve_table(
    experiment: ExperimentData, keys: Sequence[str], metrics: Sequence[Metric], band: str, order: pd.DataFrame
) -> pd.DataFrame:
    """Mean over seeds at every step, with a band.

    Args:
        experiment: what was read.
        keys: settings that distinguish curves.
        metrics: what to average.
        band: a key of :data:`BANDS`.
        order: a pivot table: its groups, in the order of the curves.

    Returns:
        columns ``*keys, metric, step, mean, std, low, high, seeds``; low and high are NaN where there is no band.
    """
    keys, names = list(keys), [metric.name for metric in metrics]
    groups = order[keys].drop_duplicates().reset_index(drop=True) if keys else pd.DataFrame(index=[0])
    rows = experiment.curves[experiment.curves["metric"].isin(names)].astype({"run": str, "metric": str})
    rows = rows.join(_label_runs(experiment.runs, groups), on="run")
    table = _over_seeds(rows, ["group", "metric", "step"]).reset_index()
    table["low"], table["high"] = _band(table, band, [metric.name for metric in metrics if metric.kind.log])
    table = table.assign(_place=table["metric"].map(names.index)).sort_values(["group", "_place", "step"])
    table = table.join(groups, on="group").rename(columns={"count": "seeds"})
    return table[[*keys, "metric", "step", "mean", "std", "low", "high", "seeds"]].reset_index(drop=True)


def _band(table: pd.DataFrame, band: str, logarithmic: Sequence[str]) -> tuple[pd.Series[float], pd.Series[float]]:
    seeds = table["count"]
    quantile = np.where(seeds > len(STUDENT), 1.96 + 2.5 / seeds, STUDENT[(seeds - 2).clip(0, len(STUDENT) - 1)])
    width = {"std": 0.5, "ci": quantile / np.sqrt(seeds), "none": math.nan}[band]
    half = table["std"] * width
    low = _clip(table["mean"] - half, table["min"], table["metric"].isin(logarithmic))
    return low, table["mean"] + half


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
    """Keep at most ``points`` points of every curve: the first, the last, and others at equal distances between them.

    Args:
        table: of curves, see :func:`ovis.experiments.reporting.data.aggregate.curve_table`.
        keys: settings that distinguish its curves.
        points: 2 or more.
    """
    parts = table.groupby([*keys, "metric"], dropna=False, sort=False, observed=True)
    position, size = parts.cumcount().to_numpy(), parts["step"].transform("size").to_numpy()
    # Point number i of n is kept where the grid of so many points over 0 ... n - 1 has a point nearest to it.
    spacing = np.maximum((size - 1) / (points - 1), 1.0)
    nearest = np.round(np.round(position / spacing) * spacing).astype(int)
    kept: pd.DataFrame = table.loc[nearest == position]
    return kept.reset_index(drop=True)
