"""Omniglot (Lake et al. 2015), scaled by Burda et al. (2016): grey levels, binarized anew at each use.

There are 23,000 / 1,345 / 8,070 images. A fixed random choice of 1,345 of the 24,345 training images, as many as Burda
et al. use, is the validation set. It and the test set are binarized once.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovis.experiments.datasets.cache import Arrays
from ovis.experiments.datasets.files import Source, content
from ovis.experiments.datasets.images import SIDE, binarize_once, hold_out, load_images
from ovis.experiments.datasets.splits import Splits

__all__ = ["FILE", "VALID", "load", "prepare", "read_chardata"]

FILE = Source(
    "omniglot/chardata.mat",
    "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",
    "md5:21ecaf34373511aa7691cf2e0802aa3d",
)

#: Training images that are held out.
VALID = 1_345


def load(data_root: str | Path = "data/") -> Splits:
    """Load grey training images, binarized at each use, and held-out images in {0, 1}; shape [1, 28, 28].

    Raises:
        DataError: the file is corrupt, or missing and can't be downloaded.
        ImportError: SciPy is not installed (needed only if the data are not in the cache).
    """
    return load_images("omniglot", data_root, prepare, grey=True)


def prepare(root: Path) -> Arrays:
    """The three splits from ``chardata.mat``."""
    both, test = read_chardata(content(root, FILE))
    train, valid = hold_out(both, VALID)
    return {"train": train, "valid": binarize_once(valid), "test": binarize_once(test)}


def read_chardata(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Training and test images of a MATLAB file, grey levels from 0 to 255: uint8, shape [n, 28, 28].

    Each column of the file is an image, stored column by column, in numbers from 0 to 1, rounded here to 1/255.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError("data set 'omniglot' needs SciPy: pip install scipy") from None
    arrays = loadmat(io.BytesIO(data), variable_names=["data", "testdata"])
    train, test = (
        np.rint(255 * arrays[name].T).astype(np.uint8).reshape(-1, SIDE, SIDE).transpose(0, 2, 1)
        for name in ("data", "testdata")
    )
    return train, test
