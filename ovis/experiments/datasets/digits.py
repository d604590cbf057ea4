"""The 1797 handwritten 8x8 digits that come with scikit-learn (Alpaydin and Kaynak 1998), binarized."""

from __future__ import annotations

import torch

from ovis.experiments.datasets.splits import Splits, StoredData

__all__ = ["load"]

#: Grey levels go from 0 to 16; a pixel is 1 from this level upwards.
THRESHOLD = 8
SIZES = (1400, 197, 200)
SEED = 0


def load() -> Splits:
    """Load 1400 / 197 / 200 images, uint8 in {0, 1}, shape [1, 8, 8], in a fixed random order.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("data set 'digits' needs scikit-learn: pip install scikit-learn") from None
    grey = torch.from_numpy(load_digits().images)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(SEED))
    images = (grey[order] >= THRESHOLD).to(torch.uint8).unsqueeze(1)
    train, valid, test = images.split(SIZES)
    return Splits(StoredData(train), valid, test, mean=train.float().mean(0))
