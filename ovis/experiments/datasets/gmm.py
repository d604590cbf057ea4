"""Points from a Gaussian mixture with classes of unequal weight (Le et al. 2019), drawn anew for every batch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from ovis.experiments.datasets.splits import FreshData, Splits

__all__ = ["draw", "load"]

#: Points per epoch: 1000 steps at a batch size of 100.
EPOCH = 100_000
VALID, TEST = 1000, 100
#: Different from the seeds of training batches, seed x 1,000,003 + epoch, so that the points differ.
VALID_SEED, TEST_SEED = 2**48 + 1, 2**48 + 2


def draw(n: int, generator: Generator, classes: int) -> Tensor:
    """Draw n points x ~ N(10 z, 5^2), p(z) proportional to 5 + z, z in {0..classes-1}: [n, 1], on its device."""
    device = generator.device
    weights = 5.0 + torch.arange(classes, device=device)
    z = torch.multinomial(weights, n, replacement=True, generator=generator).unsqueeze(-1)
    return 10.0 * z + 5.0 * torch.randn(n, 1, generator=generator, device=device)


def load(N: int = 20) -> Splits:
    """The mixture of N classes: new training points in each batch, 1000 / 100 fixed points; float, shape [1]."""
    sample = partial(draw, classes=N)
    train = FreshData(sample, EPOCH)
    valid = sample(VALID, torch.Generator().manual_seed(VALID_SEED))
    test = sample(TEST, torch.Generator().manual_seed(TEST_SEED))
    return Splits(train, valid, test, mean=train.points(10_000).mean(0))
