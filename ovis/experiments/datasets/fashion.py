"""Fashion-MNIST (Xiao et al. 2017), binarized at half of the grey levels: 50,000 / 10,000 / 10,000 images.

A fixed random choice of 10,000 of the 60,000 training images is the validation set. The files are where torchvision
stores them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovis.experiments.datasets.cache import Arrays
from ovis.experiments.datasets.files import Source, content
from ovis.experiments.datasets.images import hold_out, load_images
from ovis.experiments.datasets.mnist import read_idx
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.datasets.torchvision_sets import download_missing

__all__ = ["TEST", "TRAIN", "VALID", "load", "prepare"]

#: The authors' repository, for manual downloads. The bucket that torchvision downloads from does not support https.
URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"

#: Checksums of the unpacked files; the MD5 of the packed ones, as in torchvision 0.28, are 8d4fb7e6... and bef4ecab...
TRAIN = Source(
    "FashionMNIST/raw/train-images-idx3-ubyte",
    f"{URL}train-images-idx3-ubyte.gz",
    "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
)
TEST = Source(
    "FashionMNIST/raw/t10k-images-idx3-ubyte",
    f"{URL}t10k-images-idx3-ubyte.gz",
    "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
)

#: Training images that are held out.
VALID = 10_000

#: Grey levels go from 0 to 255; a pixel is 1 from this level upwards.
THRESHOLD = 128


def load(data_root: str | Path = "data/") -> Splits:
    """Load images in {0, 1}, shape [1, 28, 28].

    Raises:
        DataError: a file is corrupt, or missing and can't be downloaded.
    """
    return load_images("fashion", data_root, prepare)


def prepare(root: Path) -> Arrays:
    """The three splits from the two files, ``.gz`` or unpacked; torchvision downloads missing files."""
    download_missing(root, "FashionMNIST", (TRAIN, TEST))
    both, test = ((read_idx(content(root, source)) >= THRESHOLD).astype(np.uint8) for source in (TRAIN, TEST))
    train, valid = hold_out(both, VALID)
    return {"train": train, "valid": valid, "test": test}
