"""Atomic writing of files: a reader sees the old or the new content, also after a kill or with a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovis.experiments.runs.retrying import retry

__all__ = ["append", "naming", "no_link", "replace_file", "sweep", "write_bytes", "write_json", "write_text"]

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def replace_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file written there replaces ``path`` when the block ends.

    Args:
        path: the file to create or replace.
        durable: flush the content and the folder to the disk before returning (outcomes, checkpoints).

    Raises:
        OSError: nothing was replaced, and the temporary file is gone; its ``filename`` is ``path``, if nothing else.
    """
    with naming(path):
        handle, name = tempfile.mkstemp(prefix=TEMPORARY + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
            if durable:
                _flush(temporary)
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide the file from the group
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # as little as the file itself could be written
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        with contextlib.suppress(OSError):  # the file is replaced by now; not every file system can flush a folder
            _flush(path.parent)


def write_bytes(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """Replace the content of ``path``, whole or not at all; if it must be durable, errors that may pass are waited for.

    Raises:
        OSError: nothing was replaced.
    """

    def write() -> None:
        with replace_file(path, durable) as temporary:
            temporary.write_bytes(content)

    retry(write) if durable else write()


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace the content of ``path`` by ``text``: see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"), durable)


def write_json(path: Path, data: Any, durable: bool = True, indent: int | None = 2) -> None:
    """Replace the content of ``path`` by JSON, compact where ``indent`` is None: see :func:`write_bytes`."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(data, indent=indent, separators=separators) + "\n", durable)


def append(path: Path, data: bytes) -> None:
    """Add ``data`` at the end of a file and flush it to the disk. Errors that may pass are waited for.

    A kill may leave a part of the data, an error does not, unless the file can't even be shortened. Nothing else may
    append to the file meanwhile.

    Raises:
        OSError: nothing was added; its ``filename`` is ``path``.
    """
    end: int | None = None

    def add() -> None:
        nonlocal end
        with naming(path), open(path, "ab", buffering=0, opener=no_link) as file:
            size = file.seek(0, os.SEEK_END)
            end = size if end is None else end
            try:
                if size > end:
                    os.ftruncate(file.fileno(), end)  # the part that the last try has left
                left = data
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise

    retry(add)


def no_link(path: str, flags: int) -> int:
    """An ``opener`` for files that are appended to: writing through a symbolic link would change a file elsewhere.

    Raises:
        OSError: the file can't be opened, or is a symbolic link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "is a symbolic link, which is not followed"
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block that does not say which file it is about (a full disk's doesn't) say ``path``.

    If not even the folder of its folder is there, their file system may be unmounted: this is an error that may pass.
    """
    try:
        yield
    except FileNotFoundError as error:
        if path.parent.parent.exists():
            raise
        raise OSError(errno.ESTALE, "its folder is not there", str(path)) from error
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sweep(folder: Path) -> None:
    """Remove the temporary files of writers that were killed. Only for a process that is alone in the folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
