"""How a job takes a run: its lease, its lock and its fence, or the reason why not."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.transitions import accepts
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.fencing import hold_run, take_fence
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.status import BUSY, STALE, Record, State, read_outcome
from ovis.experiments.settings import parse_arguments

__all__ = ["Held", "hold"]

#: Seconds between two looks at a ledger that is not new enough.
LOOK = 0.5


@dataclass(frozen=True)
class Held:
    """A run of which this process has the lock and the fence.

    Attributes:
        record: as the ledger has it.
        paths: its files.
        attempt: which this process makes.
        lock: the descriptor of the open lock file.
    """

    record: Record
    paths: RunPaths
    attempt: int
    lock: int

    @property
    def seed(self) -> int:
        """The run's seed."""
        seed: int = parse_arguments(shlex.split(self.record.arg)).seed
        return seed

    def has_ended(self) -> bool:
        """Whether the training has said itself how this attempt ended, as one of an ensemble does."""
        outcome = read_outcome(self.paths)
        return outcome is not None and outcome.attempt == self.attempt


def hold(
    paths: ExperimentPaths,
    key: str,
    attempt: int,
    place: str,
    locks: contextlib.ExitStack,
    is_late: Callable[[], bool],
) -> Held | int:
    """Take a run.

    Args:
        paths: the experiment's files.
        key: the run.
        attempt: number of the attempt, as claimed.
        place: where this process is, for the lease; empty: nobody asks.
        locks: until it is closed, the run is held.
        is_late: whether to wait no more for the ledger to show that attempt.

    Returns:
        the run; or the exit code that says why not. STALE: the attempt was revoked; BUSY: another process holds the
        run; 0: it has ended already.

    Raises:
        LedgerError: the ledger can't be read.
        OSError: a file of the run can't be written.
    """
    record = _find(Queue(paths), key, attempt, is_late)
    if record is None or record.state is not State.RUNNING or record.attempt != attempt:
        return STALE
    if place and not Leases(paths).occupy(key, attempt, place):
        return STALE
    run = paths.run(record.name)
    run.folder.mkdir(exist_ok=True)
    lock = locks.enter_context(hold_run(run))
    if lock is None:
        return BUSY
    if not take_fence(run, attempt):
        return STALE
    failpoint("job.fenced")
    return 0 if _settled(run, record) else Held(record, run, attempt, lock)


def _find(queue: Queue, key: str, attempt: int, is_late: Callable[[], bool]) -> Record | None:
    """The run's record, once the ledger is as new as this job: a network file system may show one of a minute ago."""
    record = queue.find(key)
    while (record is None or record.attempt < attempt) and not is_late():
        time.sleep(LOOK)
        record = queue.find(key)
    return record


def _settled(run: RunPaths, record: Record) -> bool:
    """Whether an earlier attempt, taken for lost, has come to its end after all; else what it left is removed."""
    outcome = read_outcome(run)
    if outcome is not None and accepts(record.to_row(), outcome, record.attempt):
        return True
    run.success.unlink(missing_ok=True)
    run.outcome.unlink(missing_ok=True)
    return False
