"""The type of a folder's file system: on a network file system, locks and file times are less reliable."""

from __future__ import annotations

from pathlib import Path

__all__ = ["filesystem_type", "is_network"]

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
