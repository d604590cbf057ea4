"""Points where a test can kill the process, to check that the next one recovers."""

from __future__ import annotations

import os
import signal
from collections import Counter

__all__ = ["failpoint"]

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process by SIGKILL if the environment names this point; otherwise do nothing.

    ``OVIS_FAILPOINT=claim.leased`` kills the first process that comes by, ``=ledger.temporary:3`` one that does so for
    the third time. ``OVIS_FAILPOINT_MARK``, a file's path, makes it happen once: the file is created first, and nothing
    happens where it is there already.

    Args:
        name: name of this point.
    """
    wanted, _, count = os.environ.get("OVIS_FAILPOINT", "").partition(":")
    if wanted != name:
        return
    _passed[name] += 1
    if _passed[name] < int(count or 1):
        return
    mark = os.environ.get("OVIS_FAILPOINT_MARK")
    if mark is not None:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
