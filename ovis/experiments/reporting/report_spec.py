"""The content of a report: from the options or, without them, the experiment's preset, or else from the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.select import (
    check_keys,
    check_metrics,
    check_pivots,
    differing_settings,
    how_evaluated,
    mixed_settings,
)
from ovis.experiments.reporting.metrics import Evaluated, Metric, Pivot, make_metric, parse_limits, parse_pivot
from ovis.experiments.reporting.presets import Preset

__all__ = ["ReportRequest", "ReportSpec", "make_report_spec"]

#: Defaults; what the runs lack is left out.
KEYS = ("dataset", "estimator", "iw")
METRICS = ("train:loss/L_k", "test:loss/L_k", "train:grads/snr")
PIVOTS = (
    "max:test:loss/L_k",
    "last:test:loss/L_k",
    "max:train:loss/L_k",
    "last:train:loss/L_k",
    "mean:train:grads/snr",
    "mean:train:loss/ess",
    "max:time",
)


Item = TypeVar("Item", Metric, Pivot)


@dataclass(frozen=True)
class ReportRequest:
    """The command-line options that choose what to show; empty ones are taken from the preset.

    Attributes:
        merge_args: settings that make a series of their own; None: those in which its runs differ.
    """

    keys: Sequence[str] = ()
    metrics: Sequence[str] = ()
    detailed_metrics: Sequence[str] = ()
    pivot_metrics: Sequence[str] = ()
    ylims: Sequence[str] = ()
    merge_args: Sequence[str] | None = None


@dataclass(frozen=True)
class ReportSpec:
    """What a report shows.

    Attributes:
        keys: settings that distinguish groups of runs, those that were merged into the series among them.
        metrics: of the curves.
        detailed: of the detailed plots; may be empty.
        pivots: columns of the table, and panels against K.
        drawn: of these, those that get a panel.
        limits: metric -> limits of its axis.
        evaluated: how the metrics were evaluated.
        notes: remarks for readers.
    """

    keys: list[str]
    metrics: list[Metric]
    detailed: list[Metric]
    pivots: list[Pivot]
    drawn: list[Pivot]
    limits: dict[str, tuple[float, float]]
    evaluated: Evaluated
    notes: list[str]


def make_report_spec(experiment: ExperimentData, request: ReportRequest, preset: Preset) -> ReportSpec:
    """Choose what to show.

    Args:
        experiment: what was read.
        request: the options.
        preset: what the experiment's own figure shows.

    Raises:
        ValueError: a requested setting or metric that no run has.
    """
    keys, notes = _keys(experiment, request)
    evaluated = how_evaluated(experiment)
    notes += _notes_on_metrics(experiment, evaluated, request)
    limits = _limits(request.ylims or preset.ylims)
    notes += _notes_on_limits(experiment, limits if request.ylims else {})
    pivots = _pivots(experiment, evaluated, request, preset)
    return ReportSpec(
        keys=keys,
        metrics=_curves(experiment, evaluated, request.metrics, preset.metrics or METRICS, "--metrics"),
        detailed=_curves(
            experiment, evaluated, request.detailed_metrics, preset.detailed_metrics, "--detailed_metrics"
        ),
        pivots=pivots,
        drawn=pivots if request.pivot_metrics else _one_each(pivots),
        limits=limits,
        evaluated=evaluated,
        notes=notes,
    )


def _keys(experiment: ExperimentData, request: ReportRequest) -> tuple[list[str], list[str]]:
    """The settings that distinguish groups, and notes on what is averaged or drawn separately."""
    keys = check_keys(experiment, request.keys or _default_keys(experiment))
    if request.merge_args is None:
        merged = differing_settings(experiment, keys)
        about = [f"runs of one series differ in {', '.join(merged)}: drawn as series of their own"] if merged else []
        return [*keys, *merged], about
    merged = check_keys(experiment, request.merge_args, "--merge_args")
    keys = list(dict.fromkeys([*keys, *merged]))
    mixed = mixed_settings(experiment, keys)
    about = [f"runs that are averaged differ in {', '.join(mixed)}: tell them apart with --merge_args or --keys"]
    return keys, about if mixed else []


def _default_keys(experiment: ExperimentData) -> list[str]:
    there = [key for key in KEYS if key in experiment.settings]
    return [key for key in there if key != "dataset" or key in experiment.varying]


def _notes_on_metrics(experiment: ExperimentData, evaluated: Evaluated, request: ReportRequest) -> list[str]:
    """Notes on requested metrics that no run has, or that have one value per run."""
    present = experiment.metrics
    curves = dict.fromkeys([*request.metrics, *request.detailed_metrics])
    asked = dict.fromkeys([*curves, *(parse_pivot(text).metric.name for text in request.pivot_metrics)])
    absent = [name for name in asked if name not in present and name != "time"]
    points = [name for name in curves if name in evaluated.once]
    notes = {
        "no run has measured this yet": absent,
        "measured once per run, with the best parameters, so a point and no curve": points,
    }
    return [f"{note}: {', '.join(names)}" for note, names in notes.items() if names]


def _limits(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Metric -> limits of its axis.

    Raises:
        ValueError: not of this form, or a logarithmic axis would have to reach zero.
    """
    limits = dict(parse_limits(text) for text in texts)
    for name, (low, _) in limits.items():
        if make_metric(name).kind.log and low <= 0:
            raise ValueError(f"--ylims: {name} has a logarithmic axis: its lower limit must be above 0, got {low:g}")
    return limits


