"""Files and folders that no run of the queue needs: list and remove them.

Each is judged twice: when it is listed, without a lock; and when it is removed, within a transaction, where nobody adds
or claims a run. There folders are only moved aside; they are deleted after it.

A folder without a record may be a training that somebody started by hand, or all that is left of a lost queue. Its
checkpoint can be the only copy of days of work, so it is removed only on request, and never while a process works in
it. A folder without a mark of the runner, i.e. a lock or a fence, is left alone.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ovis.experiments.runner.queue.ledger import SNAPSHOTS, Row
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.atomic import TEMPORARY
from ovis.experiments.runs.fencing import is_locked, lock_run
from ovis.experiments.runs.identity import KEY_LENGTH
from ovis.experiments.runs.paths import EVENTS, ExperimentPaths, RunPaths
from ovis.experiments.runs.status import AttemptResult, State, read_outcome

__all__ = ["Leftover", "LeftoverKind", "find_leftovers", "remove_leftovers"]

#: The name of a run's folder, by which an empty one is recognized.
RUN_NAME = re.compile(rf".+-[0-9a-f]{{{KEY_LENGTH}}}")

#: What an attempt writes before it has any results. Every other file may be a result, as each study has files of its
#: own.
WITHOUT_RESULTS = re.compile(rf"log\.\d+\.txt|{re.escape(TEMPORARY)}.*|{re.escape(EVENTS)}\..*")


class LeftoverKind(str, Enum):
    """Kinds of leftovers."""

    LEASE = "lease of no running attempt"
    TEMPORARY = "temporary file"
    TRASH = "folder on its way out"
    SNAPSHOT = "copy of the code that no run uses"
    FOLDER = "folder without a record, and without results"
    RESULTS = "folder without a record, with results"
    BUSY = "folder without a record, a process is at work in it"
    FOREIGN = "folder that is not a run's"

    @property
    def stays(self) -> bool:
        """Whether it is never removed."""
        return self in (LeftoverKind.BUSY, LeftoverKind.FOREIGN)


@dataclass(frozen=True)
class Leftover:
    """A file or folder that no run of the queue needs."""

    path: Path
    kind: LeftoverKind


def find_leftovers(queue: Queue) -> list[Leftover]:
    """List what is left over, without the queue's lock.

    Raises:
        LedgerError: the queue can't be read.
        OSError: a folder can't be read.
    """
    known = _Known.of(queue.ledger.read(), queue.ledger.read(SNAPSHOTS))
    candidates = _candidates(queue.paths, known)
    return [Leftover(path, kind) for path in candidates if (kind := _judge(queue, known, path)) is not None]


def remove_leftovers(queue: Queue, leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Remove leftovers, except those that are none any more and those that always stay.

    Returns:
        those removed.

    Raises:
        LedgerError: the queue can't be read or locked; nothing was removed.
        OSError: one can't be removed.
    """
    trash = queue.paths.trash(uuid.uuid4().hex[:8])
    removed = []
    with queue.ledger.transaction() as transaction:
        known = _Known.of(transaction.rows.values(), transaction.snapshots)
        trash.mkdir()
        for number, leftover in enumerate(leftovers):
            same = not leftover.kind.stays and _judge(queue, known, leftover.path) is leftover.kind
            if same and _take_away(leftover, trash / str(number)):
                removed.append(leftover)
    for folder in (trash, *(leftover.path for leftover in removed if leftover.kind is LeftoverKind.TRASH)):
        shutil.rmtree(folder, ignore_errors=True)
    return removed


@dataclass(frozen=True)
class _Known:
    """The ledger's names of runs, of running runs, of leases in use, and ids of snapshots."""

    names: frozenset[str]
    running: frozenset[str]
    leases: frozenset[str]
    snapshots: frozenset[str]

    @classmethod
    def of(cls, rows: Iterable[Row], snapshots: Iterable[Row]) -> _Known:
        rows = list(rows)
        running = [row for row in rows if row["state"] == State.RUNNING.value]
        return cls(
            frozenset(row["name"] for row in rows),
            frozenset(row["name"] for row in running),
            frozenset(f"{row['key']}.{row['attempt']}" for row in running),
            frozenset(row["id"] for row in snapshots),
        )


def _candidates(paths: ExperimentPaths, known: _Known) -> Iterator[Path]:
    """Every path that may be left over."""
    yield from sorted(paths.all_leases())
    yield from sorted(paths.all_snapshots())
    yield from sorted(paths.folder.glob(f"{TEMPORARY}*"))
    yield from sorted(paths.folder.glob(paths.trash("*").name))
    for run in paths.runs():
        if run.name not in known.names:
            yield run.folder
        elif run.name not in known.running:
            yield from sorted(run.folder.glob(f"{TEMPORARY}*"))


def _judge(queue: Queue, known: _Known, path: Path) -> LeftoverKind | None:
    """The kind of leftover at this path; None: it is not a leftover, or too young to decide."""
    paths, parent = queue.paths, path.parent
    if parent == paths.leases:
        return LeftoverKind.LEASE if path.name not in known.leases and queue.leases.is_stale(path) else None
    if parent == paths.snapshots:
        return LeftoverKind.SNAPSHOT if path.name not in known.snapshots and queue.leases.is_stale(path) else None
    if path.name.startswith(TEMPORARY):
        if path.is_dir() or parent.name in known.running or not queue.leases.is_stale(path):
            return None
        return None if parent != paths.folder and is_locked(RunPaths(parent)) else LeftoverKind.TEMPORARY
    if parent != paths.folder or path.name in known.names or not path.is_dir():
        return None
    return LeftoverKind.TRASH if path.name.startswith(paths.trash("").name) else _judge_folder(queue, RunPaths(path))


def _judge_folder(queue: Queue, run: RunPaths) -> LeftoverKind | None:
    """The kind of a folder without a record."""
    if run.folder.is_symlink():
        return LeftoverKind.FOREIGN
    if is_locked(run):
        return LeftoverKind.BUSY
    entries = _entries(run.folder)
    if not entries and RUN_NAME.fullmatch(run.name):  # perhaps of a process that is about to take its lock
        return LeftoverKind.FOLDER if queue.leases.is_stale(run.folder) else None
    if not (run.lock.exists() or run.fence.exists()):
        return LeftoverKind.FOREIGN
    outcome = read_outcome(run)
    success = run.success.exists() or (outcome is not None and outcome.status is AttemptResult.SUCCESS)
    results = success or any(_may_be_result(run, path) for path in entries)
    return LeftoverKind.RESULTS if results else LeftoverKind.FOLDER


def _may_be_result(run: RunPaths, path: Path) -> bool:
    without = (run.lock, run.fence, run.config, run.outcome, run.progress)
    return path.is_dir() or not (path in without or WITHOUT_RESULTS.fullmatch(path.name))


def _take_away(leftover: Leftover, aside: Path) -> bool:
    """Remove a file, move a folder aside; False where a process has begun to work in it."""
    path = leftover.path
    if leftover.kind is LeftoverKind.TRASH:
        return True
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    if leftover.kind is LeftoverKind.SNAPSHOT:
        path.rename(aside)
        return True
    with lock_run(RunPaths(path)) as lock:  # a later process finds no folder, and reports that
        if lock is not None:
            path.rename(aside)
        return lock is not None


def _entries(folder: Path) -> Sequence[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
