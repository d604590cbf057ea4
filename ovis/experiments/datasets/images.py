"""Data sets of 28 x 28 images from files: binary images, or grey levels that are binarized anew at each use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from ovis.experiments.datasets.cache import Arrays, cached
from ovis.experiments.datasets.splits import Splits, StoredData, as_float

__all__ = ["SIDE", "binarize", "binarize_once", "hold_out", "load_images"]

SIDE = 28

#: Seed of what is the same in every run: which images are held out, and how those are binarized.
SEED = 42


def load_images(name: str, data_root: str | Path, prepare: Callable[[Path], Arrays], grey: bool = False) -> Splits:
    """Load the splits of a data set, from the cache if possible.

    Args:
        name: name of the data set.
        data_root: the data folder.
        prepare: makes ``train``, ``valid`` and ``test`` from the data folder: uint8 in {0, 1}, shape [n, 28, 28].
        grey: ``train`` contains grey levels from 0 to 255.

    Returns:
        uint8 tensors of shape [n, 1, 28, 28].

    Raises:
        DataError: a file is corrupt, or missing and can't be downloaded.
    """
    arrays = cached(Path(data_root), name, prepare)
    train, valid, test = (torch.from_numpy(arrays[name]).unsqueeze(1) for name in ("train", "valid", "test"))
    mean = torch.from_numpy(arrays["train"].mean(0, dtype=np.float32)).unsqueeze(0)
    if grey:
        return Splits(StoredData(train, binarize), valid, test, mean=mean / 255)
    return Splits(StoredData(train, as_float), valid, test, mean=mean)


def binarize(grey: Tensor, generator: Generator) -> Tensor:
    """Sample binary pixels that are 1 with probability grey / 255: float, shape as ``grey``."""
    # comparing uniform numbers is three times as fast as torch.bernoulli on the CPU
    noise = torch.rand(grey.shape, generator=generator, device=grey.device)
    return as_float(noise < grey / 255)


def binarize_once(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As :func:`binarize`, with the same result in every run."""
    noise = np.random.default_rng(SEED).random(grey.shape, dtype=np.float32)
    return (noise < grey / np.float32(255)).astype(np.uint8)


def hold_out(images: NDArray[np.uint8], n: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split off n random images, the same ones in every run: the others and these, each in the order of the file."""
    chosen = np.zeros(len(images), dtype=bool)
    chosen[np.random.default_rng(SEED).permutation(len(images))[:n]] = True
    return images[~chosen], images[chosen]
