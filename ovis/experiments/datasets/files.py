"""The files of a data set: read from the data folder or downloaded into it, and verified by their checksums.

Downloads use https only. Packed files stay packed on the disk: a gzip stream is unpacked and verified in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError

from tqdm import tqdm

__all__ = ["PATIENCE", "DataError", "Source", "content", "find", "verified"]

log = logging.getLogger(__name__)

SCHEMES = ("https",)
GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 2**18

#: Timeout of a server in seconds.
PATIENCE = 30.0


class DataError(OSError):
    """A data set can't be loaded; the message, one line, names the file and what to do."""


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        path: its path in the data folder; ``path`` + ``.gz`` is accepted as well.
        url: its address, with https.
        checksum: checksum of its unpacked content: ``sha256:`` or ``md5:`` and hexadecimal digits.
    """

    path: str
    url: str
    checksum: str


def content(root: Path, source: Source) -> bytes:
    """The unpacked content of a published file, which is downloaded if it is missing.

    Args:
        root: the data folder.
        source: the file.

    Raises:
        DataError: the file differs from the published one, or it is missing and can't be downloaded.
    """
    path = find(root, source)
    if path is not None:
        try:
            return verified(path, source)
        except ValueError as error:
            raise DataError(f"{path}: {error}; remove it to download it again, from {source.url}") from None
        except OSError as error:
            raise DataError(f"{path}: {_reason(error)}") from None
    path = root / (source.path + ".gz" * source.url.endswith(".gz"))
    try:
        return _download(source, path)
    except (OSError, HTTPException, ValueError) as error:
        message = f"{path} is missing and can't be downloaded from {source.url}: {_reason(error)}"
        raise DataError(f"{message}; put it there by hand, or say --data_root") from None


def find(root: Path, source: Source) -> Path | None:
    """The path of a published file in the data folder, unpacked or packed; None if it is missing."""
    candidates = (root / source.path, root / f"{source.path}.gz")
    return next((path for path in candidates if path.exists()), None)


def _download(source: Source, path: Path) -> bytes:
    """Download to a temporary name; the file is renamed once its checksum is verified."""
    if not source.url.startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
        raise ValueError("not an https address")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    log.info("downloading %s to %s", source.url, path)
    try:
        with urllib.request.build_opener(_HttpsRedirectHandler).open(source.url, timeout=PATIENCE) as response:
            length = int(response.headers.get("Content-Length") or 0)
            with part.open("wb") as file, _bar(path.name, length) as bar:
                for chunk in _chunks(response):
                    file.write(chunk)
                    bar.update(len(chunk))
        if length and part.stat().st_size != length:
            raise ValueError(f"the transfer broke off at {part.stat().st_size} of {length} bytes")
        data = verified(part, source)
        os.replace(part, path)
        return data
    finally:
        part.unlink(missing_ok=True)


def verified(path: Path, source: Source) -> bytes:
    """The unpacked content of a file, if it is the published one.

    Raises:
        ValueError: the file is corrupt, or its checksum is wrong.
    """
    data = path.read_bytes()
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"the file is corrupt ({error})") from None
    algorithm, _, expected = source.checksum.partition(":")
    digest = hashlib.new(algorithm, data).hexdigest()
    if digest != expected:
        raise ValueError(f"this is not the published file, its {algorithm} is {digest}, expected {expected}")
    return data


class _HttpsRedirectHandler(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if newurl.split(":")[0] not in SCHEMES:
            raise URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: response.read(CHUNK), b"")


def _bar(name: str, length: int) -> tqdm[Any]:
    # disable=None: shown on a terminal, not in the log of a job
    return tqdm(total=length or None, desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None)


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, URLError):
        return error.reason if isinstance(error.reason, str) else _reason(error.reason)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