def _notes_on_limits(experiment: ExperimentData, limits: Mapping[str, tuple[float, float]]) -> list[str]:
    """Notes on limits that are not used: a panel ignores limits that contain none of its values."""
    unused = [name for name in limits if name not in experiment.metrics]
    values = {name: experiment.curves.loc[experiment.curves["metric"] == name, "value"] for name in limits}
    empty = [name for name, ends in limits.items() if name not in unused and not values[name].between(*ends).any()]
    notes = {"--ylims of metrics that no run has": unused, "--ylims that hold no value, so not used": empty}
    return [f"{note}: {', '.join(names)}" for note, names in notes.items() if names]


def _curves(
    experiment: ExperimentData, evaluated: Evaluated, asked: Sequence[str], default: Sequence[str], option: str
) -> list[Metric]:
    """The metrics that are drawn against steps: the requested ones, or those of the default that have curves."""
    if asked:
        return _refuse_nothing(check_metrics(experiment, asked, option), experiment, option)

    def has_curve(name: str) -> bool:
        return name in experiment.metrics and name not in evaluated.once

    names = [name for usual in default if (name := _stand_in(usual, has_curve))]
    if default and not names:
        names = experiment.metrics[: len(METRICS)]
    return check_metrics(experiment, names)


def _pivots(experiment: ExperimentData, evaluated: Evaluated, request: ReportRequest, preset: Preset) -> list[Pivot]:
    """The columns of the table: the requested ones, or those of the default that the runs have."""
    if request.pivot_metrics:
        asked = check_pivots(experiment, map(parse_pivot, request.pivot_metrics))
        return _refuse_nothing(asked, experiment, "--pivot_metrics")

    def is_there(name: str) -> bool:
        return name in experiment.metrics or name == "time"

    for default in (preset.pivot_metrics, PIVOTS):
        names: list[str] = []
        for pivot in map(parse_pivot, default):
            name = _stand_in(pivot.metric.name, is_there)
            # All aggregates of a metric that is measured once are one number.
            if name and not (name in evaluated.once and any(text.endswith(f":{name}") for text in names)):
                names.append(f"{pivot.aggregate}:{name}")
        if names:
            break
    return check_pivots(experiment, map(parse_pivot, names))


def _stand_in(name: str, usable: Callable[[str], bool]) -> str:
    """The metric, or that of the validation set where the test set is measured only at the end; empty: neither."""
    other = f"valid:{name.removeprefix('test:')}" if name.startswith("test:") else ""
    return next((each for each in (name, other) if each and usable(each)), "")


def _refuse_nothing(items: list[Item], experiment: ExperimentData, option: str) -> list[Item]:
    if not items:
        raise ValueError(f"{option}: no run has measured any of these; there: {', '.join(experiment.metrics)}")
    return items


def _one_each(pivots: Sequence[Pivot]) -> list[Pivot]:
    """The first pivot of each metric, without times; the others would give similar panels."""
    first = {pivot.metric.name: pivot for pivot in reversed(pivots)}
    return [pivot for pivot in pivots if first[pivot.metric.name] == pivot and pivot.metric.name != "time"]
