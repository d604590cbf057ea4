"""Reads an experiment of training runs into two tables and a list of what could not be read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.run_folders import (
    Skipped,
    canonical_estimator,
    count_states,
    read_config,
    read_runs,
    read_state,
)
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import SettingsError, TrainSettings, check_type

__all__ = ["ExperimentData", "Skipped", "read_experiment"]

#: Entries of a line of metrics.jsonl that are not metrics.
NOT_METRICS = ("step", "time", "epoch")

#: Larger steps and settings are invalid (and would not fit into an int64).
LARGEST_NUMBER = 2**53

#: Settings that a training has.
OPTIONS = frozenset(item.name for item in fields(TrainSettings))


@dataclass(frozen=True)
class ExperimentData:
    """The data of one experiment.

    Attributes:
        name: of the experiment.
        runs: one row per run with an evaluation: ``run`` (the folder's name), ``state``, ``message`` (why it failed),
            ``evaluations`` (how many), and one column per setting; estimators in their canonical form.
        curves: one row per value: ``run``, ``step``, ``time`` (seconds since the start), ``metric``, ``value``.
        skipped: what is not in these tables.
    """

    name: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    skipped: tuple[Skipped, ...] = ()

    @property
    def settings(self) -> list[str]:
        """The names of all settings."""
        return [str(column) for column in self.runs.columns if column not in RUN_COLUMNS]

    @property
    def varying(self) -> list[str]:
        """The names of the settings in which the runs differ."""
        return [name for name in self.settings if self.runs[name].nunique(dropna=False) > 1]

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics."""
        return sorted(self.curves["metric"].unique())

    @property
    def states(self) -> dict[str, int]:
        """How many runs there are in each state, foreign folders aside."""
        return count_states([*self.runs["state"], *(item.state for item in self.skipped)])


RUN_COLUMNS = ("run", "state", "message", "evaluations")

#: Columns of the tables of runs and of curves, and of those that are computed from them.
RESERVED = frozenset(
    (
        *(*RUN_COLUMNS, "step", "time", "metric", "value", "pivot", "mean", "std", "se", "low", "high"),
        *("count", "min", "seeds", "of", "runs", "done", "group"),
    )
)

#: Settings that tell runs apart. A run without one that other runs have, as of another version, can't be shown beside
#: them.
TELLING_APART = ("estimator", "iw", "id")


def read_experiment(folder: Path) -> ExperimentData:
    """Read every run of an experiment; incomplete, foreign and empty folders are listed in ``skipped``.

    Args:
        folder: ``<root>/<exp>``.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    columns = _Columns()
    rows, skipped = read_runs(folder, lambda run, queued: _read_run(run, queued, columns))
    there = [name for name in TELLING_APART if any(name in row for row in rows)]
    odd = {row["run"]: missing for row in rows if (missing := [name for name in there if name not in row])}
    rows = [row for row in rows if row["run"] not in odd]
    skipped += tuple(
        Skipped(name, f"config.json has no {', '.join(missing)}", "unreadable") for name, missing in odd.items()
    )
    runs = pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(RUN_COLUMNS))
    curves = columns.frame()
    curves = curves[~curves["run"].isin(odd)].reset_index(drop=True) if odd else curves
    return ExperimentData(folder.name, runs, curves, skipped)


def _read_run(run: RunPaths, queued: str | None, columns: _Columns) -> dict[str, Any] | Skipped:
    """A run's row, after appending its evaluations to ``columns``; or why there is nothing to draw."""
    config = _run_settings(run, queued)
    if isinstance(config, Skipped):
        return config
    state, message = read_state(run, queued)
    evaluations = columns.extend(run)
    if not evaluations:
        return Skipped(run.name, f"no evaluation{f': {message}' if message else ''}", state)
    return {"run": run.name, "state": state, "message": message, "evaluations": evaluations, **config}


def _run_settings(run: RunPaths, queued: str | None) -> dict[str, Any] | Skipped:
    """The run's settings as columns of a table, or why there are none."""
    settings = read_config(run, queued)
    if isinstance(settings, Skipped):
        return settings
    try:
        columns = {name: _check_setting(name, value) for name, value in settings.items()}
    except SettingsError as error:
        return Skipped(run.name, f"config.json: {error}", "unreadable")
    if "estimator" in columns:
        columns["estimator"] = canonical_estimator(columns["estimator"])
    return columns


def _check_setting(name: str, value: Any) -> Any:
    """A setting as runs can be grouped by it: lists, tables and huge numbers, which other versions may have, as text.

    Raises:
        SettingsError: a report has a column of this name, or a training can't have this value.
    """
    if name in RESERVED:
        raise SettingsError(f"no setting can be called {name!r}, which is a column of the reports")
    if name in OPTIONS:
        check_type(TrainSettings, name, value)
    huge = isinstance(value, int) and abs(value) > LARGEST_NUMBER
    if huge and name in OPTIONS:
        raise SettingsError(f"--{name}: must be at most {LARGEST_NUMBER}")
    return json.dumps(value, sort_keys=True) if huge or isinstance(value, (list, dict)) else value


@dataclass
class _Columns:
    """The table of curves while it is read: lists, with codes instead of names, because it may have a million rows."""

    run: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    metric: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    metrics: dict[str, int] = field(default_factory=dict)

    def extend(self, paths: RunPaths) -> int:
        """Append a run's evaluations in order of their steps; returns how many there are."""
        code = len(self.runs)
        self.runs.append(paths.name)
        # After a resume a step may come twice: the later line is of the run that went on.
        lines = {_step(line): line for line in _read_lines(paths.metrics)}
        lines.pop(-1, None)
        for step, line in sorted(lines.items()):
            time = _number(line.get("time"))
            values = {name: _number(raw) for name, raw in line.items() if name not in NOT_METRICS}
            for name, value in values.items():
                if value is not None and (name in self.metrics or _is_text(name)):
                    self.run.append(code)
                    self.step.append(step)
                    self.time.append(math.nan if time is None else time)
                    self.metric.append(self.metrics.setdefault(name, len(self.metrics)))
                    self.value.append(value)
        return len(lines)

    def frame(self) -> pd.DataFrame:
        codes = np.array(self.run, dtype=np.int64), np.array(self.metric, dtype=np.int64)
        return pd.DataFrame(
            {
                "run": pd.Categorical.from_codes(codes[0], pd.Index(self.runs, dtype=str)),
                "step": np.array(self.step, dtype=np.int64),
                "time": np.array(self.time, dtype=np.float64),
                "metric": pd.Categorical.from_codes(codes[1], pd.Index(list(self.metrics), dtype=str)),
                "value": np.array(self.value, dtype=np.float64),
            }
        )


def _read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a file; incomplete lines, which a kill may leave, are skipped."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    for line in content.splitlines():
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict):
            yield data


def _step(line: Mapping[str, Any]) -> int:
    """The step of an evaluation, -1 where it has none."""
    step = _number(line.get("step"))
    return int(step) if step is not None and 0 <= step < LARGEST_NUMBER else -1


def _is_text(name: str) -> bool:
    """Whether it can be written to a file: not with half a character, a lone surrogate, in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: Any) -> float | None:
    """A metric's value: null, as JSON writes NaN, is NaN; None if it is not a number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
