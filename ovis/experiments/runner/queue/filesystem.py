"""Which file system a folder is on: locks and times of a network's are not what a local disk's are."""

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
    best, found = -1, ""
    place = path.resolve()
    for line in lines:  # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw
        words = line.split()
        if len(words) < 7 or "-" not in words[6:-1]:
            continue
        mount = Path(words[4].encode().decode("unicode_escape"))  # a space is \040
        depth = len(mount.parts)
        if place.is_relative_to(mount) and depth >= best:  # of two on one place the later one hides the other
            best, found = depth, words[words.index("-", 6) + 1]
    return found


def is_network(path: Path) -> bool:
    """Whether ``path`` is, or would be, on a network file system."""
    return filesystem_type(path) in NETWORK
