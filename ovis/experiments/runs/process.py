"""Processes: a unique name for each, whether one is still alive, and how a child dies with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import uuid
from pathlib import Path

__all__ = ["die_with_parent", "host_of", "is_stopped", "new_owner", "owner_is_dead", "parent_guard", "pid_of"]

_PR_SET_PDEATHSIG = 1


def new_owner() -> str:
    """A name for this process that no other ever has: ``host:pid:starttime:uuid``."""
    return f"{_host()}:{os.getpid()}:{_start_time(os.getpid())}:{uuid.uuid4().hex[:8]}"


def owner_is_dead(owner: str) -> bool:
    """Whether the process called ``owner`` is known to be gone; False where that is unknown (another host)."""
    host, _, rest = owner.partition(":")
    pid, _, rest = rest.partition(":")
    start = rest.partition(":")[0]
    if host != _host() or not pid.isdigit():
        return False
    now = _start_time(int(pid))
    return now == "gone" or (now != start and "unknown" not in (now, start))


def is_stopped(owner: str) -> bool:
    """Whether the process called ``owner`` is known to be stopped: by SIGSTOP, Ctrl-Z or a debugger."""
    if owner.partition(":")[0] != _host() or owner_is_dead(owner):
        return False
    return _stat(int(pid_of(owner)))[:1] in (["T"], ["t"])


def pid_of(owner: str) -> str:
    """The process id in an owner's name."""
    return owner.split(":")[1]


def host_of(owner: str) -> str:
    """The host's name in an owner's."""
    return owner.partition(":")[0].rpartition("@")[0]


class parent_guard:
    """A callable for a new child process, which is then killed when the process that made this object ends.

    Made in the parent so that everything is loaded before the fork. The signal follows the parent's *thread*: spawn
    from the main thread. On systems without it (macOS) only the run lock keeps two processes apart.
    """

    def __init__(self) -> None:
        self.parent = os.getpid()
        self.libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def __call__(self) -> None:
        if self.libc is not None:
            self.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != self.parent:  # it ended between the fork and the line above
            os.kill(os.getpid(), signal.SIGKILL)


def die_with_parent(parent: int) -> bool:
    """Ask to be killed when the parent ends, from within the child.

    Args:
        parent: process id the parent is known by.

    Returns:
        False where that parent is gone already.
    """
    guard = parent_guard()
    if guard.libc is not None:
        guard.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == parent


def _host() -> str:
    """This host, and the namespace its process ids are counted in: two containers may share a host's name."""
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}@{namespace}".replace(":", "_")


def _start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot; ``gone``, or ``unknown`` where the system doesn't say."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    fields = _stat(pid)
    if not fields:
        return "unknown"
    return "gone" if fields[0] in "ZX" else fields[19]


def _stat(pid: int) -> list[str]:
    """What Linux says about a process, beginning with its state; empty: nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
