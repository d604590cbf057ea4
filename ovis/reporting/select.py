"""Which runs, settings and metrics a report is about; every refusal names the nearest valid word."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from ovis.names import nearest
from ovis.reporting.metrics import PARTICLES, Metric, Pivot
from ovis.reporting.read import Experiment
from ovis.settings import TrainSettings

__all__ = [
    "check_keys",
    "check_metrics",
    "check_pivots",
    "mixed_settings",
    "report_name",
    "select_runs",
    "shared_particles",
]

#: Settings that say where and not what was computed, and the seed: runs that differ here only are averaged.
AVERAGED = {"seed", *(item.name for item in dataclasses.fields(TrainSettings) if not item.metadata["identity"])}


def select_runs(experiment: Experiment, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Experiment:
    """The runs whose label (``--id``), estimator or folder name holds one of ``include`` and none of ``exclude``.

    The hash at the end of a folder's name does not count. Foreign folders stay listed, whatever their name.

    Args:
        experiment: what was read.
        include: parts of names; empty: all runs.
        exclude: parts of names.
    """

    def wanted(*names: str) -> bool:
        text = "\n".join(names)
        return (not include or any(part in text for part in include)) and not any(part in text for part in exclude)

    rows = experiment.runs
    columns = [rows[name].astype(str) for name in ("run", "id", "estimator") if name in rows]
    kept = [wanted(_without_hash(run), *others) for run, *others in zip(*columns, strict=True)] if len(rows) else []
    runs = rows[kept].reset_index(drop=True) if len(rows) else rows
    curves = experiment.curves[experiment.curves["run"].isin(runs["run"])].reset_index(drop=True)
    skipped = tuple(s for s in experiment.skipped if s.state == "foreign" or wanted(_without_hash(s.name)))
    return dataclasses.replace(experiment, runs=runs, curves=curves, skipped=skipped)


def _without_hash(name: str) -> str:
    return re.sub(r"-[0-9a-f]{12}$", "", name)


def report_name(exp: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> str:
    """The folder of a report: ``NAME``, ``NAME-inc=iwbound`` ...; of several words the first one names it."""
    parts = [exp, *(f"{tag}={words[0]}" for tag, words in (("inc", include), ("exc", exclude)) if words)]
    return re.sub(r"[^A-Za-z0-9._+=-]+", "_", "-".join(parts))


def check_keys(experiment: Experiment, keys: Iterable[str]) -> list[str]:
    """The settings by which curves are told apart, each once.

    Raises:
        ValueError: no such setting.
    """
    keys = list(dict.fromkeys(keys))
    for key in keys:
        if key not in experiment.settings:
            raise ValueError(f"--keys: no setting {key!r}{nearest(key, experiment.settings)}")
    return keys


def check_metrics(experiment: Experiment, names: Iterable[str], option: str = "--metrics") -> list[Metric]:
    """The metrics of these names, each once.

    Raises:
        ValueError: no run has such a metric.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in experiment.metrics:
            raise ValueError(f"{option}: no metric {name!r}{nearest(name, experiment.metrics)}")
    return [Metric(name) for name in names]


def check_pivots(experiment: Experiment, pivots: Iterable[Pivot]) -> list[Pivot]:
    """The columns of the table, each once; the wall time counts as a metric here.

    Raises:
        ValueError: no run has such a metric.
    """
    pivots = list(dict.fromkeys(pivots))
    check_metrics(experiment, (p.metric.name for p in pivots if p.metric.name != "time"), "--pivot_metrics")
    return pivots


def mixed_settings(experiment: Experiment, keys: Sequence[str]) -> list[str]:
    """Settings other than the seed in which runs that ``keys`` put together differ: no mean over seeds alone."""
    runs = experiment.runs
    names = [name for name in experiment.varying if name not in AVERAGED and name not in keys]
    if not keys:
        return names
    groups = runs.groupby(list(keys), dropna=False, sort=False)
    return [name for name in names if groups[name].nunique(dropna=False).max() > 1]


def shared_particles(experiment: Experiment) -> dict[str, int]:
    """Split -> the number of particles it is evaluated with; without the splits in which the runs differ."""
    found = {split: experiment.runs[name] for split, name in PARTICLES.items() if name in experiment.runs}
    # An older run may lack the setting, and a foreign one may hold anything.
    return {
        split: int(column.iloc[0])
        for split, column in found.items()
        if column.nunique(dropna=False) == 1 and pd.api.types.is_integer_dtype(column)
    }
