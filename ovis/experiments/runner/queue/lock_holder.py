"""Which process has the ledger's lock: it writes a file beside it, for those that wait.

The lock itself says no more than that it is taken, and its file is emptied by everyone who opens it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path

from ovis.experiments.runs.atomic import no_link
from ovis.experiments.runs.process import host_of, is_stopped, new_owner, owner_is_dead, pid_of

__all__ = ["clear_holder", "read_holder", "write_holder"]

#: Longest command line that is shown.
WIDTH = 200


def write_holder(path: Path) -> None:
    """Write down that this process has the lock. Where that fails, the others can't say who has it."""
    holder = {"owner": new_owner(), "command": shlex.join(sys.orig_argv)[:WIDTH], "since": time.time()}
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8", opener=no_link) as file:
        json.dump(holder, file)


def clear_holder(path: Path) -> None:
    """Write down that no process has the lock."""
    with contextlib.suppress(OSError), open(path, "w", opener=no_link):
        pass


def read_holder(path: Path) -> str:
    """The process that has the lock, for a message: since when, its id, host and command line, and if it is stopped."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        owner, command, since = str(holder["owner"]), str(holder["command"]), float(holder["since"])
        moment = time.strftime("%H:%M:%S", time.localtime(since))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "an unknown process"
    if owner_is_dead(owner):  # killed while it had the lock, which another one has now
        return "an unknown process"
    shown = "".join(c if c.isprintable() else " " for c in command)[:WIDTH]
    remedy = f"; it is stopped: kill -CONT {pid_of(owner)} lets it go on" if is_stopped(owner) else ""
    return f"process {pid_of(owner)} on {host_of(owner)} since {moment}: {shown}{remedy}"
