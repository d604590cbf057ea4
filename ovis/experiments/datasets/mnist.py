"""MNIST (LeCun et al. 1998): grey levels, binarized anew at each use; 50,000 / 10,000 / 10,000 images.

A fixed random choice of 10,000 of the 60,000 training images is the validation set. It and the test set are binarized
once. The files are where torchvision stores them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovis.experiments.datasets.cache import Arrays
from ovis.experiments.datasets.files import Source, content
from ovis.experiments.datasets.images import binarize_once, hold_out, load_images
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.datasets.torchvision_sets import download_missing

__all__ = ["TEST", "TRAIN", "VALID", "load", "prepare", "read_idx"]

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

#: Checksums of the unpacked files; the MD5 of the packed ones, as in torchvision 0.28, are f68b3c2d... and 9fb629c4...
TRAIN = Source(
    "MNIST/raw/train-images-idx3-ubyte",
    f"{URL}train-images-idx3-ubyte.gz",
    "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
TEST = Source(
    "MNIST/raw/t10k-images-idx3-ubyte",
    f"{URL}t10k-images-idx3-ubyte.gz",
    "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)

#: Training images that are held out.
VALID = 10_000


def load(data_root: str | Path = "data/") -> Splits:
    """Load grey training images, binarized at each use, and held-out images in {0, 1}; shape [1, 28, 28].

    Raises:
        DataError: a file is corrupt, or missing and can't be downloaded.
    """
    return load_images("mnist", data_root, prepare, grey=True)


def prepare(root: Path) -> Arrays:
    """The three splits from the two files, ``.gz`` or unpacked; torchvision downloads missing files."""
    download_missing(root, "MNIST", (TRAIN, TEST))
    train, valid = hold_out(read_idx(content(root, TRAIN)), VALID)
    return {"train": train, "valid": binarize_once(valid), "test": binarize_once(read_idx(content(root, TEST)))}


def read_idx(data: bytes) -> NDArray[np.uint8]:
    """Parse MNIST's format, four big-endian integers (a magic number, n, 28, 28) and grey levels: [n, 28, 28]."""
    _, n, height, width = np.frombuffer(data, dtype=">i4", count=4).tolist()
    return np.frombuffer(data, dtype=np.uint8, offset=16).reshape(n, height, width)
