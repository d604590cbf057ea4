"""Cache of prepared data sets, one file each, so that later runs start faster."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

__all__ = ["Arrays", "cached"]

log = logging.getLogger(__name__)

#: Part of the file names. Increase it when the preparation of a data set changes.
VERSION = 1

SPLITS = ("train", "valid", "test")

Arrays = Mapping[str, NDArray[np.uint8]]


def cached(root: Path, name: str, make: Callable[[Path], Arrays]) -> Arrays:
    """The arrays of a data set from ``ROOT/cache/NAME-vVERSION.npz``, which is written if it is missing.

    Of several processes that start on an empty cache, one prepares the data and the others wait. Files are written
    atomically, with a checksum. A file whose content is not what was written, or which has no checksum, is replaced: it
    is damaged, or something else has written it. If the folder can't be written, nothing is cached.

    Args:
        root: the data folder.
        name: name of the data set.
        make: prepares the arrays from the data folder.

    Raises:
        DataError: raised by ``make``.
    """
    path = root / "cache" / f"{name}-v{VERSION}.npz"
    arrays = _read(path, name)
    if arrays is not None:
        return arrays
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, name)
    except OSError as error:
        log.warning("%s is not cached: %s: %s", name, path.parent, error.strerror or error)
        return make(root)
    try:
        arrays = _read(path, name)  # another process may have written it meanwhile
        if arrays is None:
            arrays = make(root)
            _write(path, name, arrays)
        return arrays
    finally:
        lock.release()


def _acquire(lock: FileLock, name: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which prepares %s", name)
        lock.acquire()


def _read(path: Path, name: str) -> Arrays | None:
    """The cached arrays; None if the file is missing, or is not as it was written."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {split: file[split] for split in SPLITS}
            if str(file["checksum"]) != _checksum(name, arrays):
                raise ValueError("its content is not what was written")
        return arrays
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        # RuntimeError: a flipped bit can mark an entry as encrypted or as written by another version of zip
        log.warning("%s can't be used, it is made again: %s", path, error)
        return None


def _checksum(name: str, arrays: Arrays) -> str:
    """SHA-256 of the data set's name and of the types, shapes and values of its arrays."""
    hashed = hashlib.sha256(f"{name} {VERSION}".encode())
    for split in SPLITS:
        array = np.ascontiguousarray(arrays[split])
        hashed.update(f" {split} {array.dtype} {array.shape} ".encode())
        hashed.update(array.data)
    return hashed.hexdigest()


def _write(path: Path, name: str, arrays: Arrays) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            train, valid, test = (arrays[split] for split in SPLITS)
            np.savez(file, train=train, valid=valid, test=test, checksum=np.array(_checksum(name, arrays)))
        os.replace(part, path)
    except OSError as error:
        log.warning("%s is not written: %s", path, error.strerror or error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
