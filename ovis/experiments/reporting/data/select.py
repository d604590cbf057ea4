"""Selection of the runs, settings and metrics of a report; error messages name the most similar valid name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.metrics import PARTICLES, Evaluated, Metric, Pivot, is_known, make_metric
from ovis.experiments.settings import TrainSettings
from ovis.suggestions import did_you_mean

__all__ = [
    "check_keys",
    "check_metrics",
    "check_pivots",
    "differing_settings",
    "how_evaluated",
    "keep_runs",
    "mixed_settings",
    "report_name",
    "select_runs",
    "shared_particles",
]

#: The seed, and settings that are not part of a run's identity: runs that differ only in these are averaged.
AVERAGED = {"seed", *(item.name for item in dataclasses.fields(TrainSettings) if not item.metadata["identity"])}

#: Settings that describe a difference best, in order of preference.
TELLING = ("alpha", "warmup", "tau", "beta", "mc", "lr", "bs", "optimizer", "gamma", "S", "P")

#: Settings that describe a difference only where no other one does.
VAGUE = ("estimator", "id")


def select_runs(experiment: ExperimentData, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> ExperimentData:
    """The runs whose label (``--id``), estimator or folder name holds one of ``include`` and none of ``exclude``.

    The hash at the end of a folder's name does not count. Foreign folders stay listed, whatever their name.

    Args:
        experiment: what was read.
        include: parts of names; empty: all runs.
        exclude: parts of names.
    """

    def is_selected(*names: str) -> bool:
        text = "\n".join(names)
        return (not include or any(part in text for part in include)) and not any(part in text for part in exclude)

    rows = experiment.runs
    columns = [rows[name].astype(str) for name in ("run", "id", "estimator") if name in rows]
    kept = (
        [is_selected(_without_hash(run), *others) for run, *others in zip(*columns, strict=True)] if len(rows) else []
    )
    skipped = tuple(s for s in experiment.skipped if s.state == "foreign" or is_selected(_without_hash(s.name)))
    return dataclasses.replace(keep_runs(experiment, kept), skipped=skipped)


def keep_runs(experiment: ExperimentData, kept: Sequence[bool]) -> ExperimentData:
    """The experiment restricted to some of its runs, and their curves.

    Args:
        experiment: what was read.
        kept: for each of its runs, whether to keep it.
    """
    if experiment.runs.empty or all(kept):
        return experiment
    runs = experiment.runs[list(kept)].reset_index(drop=True)
    curves = experiment.curves[experiment.curves["run"].isin(runs["run"])].reset_index(drop=True)
    return dataclasses.replace(experiment, runs=runs, curves=curves)


def _without_hash(name: str) -> str:
    return re.sub(r"-[0-9a-f]{12}$", "", name)


def report_name(
    exp: str, include: Sequence[str] = (), exclude: Sequence[str] = (), conditions: Sequence[str] = ()
) -> str:
    """The folder of a report: ``NAME``, ``NAME-inc=iwbound``, ``NAME-iw=50`` ...; of several words the first names it.

    Args:
        exp: the experiment.
        include: the words of ``--include``.
        exclude: the words of ``--exclude``.
        conditions: those of ``--filter``: all of them name it.
    """
    parts = [exp, *(f"{tag}={words[0]}" for tag, words in (("inc", include), ("exc", exclude)) if words), *conditions]
    return re.sub(r"[^A-Za-z0-9._+=-]+", "_", "-".join(parts))


def check_keys(experiment: ExperimentData, keys: Iterable[str], option: str = "--keys") -> list[str]:
    """The settings that distinguish curves, each once.

    Raises:
        ValueError: no such setting.
    """
    keys = list(dict.fromkeys(keys))
    for key in keys:
        if key not in experiment.settings:
            raise ValueError(f"{option}: no setting {key!r}{did_you_mean(key, experiment.settings)}")
    return keys


def check_metrics(experiment: ExperimentData, names: Iterable[str], option: str = "--metrics") -> list[Metric]:
    """The metrics of these names that runs have, each once; known metrics that no run has yet are left out.

    Raises:
        ValueError: no training has such a metric.
    """
    present, evaluated = experiment.metrics, how_evaluated(experiment)
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in present and not is_known(name):
            raise ValueError(f"{option}: no metric {name!r}{did_you_mean(name, present)}")
    return [make_metric(name, evaluated) for name in names if name in present]


def check_pivots(experiment: ExperimentData, pivots: Iterable[Pivot]) -> list[Pivot]:
    """The columns of the table that runs have, each once; the wall time counts as a metric here.

    Raises:
        ValueError: no training has such a metric.
    """
    pivots = list(dict.fromkeys(pivots))
    names = [pivot.metric.name for pivot in pivots if pivot.metric.name != "time"]
    metrics = check_metrics(experiment, names, "--pivot_metrics")
    named = {metric.name: metric for metric in metrics} | {"time": make_metric("time")}
    return [Pivot(p.aggregate, named[p.metric.name]) for p in pivots if p.metric.name in named]


def mixed_settings(experiment: ExperimentData, keys: Sequence[str]) -> list[str]:
    """Settings other than the seed in which runs of one group differ, so that its mean is not over seeds alone."""
    runs = experiment.runs
    names = [name for name in experiment.varying if name not in AVERAGED and name not in keys]
    if not keys:
        return names
    groups = runs.groupby(list(keys), dropna=False, sort=False)
    return [name for name in names if groups[name].nunique(dropna=False).max() > 1]


def differing_settings(experiment: ExperimentData, keys: Sequence[str]) -> list[str]:
    """The fewest settings that distinguish all runs of one group of ``keys`` that differ in more than the seed.

    Settings that always change together (a warm-up and the alpha it starts from) are one difference: the most telling
    one stands for all.
    """
    mixed = mixed_settings(experiment, keys)
    others = [name for name in mixed if name not in (*TELLING, *VAGUE)]
    differing: list[str] = []
    for name in (name for name in (*TELLING, *others, *VAGUE) if name in mixed):
        if _count_groups(experiment, [*keys, *differing, name]) > _count_groups(experiment, [*keys, *differing]):
            differing.append(name)
    return differing


def _count_groups(experiment: ExperimentData, keys: Sequence[str]) -> int:
    return len(experiment.runs[list(keys)].drop_duplicates()) if keys else 1


def shared_particles(experiment: ExperimentData) -> dict[str, int]:
    """Split -> the number of particles it is evaluated with; without the splits in which the runs differ."""
    columns = {split: experiment.runs[name] for split, name in PARTICLES.items() if name in experiment.runs}
    # An older run may lack the setting, and a foreign one may hold anything.
    return {
        split: int(column.iloc[0])
        for split, column in columns.items()
        if column.nunique(dropna=False) == 1 and pd.api.types.is_integer_dtype(column)
    }


def how_evaluated(experiment: ExperimentData) -> Evaluated:
    """How this experiment's metrics were evaluated: with how many particles, how often, and chosen by which split."""
    runs = experiment.runs
    chosen = [str(name) for name in runs["select_on"].unique()] if "select_on" in runs else []
    return Evaluated(shared_particles(experiment), _measured_once(experiment), chosen[0] if len(chosen) == 1 else "")


def _measured_once(experiment: ExperimentData) -> frozenset[str]:
    """The metrics of which no run has two values, although the runs with a value were evaluated more than once."""
    curves = experiment.curves
    metrics, runs = curves["metric"].cat, curves["run"].cat
    shape = len(metrics.categories), len(runs.categories)
    cells = np.ravel_multi_index((metrics.codes, runs.codes), shape) if len(curves) else np.zeros(0, int)
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    evaluations = experiment.runs.set_index("run")["evaluations"].reindex(runs.categories).fillna(0).to_numpy()
    single = (counts <= 1).all(axis=1) & (counts * (evaluations > 1) == counts).all(axis=1) & counts.any(axis=1)
    return frozenset(str(name) for name in metrics.categories[single])
