"""Errors that may pass: which they are, and how the work that met one is tried again.

A server restarts, a quota is raised, somebody else's file fills the disk for a minute: the same call succeeds a moment
later. Lack of memory passes too, when another process ends.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["describe_file_error", "is_out_of_memory", "is_transient", "retry"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Seconds for which a call is tried again.
RETRY_SECONDS = 60.0

#: Seconds between the first two tries, doubled up to the longest pause.
PAUSE, LONGEST_PAUSE = 0.1, 5.0

#: Errors of a full disk.
FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota used up"}

#: Errors of a file system or a machine that may pass. Those not listed, as ENOSYS or EFBIG, would occur again.
TRANSIENT = frozenset({
    *FULL,
    errno.EPERM, errno.EACCES, errno.EROFS,  # ``chattr +i``, an expired ticket, a volume that is being checked
    errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOLCK,  # a file server that restarts
    errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNRESET, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENFILE, errno.EMFILE,
})  # fmt: skip

#: Parts of the messages of torch, of CUDA's libraries and of Python about a lack of memory or processes.
OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    *("ALLOC_FAILED", "can't start new thread"),
)


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or the one that caused it, may pass by itself: of files, or a lack of memory."""
    while error is not None:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in TRANSIENT):
            return True
        error = error.__cause__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, on any device, or of processes."""
    # that of CUDA is a RuntimeError, too; that of torch's allocator on the CPU has no class of its own
    message = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or any(part in message for part in OUT_OF_MEMORY)


def retry(action: Callable[[], Result]) -> Result:
    """Call ``action`` until it raises no error that may pass, for at most a minute; one warning is logged.

    Args:
        action: what to do; it may be done in part before it fails, and is done from its beginning each time.

    Raises:
        Exception: what ``action`` raises: an error that will not pass, or the last one when the time is up.
    """
    deadline, pause = 0.0, PAUSE
    while True:
        try:
            return action()
        except Exception as error:
            if not is_transient(error) or (deadline and time.monotonic() >= deadline):
                raise
            if not deadline:
                deadline = time.monotonic() + RETRY_SECONDS
                line = describe_file_error(error) if isinstance(error, OSError) else error
                log.warning("%s; tried again for up to %.0f s", line, RETRY_SECONDS)
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
        pause = min(2 * pause, LONGEST_PAUSE)


def describe_file_error(error: OSError) -> str:
    """What is wrong with which file, in one line."""
    reason = FULL.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{reason}: {error.filename}"
