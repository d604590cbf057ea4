"""Keep two processes from writing to one run: by its lock on one host, by its fence across hosts.

The outcome is the commit point of an attempt.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator

from ovis.experiments.runs.atomic import naming, write_json, write_text
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.retrying import retry
from ovis.experiments.runs.status import AttemptResult, Outcome, parse_attempt, read_outcome

__all__ = [
    "Superseded",
    "check_fence",
    "clear_outcome",
    "clear_run",
    "is_locked",
    "lock_run",
    "publish_outcome",
    "read_fence",
    "take_fence",
    "withdraw_outcome",
]


@contextlib.contextmanager
def lock_run(run: RunPaths) -> Iterator[int | None]:
    """Lock the run during the block. Yields the descriptor of the lock file; None if another process has the lock."""
    handle = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield handle if _lock(handle, run) else None
    finally:
        os.close(handle)


def is_locked(run: RunPaths) -> bool:
    """Whether a process has locked the run."""
    if not run.lock.exists():
        return False
    with lock_run(run) as lock:
        return lock is None


def take_fence(run: RunPaths, attempt: int) -> bool:
    """Allow only this attempt to publish from now on; False if a later attempt has taken the fence already."""
    if read_fence(run) > attempt:
        return False
    write_text(run.fence, f"{attempt}\n")
    return True


def read_fence(run: RunPaths) -> int:
    """The attempt that may publish; 0 if there was none yet.

    Raises:
        OSError: the fence can't be read.
    """
    try:
        with naming(run.fence):
            return parse_attempt(run.fence.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0


class Superseded(RuntimeError):
    """Another attempt has taken the run's fence, so this one must not publish anything more."""


def check_fence(run: RunPaths, attempt: int) -> None:
    """Check that this attempt may still publish.

    Raises:
        Superseded: another attempt has taken the fence.
    """
    current = retry(lambda: read_fence(run))
    if current != attempt:
        raise Superseded(f"attempt {attempt} is superseded, {run.fence} says {current}: nothing more is written")


def publish_outcome(run: RunPaths, outcome: Outcome) -> None:
    """Write the outcome of an attempt and, if it succeeded, an empty ``success.txt``."""
    write_json(run.outcome, outcome.to_json())  # the commit point
    if outcome.status is AttemptResult.SUCCESS:
        write_text(run.success, "")


def clear_outcome(run: RunPaths) -> None:
    """Remove the outcome of an earlier attempt. The caller must have locked the run."""
    run.success.unlink(missing_ok=True)
    run.outcome.unlink(missing_ok=True)


def clear_run(run: RunPaths) -> None:
    """Remove all files of earlier attempts except their logs. The caller must have locked the run."""
    for path in run.folder.iterdir():
        if path in (run.lock, run.fence) or path.match("log.*.txt"):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def withdraw_outcome(run: RunPaths, valid_from: int) -> None:
    """Remove an outcome that no longer counts. If a job has locked the run, this is left to the job.

    Args:
        run: the run.
        valid_from: the first attempt whose outcome counts.
    """
    if not run.folder.is_dir():
        return
    with lock_run(run) as lock:
        outcome = read_outcome(run)
        if lock is not None and (outcome is None or outcome.attempt < valid_from):
            clear_outcome(run)


def _lock(handle: int, run: RunPaths) -> bool:
    """Lock the open file; False if another process has the lock, or the folder was moved since it was opened."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), run.lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
