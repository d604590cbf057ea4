"""The folder of an experiment as every report reads it: its runs, their settings, and their states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ovis.estimators.ids import parse_estimator
from ovis.experiments.runner.queue.ledger import Ledger, LedgerError
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.status import read_object
from ovis.experiments.settings import RunSettings

__all__ = [
    "Skipped",
    "canonical_estimator",
    "count_states",
    "list_experiments",
    "read_config",
    "read_runs",
    "read_state",
]

Item = TypeVar("Item")

#: Outcome of a run -> its state here; any other outcome is a failure.
ENDINGS = {"success": "done", "aborted": "aborted", "cancelled": "cancelled"}

#: States of the queue that overrule an old failure: the run is tried again.
PENDING = ("queued", "running", "cancelled")

#: Settings that only say where a run was made, which no table shows; a path need not be valid text.
PLACES = frozenset(item.name for item in fields(RunSettings))

STATE_ORDER = ("done", "running", "unfinished", "queued", "aborted", "failed", "cancelled", "unreadable")


@dataclass(frozen=True)
class Skipped:
    """A folder, or a queued run, without anything to draw.

    Attributes:
        name: of the folder.
        reason: why, in a few words.
        state: ``foreign`` (not a run), ``unreadable``, or the run's state in the queue.
    """

    name: str
    reason: str
    state: str


def list_experiments(root: Path) -> list[str]:
    """The names of the experiments in ``root``; none where it does not exist."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_runs(
    folder: Path, read: Callable[[RunPaths, str | None], Item | Skipped]
) -> tuple[list[Item], tuple[Skipped, ...]]:
    """Read every run of an experiment.

    Args:
        folder: ``<root>/<exp>``.
        read: reads a run, given its folder and its state in the queue (None: not in the queue).

    Returns:
        what was read; and the folders without anything to draw, then the queued runs that have no folder yet.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    paths = ExperimentPaths(folder)
    queue = _read_queue(paths)
    results = {run.name: read(run, queue.get(run.name)) for run in paths.runs()}
    skipped = [item for item in results.values() if isinstance(item, Skipped)]
    skipped += [Skipped(name, "no folder yet", state) for name, state in queue.items() if name not in results]
    return [item for item in results.values() if not isinstance(item, Skipped)], tuple(skipped)


def _read_queue(paths: ExperimentPaths) -> dict[str, str]:
    """Run name -> state in the queue; empty where no queue can be read; the folders suffice."""
    try:
        rows = Ledger(paths).read()
    except LedgerError:
        return {}
    return {str(row.get("name")): str(row.get("state")) for row in rows if isinstance(row, dict) and row.get("name")}


def read_config(run: RunPaths, queued: str | None) -> dict[str, Any] | Skipped:
    """The settings in a run's config.json, or why there are none."""
    if not run.config.is_file():
        # A run of the queue has no configuration between the making of its folder and its first step.
        return Skipped(run.name, "no config.json", queued or "foreign")
    try:
        config = json.loads(run.config.read_bytes())
        settings = config.get("settings") if isinstance(config, dict) else None
        if not isinstance(settings, dict):
            return Skipped(run.name, "config.json holds no settings", "foreign")
        shown = {name: settings[name] for name in settings if name not in PLACES}
        json.dumps(shown, ensure_ascii=False).encode()  # a lone surrogate could not be written into any table
    except (OSError, ValueError, RecursionError) as error:
        return Skipped(run.name, f"config.json can't be read ({type(error).__name__})", "unreadable")
    return settings


def canonical_estimator(name: str) -> str:
    """The canonical id; one of another version keeps its name."""
    try:
        return parse_estimator(name).canonical
    except ValueError:
        return name


def read_state(run: RunPaths, queued: str | None) -> tuple[str, str]:
    """The run's state, and why it failed."""
    outcome = read_object(run.outcome)
    if outcome is None:
        done = queued == "done" or run.success.is_file()
        return ("done" if done else queued or "unfinished"), ""
    state = ENDINGS.get(str(outcome.get("status")), "failed")
    if state != "done" and queued in PENDING:
        return queued, ""
    return state, str(outcome.get("message") or "")


def count_states(states: Iterable[str]) -> dict[str, int]:
    """How many runs there are in each state, foreign folders aside."""
    counts = Counter(state for state in states if state != "foreign")
    return {state: counts[state] for state in dict.fromkeys([*STATE_ORDER, *sorted(counts)]) if state in counts}
