"""Downloads with torchvision: missing files of MNIST and Fashion-MNIST, kept only if their checksums are right.

torchvision checks MD5 sums, but it may fall back from https to http, the only protocol it has for Fashion-MNIST. So a
file enters the data folder only with the checksum of its :class:`~ovis.experiments.datasets.files.Source`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from ovis.experiments.datasets.files import PATIENCE, DataError, Source, find, verified

__all__ = ["download_missing"]

log = logging.getLogger(__name__)


def download_missing(root: Path, name: str, sources: Sequence[Source]) -> None:
    """Download missing files into the data folder, packed. torchvision is imported only if a file is missing.

    torchvision downloads into ``ROOT/.NAME.part``; files are moved from there once they are verified.

    Args:
        root: the data folder.
        name: torchvision's class, ``MNIST`` or ``FashionMNIST``.
        sources: the files that are needed, all in ``ROOT/NAME/raw``.

    Raises:
        DataError: torchvision can't be imported or can't download them, or a file differs from the published one.
    """
    missing = [source for source in sources if find(root, source) is None]
    if not missing:
        return
    part = root / f".{name}.part"
    try:
        _fetch(_torchvision_class(name), part)
        arrived = [_packed(part, source) for source in missing]
        for path, source in zip(arrived, missing, strict=True):
            _check(path, source)
        for path, source in zip(arrived, missing, strict=True):
            target = _packed(root, source)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    except (OSError, EOFError, HTTPException, RuntimeError, ValueError) as error:
        files = " and ".join(_packed(root, source).name for source in missing)
        message = f"missing in {_packed(root, missing[0]).parent}: {files}; torchvision: {_one_line(error)}"
        address = missing[0].url.rpartition("/")[0]
        raise DataError(f"{message}; put them there by hand, from {address}/, or say --data_root") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _packed(root: Path, source: Source) -> Path:
    return root / f"{source.path}.gz"


def _check(path: Path, source: Source) -> None:
    try:
        verified(path, source)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _torchvision_class(name: str) -> Any:
    """A class of ``torchvision.datasets``.

    Raises:
        RuntimeError: torchvision is missing, or was built for another version of torch.
    """
    try:
        return getattr(importlib.import_module("torchvision.datasets"), name)
    except Exception as error:  # a build for another torch may raise anything
        raise RuntimeError(
            f"can't be imported ({_one_line(error)}): install the build that belongs to torch {torch.__version__}, "
            "from where that came, e.g. pip install torchvision==0.28.0 for torch 2.13"
        ) from None


def _fetch(torchvision_class: Any, part: Path) -> None:
    """Let torchvision download a data set from the start: the rest of a killed download can't be resumed."""
    shutil.rmtree(part, ignore_errors=True)
    log.info("torchvision downloads %s", part.name.strip(".").removesuffix(".part"))
    with _quiet_with_timeout():
        torchvision_class(str(part), download=True)


@contextlib.contextmanager
def _quiet_with_timeout() -> Iterator[None]:
    """Suppress prints, show progress on a terminal only, and set a timeout for the server."""
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(bar):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
