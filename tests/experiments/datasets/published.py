"""Small files in the formats of the real ones, which pass for the published ones."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import savemat

from ovis.experiments.datasets.files import Source

#: Images of each synthetic file, and how many training images are held out of them.
TRAIN, HELD_OUT, TEST = 60, 10, 20


def amat(images: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in images.reshape(len(images), -1).tolist()).encode()


def idx(images: np.ndarray) -> bytes:
    return np.array([2051, *images.shape], dtype=">i4").tobytes() + images.astype(np.uint8).tobytes()


def chardata(train: np.ndarray, test: np.ndarray) -> bytes:
    """Columns of images, each column by column, in doubles from 0 to 1."""
    columns = {
        name: images.transpose(0, 2, 1).reshape(len(images), -1).T / 255
        for name, images in (("data", train), ("testdata", test))
    }
    file = io.BytesIO()
    savemat(file, columns)
    return file.getvalue()


def publish(source: Source, data: bytes, root: Path | None = None, packed: bool = False) -> Source:
    """The same source, as if ``data`` had been published; written below ``root``. Nothing is ever fetched."""
    if root is not None:
        path = root / (source.path + ".gz" * packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if packed else data)
    checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return replace(source, url="http://published.invalid/" + source.path, checksum=checksum)


@functools.cache
def synthetic() -> dict[str, dict[str, np.ndarray]]:
    """Random images by kind and split."""
    random = np.random.default_rng(0)
    grey = {name: random.integers(0, 256, (n, 28, 28)) for name, n in (("train", TRAIN), ("test", TEST))}
    binary = {name: random.integers(0, 2, (n, 28, 28)) for name, n in (("train", TRAIN), ("valid", 30), ("test", TEST))}
    return {"grey": grey, "binary": binary}


@functools.cache
def formatted() -> dict[str, bytes]:
    """The same as files."""
    grey, binary = synthetic()["grey"], synthetic()["binary"]
    texts = {f"amat-{split}": amat(images) for split, images in binary.items()}
    return {
        **texts,
        "idx-train": idx(grey["train"]),
        "idx-test": idx(grey["test"]),
        "chardata": chardata(grey["train"], grey["test"]),
    }
