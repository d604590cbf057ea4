"""Acquire a run for a job: its lease, its lock and its fence."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.transitions import accepts
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.fencing import clear_outcome, clear_run, lock_run, read_fence, take_fence
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.status import BUSY, STALE, Record, State, read_outcome

__all__ = ["AcquiredRun", "acquire_run"]

#: Seconds between two readings of a ledger that is not new enough.
POLL = 0.5


@dataclass(frozen=True)
class AcquiredRun:
    """A run that this process has locked and fenced.

    Attributes:
        record: its record in the ledger.
        paths: its files.
        attempt: number of the attempt that this process makes.
        lock: the descriptor of the open lock file.
    """

    record: Record
    paths: RunPaths
    attempt: int
    lock: int

    def has_outcome(self) -> bool:
        """Whether the training has published the outcome of this attempt."""
        outcome = read_outcome(self.paths)
        return outcome is not None and outcome.attempt == self.attempt


def acquire_run(
    paths: ExperimentPaths,
    key: str,
    attempt: int,
    location: str,
    locks: contextlib.ExitStack,
    is_late: Callable[[], bool],
) -> AcquiredRun | int:
    """Lock and fence a run, and clear the outcome of an earlier attempt, or all its files if the run starts afresh.

    Args:
        paths: the experiment's files.
        key: the run.
        attempt: number of the attempt, as claimed.
        location: where this process runs, written into the lease; empty: not needed.
        locks: keeps the run locked until it is closed.
        is_late: whether to stop waiting for the ledger to show that attempt.

    Returns:
        the run; or an exit code. STALE: the attempt was revoked; BUSY: another process has locked the run; 0: the run
        has ended already.

    Raises:
        LedgerError: the ledger can't be read.
        OSError: a file of the run can't be written.
    """
    record = _find(Queue(paths), key, attempt, is_late)
    if record is None or record.state is not State.RUNNING or record.attempt != attempt:
        return STALE
    if location and not Leases(paths).set_location(key, attempt, location):
        return STALE
    run = paths.run(record.name)
    run.folder.mkdir(exist_ok=True)
    lock = locks.enter_context(lock_run(run))
    if lock is None:
        return BUSY
    if read_fence(run) < record.fresh_from:
        clear_run(run)  # before the fence is taken: after a kill in between, the next attempt does it again
        failpoint("job.cleared")
    if not take_fence(run, attempt):
        return STALE
    failpoint("job.fenced")
    outcome = read_outcome(run)
    if outcome is not None and accepts(record.to_row(), outcome, record.attempt):
        return 0  # of an earlier attempt that was considered lost
    clear_outcome(run)
    return AcquiredRun(record, run, attempt, lock)


def _find(queue: Queue, key: str, attempt: int, is_late: Callable[[], bool]) -> Record | None:
    """The run's record, once the ledger is as new as this job: a network file system may show an old one."""
    record = queue.find(key)
    while (record is None or record.attempt < attempt) and not is_late():
        time.sleep(POLL)
        record = queue.find(key)
    return record
