"""Points of the Gaussian toy model (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ovis.experiments.datasets.splits import Splits, StoredData

__all__ = ["draw", "load"]

POINTS = 1024
SEED = 42


def draw(dimension: int, n: int = POINTS, generator: Generator | None = None) -> Tensor:
    """Draw n points x ~ N(z, I), z ~ N(mu, I), for one mu ~ N(0, I): float, shape [n, dimension].

    Args:
        dimension: D.
        n: number of points.
        generator: draws mu first, then the points; None: a generator seeded with 42, as in Figure 1 of Lievin et al.
            2020 (https://arxiv.org/abs/2008.01998).
    """
    generator = generator or torch.Generator().manual_seed(SEED)
    centre, z_noise, x_noise = (torch.randn(k, dimension, generator=generator) for k in (1, n, n))
    return centre + z_noise + x_noise


def load(N: int = 20) -> Splits:
    """1024 points in N dimensions in each split, with the same mu; float, shape [N]."""
    train, valid, test = draw(N, 3 * POINTS).split(POINTS)
    return Splits(StoredData(train), valid, test, mean=train.mean(0))
