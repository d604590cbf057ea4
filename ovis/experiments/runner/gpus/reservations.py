"""Reservations of GPUs among the managers of one user on one machine, for the first seconds of a run."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from pathlib import Path

__all__ = ["Reservations"]

#: Seconds until a run causes load on its GPU: before that, it imports torch and reads its data.
SETTLE = 30.0


class Reservations:
    """A lock file for each GPU, held for half a minute after a run was started there.

    A fresh run shows neither load nor memory, so two managers that look within the same seconds would both take the
    same GPU while others are idle. The kernel frees the lock of a manager that dies, and its runs die with
    it. It only ever helps: where the files can't be made, managers do without. Other users' managers do not see it.

    Args:
        folder: of the lock files; None: one of this user's own in the system's folder of temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"ovis-{os.getuid()}"
        self._held: dict[str, tuple[int, float]] = {}  # by GPU: the open file, and when to let go

    def is_taken(self, gpu: str) -> bool:
        """Whether another manager has just started a run on this GPU."""
        self._release()
        return gpu not in self._held and not self._try(gpu, fcntl.LOCK_SH)  # shared: lookers do not see each other

    def take(self, gpu: str) -> None:
        """Reserve a GPU on which this manager has just started a run."""
        until = time.monotonic() + SETTLE
        if gpu in self._held:
            self._held[gpu] = self._held[gpu][0], until
        else:
            self._try(gpu, fcntl.LOCK_EX, until)

    def close(self) -> None:
        """Release all reservations: the runs have ended."""
        self._release(float("inf"))

    def _release(self, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        for gpu in [gpu for gpu, (_, until) in self._held.items() if until <= now]:
            os.close(self._held.pop(gpu)[0])

    def _try(self, gpu: str, kind: int, until: float | None = None) -> bool:
        """Get the lock, and keep it if ``until`` is given; False where another manager has it."""
        try:
            file = self._open(gpu)
        except OSError:
            return True
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            return not isinstance(error, BlockingIOError)  # any other: a file system without locks
        if until is None:
            os.close(file)
        else:
            self._held[gpu] = file, until
        return True

    def _open(self, gpu: str) -> int:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        folder = self._folder.lstat()
        if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.getuid():  # put there by somebody else
            raise PermissionError(self._folder)
        name = "".join(letter if letter.isalnum() else "-" for letter in gpu)
        return os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
