"""What keeps two processes out of one run: its lock on one host, its fence across hosts, and its outcome as an end."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ovis.experiments.runs.atomic import write_json, write_text
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import AttemptResult, Outcome, read_outcome

__all__ = [
    "Superseded",
    "check_fence",
    "hold_run",
    "is_held",
    "publish_outcome",
    "read_fence",
    "take_fence",
    "withdraw_outcome",
]


@contextlib.contextmanager
def hold_run(run: RunPaths) -> Iterator[int | None]:
    """The run's lock, for the whole life of the job; None where another process has it."""
    handle = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield handle if _lock(handle, run) else None
    finally:
        os.close(handle)


def is_held(run: RunPaths) -> bool:
    """Whether a process is at work in the run's folder."""
    if not run.lock.exists():
        return False
    with hold_run(run) as lock:
        return lock is None


def take_fence(run: RunPaths, attempt: int) -> bool:
    """Say that from now on only this attempt may publish; False where a later one has said so already."""
    if read_fence(run) > attempt:
        return False
    write_text(run.fence, f"{attempt}\n")
    return True


def read_fence(run: RunPaths) -> int:
    """The attempt that may publish here; 0 where none ever could."""
    try:
        return int(run.fence.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0


class Superseded(RuntimeError):
    """Another attempt has taken the run's fence: this one may not publish anything more."""


def check_fence(run: RunPaths, attempt: int) -> None:
    """Return if this attempt may publish, now.

    Raises:
        Superseded: it may not.
    """
    current = read_fence(run)
    if current != attempt:
        raise Superseded(f"attempt {attempt} is superseded, {run.fence} says {current}: nothing more is written")


def publish_outcome(run: RunPaths, outcome: Outcome) -> None:
    """Write how the run ended, and the reference code's mark of success."""
    write_json(run.outcome, outcome.to_json())  # the commit point
    if outcome.status is AttemptResult.SUCCESS:
        write_text(run.success, "")


def withdraw_outcome(run: RunPaths, valid_from: int) -> None:
    """Remove an outcome that no longer counts; while a job holds the run, that is the job's to do.

    Args:
        run: the run.
        valid_from: the first attempt whose outcome counts.
    """
    if not run.folder.is_dir():
        return
    with hold_run(run) as lock:
        outcome = read_outcome(run)
        if lock is not None and (outcome is None or outcome.attempt < valid_from):
            run.success.unlink(missing_ok=True)
            run.outcome.unlink(missing_ok=True)


def _lock(handle: int, run: RunPaths) -> bool:
    """Lock the open file; False where another process has, or where the folder was moved away since it was opened."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), run.lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
