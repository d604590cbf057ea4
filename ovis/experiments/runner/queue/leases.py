"""Leases: one empty file per running attempt, whose mtime is the job's last sign of life."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Container
from pathlib import Path

from ovis.experiments.runs.atomic import TEMPORARY
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["Leases"]

#: Seconds after which a file that nobody claims is stale.
STALE_AFTER = 60.0


class Leases:
    """The leases of one experiment.

    Ages compare two mtimes of the same file system, so that hosts whose clocks differ agree on them.

    Args:
        paths: the experiment's files.
    """

    def __init__(self, paths: ExperimentPaths) -> None:
        self.paths = paths
        self._seen: dict[str, tuple[float, float]] = {}  # mtime, and the monotonic clock when it was first seen

    def create(self, key: str, attempt: int) -> None:
        """Make the lease; before the claim is written, so that a running record always has one."""
        self.paths.leases.mkdir(exist_ok=True)
        self.paths.lease(key, attempt).touch()

    def beat(self, key: str, attempt: int) -> bool:
        """Renew the lease: called by the job.

        Returns:
            False where the lease was revoked.

        Raises:
            OSError: it could not be renewed, for a reason that may pass. The ledger is missing, too: the file system
                may be unmounted.
        """
        try:
            os.utime(self.paths.lease(key, attempt))
        except FileNotFoundError:
            if self.paths.ledger.exists():
                return False
            raise
        return True

    def set_location(self, key: str, attempt: int, location: str) -> bool:
        """Write into the lease where the attempt runs: called by the job as it begins.

        Returns:
            False where the lease was revoked.

        Raises:
            OSError: it could not be written, for a reason that may pass.
        """
        try:
            handle = os.open(self.paths.lease(key, attempt), os.O_WRONLY)  # without O_CREAT: a revoked one is not made
        except FileNotFoundError:
            return False
        with open(handle, "w", encoding="utf-8") as file:
            file.write(location)
        return True

    def location(self, key: str, attempt: int) -> str:
        """Where the attempt runs; empty: it has not begun, or did not write it."""
        try:
            return self.paths.lease(key, attempt).read_text(encoding="utf-8")
        except OSError:
            return ""

    def silent(self, key: str, attempt: int, ttl: float, confirm: float) -> bool:
        """Whether an attempt had no heartbeat for ``ttl`` seconds, ``confirm`` of them while this process watched.

        A clock that is set forward, or a machine that slept, makes every lease look old at once. Jobs that live renew
        theirs within ``confirm`` seconds of the monotonic clock, which neither of the two moves.
        """
        path = self.paths.lease(key, attempt)
        try:
            mtime = path.stat().st_mtime
        except FileNotFoundError:
            return True
        seen = self._seen.get(path.name)
        if seen is None or seen[0] != mtime:
            seen = self._seen[path.name] = (mtime, time.monotonic())
        # The monotonic clock first: reading the file system's takes a write.
        return time.monotonic() - seen[1] >= confirm and self._now() - mtime > ttl

    def revoke(self, key: str, attempt: int) -> None:
        """Revoke the lease: a job that is still alive stops at its next heartbeat."""
        path = self.paths.lease(key, attempt)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, path.with_name(path.name + ".expired"))

    def release(self, key: str, attempt: int) -> None:
        """Remove the lease of an attempt that has ended."""
        self.paths.lease(key, attempt).unlink(missing_ok=True)

    def remove_stale(self, running: Container[str]) -> None:
        """Remove what a kill may have left behind: leases without a job, temporary files, run folders in the trash.

        Args:
            running: names ``<key>.<attempt>`` of the leases in use.
        """
        for path in self.paths.all_leases():
            if path.name not in running and self.is_stale(path):
                path.unlink(missing_ok=True)
        for path in self.paths.folder.glob(f"{TEMPORARY}*"):
            if not path.is_dir() and self.is_stale(path):
                path.unlink(missing_ok=True)
        for path in self.paths.folder.glob(self.paths.trash("*").name):
            if self.is_stale(path):
                shutil.rmtree(path, ignore_errors=True)

    def is_stale(self, path: Path) -> bool:
        """Whether nothing has touched this path, that nobody claims, for a minute."""
        try:
            return self._now() - path.stat().st_mtime > STALE_AFTER
        except FileNotFoundError:
            return False

    def _now(self) -> float:
        """The file system's own clock."""
        self.paths.leases.mkdir(exist_ok=True)
        clock = self.paths.leases / ".now"
        clock.touch()
        return clock.stat().st_mtime
