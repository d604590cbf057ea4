"""MNIST, binarized once by Larochelle (Salakhutdinov and Murray 2008), in his splits: 50,000 / 10,000 / 10,000 images.

The rows of the test set are sorted by class, so only a random subset of them is representative.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovis.experiments.datasets.cache import Arrays
from ovis.experiments.datasets.files import Source, content
from ovis.experiments.datasets.images import SIDE, load_images
from ovis.experiments.datasets.splits import Splits

__all__ = ["FILES", "load", "prepare", "read_amat"]

URL = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"

#: Checksums of the texts whose MD5 are db28b1a6..., bf37822a... and 14e41ae1..., as published.
FILES = {
    split: Source(f"binmnist/binarized_mnist_{split}.amat", f"{URL}binarized_mnist_{split}.amat", f"sha256:{checksum}")
    for split, checksum in {
        "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    }.items()
}


def load(data_root: str | Path = "data/") -> Splits:
    """Load images in {0, 1}, shape [1, 28, 28].

    Raises:
        DataError: a file is corrupt, or missing and can't be downloaded.
    """
    return load_images("binmnist", data_root, prepare)


def prepare(root: Path) -> Arrays:
    """The three splits from their files, ``.amat`` or ``.amat.gz``."""
    return {split: read_amat(content(root, source)) for split, source in FILES.items()}


def read_amat(text: bytes) -> NDArray[np.uint8]:
    """Parse lines of 784 zeros and ones separated by blanks: uint8, shape [n, 28, 28]."""
    characters = np.frombuffer(text, dtype=np.uint8)
    return (characters[characters > ord(" ")] - ord("0")).reshape(-1, SIDE, SIDE)
