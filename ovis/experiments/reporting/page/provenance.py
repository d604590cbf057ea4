"""Provenance of runs: their options, and the code and the machine that executed them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovis.experiments.reporting.figures.series import value_text
from ovis.experiments.reporting.page.content import Provenance, Setting
from ovis.experiments.runner.queue.ledger import SNAPSHOTS, Ledger, LedgerError
from ovis.experiments.runner.snapshot import Snapshot
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import read_object
from ovis.experiments.settings import TrainSettings

__all__ = ["experiment_description", "list_environment", "list_settings", "read_provenance"]

#: The first of January 10000, in seconds since 1970.
END_OF_TIME = 253_402_300_800

#: Entries of a run's config.json about its environment, and their labels.
RECORDED = {
    "version": "ovis",
    "python": "Python",
    "torch": "PyTorch",
    "device": "device",
    "hostname": "machine",
}


def read_provenance(folder: Path, runs: Collection[str] | None = None, kind: Any = TrainSettings) -> Provenance:
    """Read the provenance of an experiment's runs; files that can't be read are skipped.

    Args:
        folder: of the experiment.
        runs: names of the run folders that count; None: all.
        kind: class of the runs' options, for their defaults.
    """
    paths = ExperimentPaths(folder)
    read = [read_object(run.config) for run in paths.runs() if runs is None or run.name in runs]
    configurations = [each for each in read if each is not None and isinstance(each.get("settings"), dict)]
    if not configurations:
        return Provenance()
    return Provenance(
        list_settings([configuration["settings"] for configuration in configurations], kind),
        (*_code(paths), *list_environment(configurations)),
    )


def experiment_description(folder: Path) -> str:
    """The description of the experiment file as it was when the runs were queued; empty where none was kept."""
    return str((read_object(ExperimentPaths(folder).experiment) or {}).get("description") or "")


def list_settings(runs: Sequence[Mapping[str, Any]], kind: Any = TrainSettings) -> tuple[Setting, ...]:
    """The options that are part of a run's identity.

    Args:
        runs: the options of each run.
        kind: their class, for their defaults.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}
    where = {name for name, item in fields.items() if not item.metadata["identity"]}
    names = [name for name in dict.fromkeys([*fields, *(name for run in runs for name in run)]) if name not in where]
    settings = []
    for name in names:
        values = _distinct(run[name] for run in runs if name in run)
        if values:
            settings.append(Setting(name, values, value_text(fields[name].default) if name in fields else ""))
    return tuple(settings)


def _distinct(values: Iterable[Any]) -> tuple[str, ...]:
    """The distinct values as text; numbers are sorted."""
    by_text = {value_text(value): value for value in values}

    def order(text: str) -> tuple[bool, float, str]:
        value = by_text[text]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return not number, float(value) if number else 0.0, text

    return tuple(sorted(by_text, key=order))


def _code(paths: ExperimentPaths) -> list[tuple[str, str]]:
    """The snapshots of the code that executed the runs of the queue."""
    try:
        rows = Ledger(paths).read(SNAPSHOTS)
    except LedgerError:
        return []
    return [("code", _described(Snapshot.from_row(row))) for row in rows]


def _described(snapshot: Snapshot) -> str:
    changes = " with changes" if snapshot.dirty else ""
    origin = f"commit {snapshot.commit[:12]}{changes}" if snapshot.commit else f"version {snapshot.version}"
    return f"{origin}, as of {_minute(snapshot.time)}"


def list_environment(configurations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Label and value of what the runs recorded of their environment, keyed as in :data:`RECORDED`."""
    rows = []
    for name, label in RECORDED.items():
        counts = Counter(str(item[name]) for item in configurations if item.get(name))
        if counts:
            rows.append(
                (label, ", ".join(_counted(text, n) if len(counts) > 1 else text for text, n in counts.items()))
            )
    started = [minute for item in configurations if (minute := _minute(item.get("started")))]
    if started:
        rows.append(("started", " to ".join(dict.fromkeys((min(started), max(started))))))
    return rows


def _counted(text: str, n: int) -> str:
    return f"{text} ({n} run{'' if n == 1 else 's'})"


def _minute(seconds: object) -> str:
    """The time in minutes, in a form that sorts by time; empty where it is none."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < END_OF_TIME:
        return ""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
