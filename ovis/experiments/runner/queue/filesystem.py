"""What a folder's file system can do: its type, as locks and file times are less reliable on a network, and a check."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ovis.experiments.runs.atomic import TEMPORARY, replace_file

__all__ = ["FileSystemError", "check_features", "filesystem_type", "is_network"]

MOUNTS = Path("/proc/self/mountinfo")

#: Types under which several hosts may see the same files.
NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4",
           "ocfs2", "orangefs", "smb2", "smb3", "smbfs", "gfs2"}  # fmt: skip


def filesystem_type(path: Path) -> str:
    """The type of the file system that ``path`` is on, or would be, as Linux calls it; empty where it does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    deepest, kind = -1, ""
    folder = path.resolve()
    for line in lines:  # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw
        words = line.split()
        if len(words) < 7 or "-" not in words[6:-1]:
            continue
        mount = Path(words[4].encode().decode("unicode_escape"))  # a space is \040
        depth = len(mount.parts)
        if folder.is_relative_to(mount) and depth >= deepest:  # of two on one folder the later one hides the other
            deepest, kind = depth, words[words.index("-", 6) + 1]
    return kind


def is_network(path: Path) -> bool:
    """Whether ``path`` is, or would be, on a network file system."""
    return filesystem_type(path) in NETWORK


class FileSystemError(RuntimeError):
    """A folder's file system lacks something that the runner needs: one line that says which folder and what."""


def check_features(folder: Path) -> None:
    """Check that files can be locked, flushed and replaced in ``folder``; nothing is left there.

    Without a feature, every run would fail in the same way.

    Raises:
        FileSystemError: one of these can't be done.
    """
    with _step(folder, "create a folder"), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as name:
        path = Path(name) / "check"
        with _step(folder, "write, flush (fsync) and rename a file"):
            for content in ("old", "new"):
                with replace_file(path) as temporary:
                    temporary.write_text(content, encoding="utf-8")
        with path.open("r+") as first, path.open("r+") as second:
            with _step(folder, "lock a file (flock)"):
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                raise FileSystemError(f"{folder}: a lock (flock) excludes nobody{_on(folder)}: choose another --root")


@contextlib.contextmanager
def _step(folder: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileSystemError(
            f"{folder}: can't {action}{_on(folder)}, which the runner needs: {error.strerror or error}; choose another "
            f"--root"
        ) from error


def _on(folder: Path) -> str:
    kind = filesystem_type(folder)
    return f" on this file system ({kind})" if kind else " on this file system"
