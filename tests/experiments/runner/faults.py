"""File errors in other processes, for as long as a test wants: see faults.c, which they preload."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

__all__ = ["ERRORS", "FUNCTIONS", "Faults", "has_compiler"]

#: The functions that can fail, in the order of faults.c.
FUNCTIONS = ("write", "fsync", "rename", "open", "mkdir", "unlink", "utime")

ERRORS = (errno.EPERM, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOSPC, errno.EDQUOT)

LAYOUT = struct.Struct("diil1000s")


def has_compiler() -> bool:
    return shutil.which("cc") is not None


class Faults:
    """Lets calls of other processes fail that concern files below ``root``.

    Args:
        folder: for the compiled library and the memory that the processes share.
        root: an absolute path.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        source, self.library = Path(__file__).with_name("faults.c"), folder / "faults.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library, source, "-ldl"], check=True)
        self.shared, self.root = folder / "fault", root
        self.shared.write_bytes(bytes(LAYOUT.size))
        with self.shared.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), LAYOUT.size)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes."""
        return {"LD_PRELOAD": str(self.library), "OVIS_FAULT_FILE": str(self.shared)}

    @property
    def count(self) -> int:
        """How many calls have failed so far."""
        return int(LAYOUT.unpack(self._memory[:])[3])

    def inject(self, function: str, error: int, seconds: float) -> None:
        """Let one of FUNCTIONS fail with this error from now on, for some seconds."""
        values = (time.time() + seconds, error, FUNCTIONS.index(function), self.count, os.fsencode(self.root))
        self._memory[:] = LAYOUT.pack(*values)
