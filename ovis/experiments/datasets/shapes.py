"""Binary images of one shape each: a rectangle, disc, triangle or cross of random position and size."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ovis.experiments.datasets.splits import Splits, StoredData

__all__ = ["draw", "load"]

SIDE = 28
SIZES = (10_000, 1_000, 1_000)
SEED = 0


def draw(n: int, generator: Generator) -> Tensor:
    """Draw n images, uint8 in {0, 1}, shape [n, 1, 28, 28].

    A shape fills a box inside the image, whose half-width and half-height are 4 to 10 pixels (for a disc, both are the
    half-width).
    """

    def uniform(low: float | Tensor, high: float | Tensor) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    kind = torch.randint(4, (n, 1, 1), generator=generator)
    half_width, half_height = uniform(4, 10), uniform(4, 10)
    half_height = torch.where(kind == 1, half_width, half_height)
    pixels = torch.arange(SIDE) + 0.5
    # position in the box, from -1 to 1 on its inside
    across = (pixels[None, None, :] - uniform(half_width, SIDE - half_width)) / half_width
    down = (pixels[None, :, None] - uniform(half_height, SIDE - half_height)) / half_height
    rectangle = (across.abs() <= 1) & (down.abs() <= 1)
    disc = across**2 + down**2 <= 1
    triangle = rectangle & (across.abs() <= (down + 1) / 2)  # its tip is above
    cross = rectangle & ((across.abs() <= 1 / 3) | (down.abs() <= 1 / 3))
    kinds = torch.stack([rectangle, disc, triangle, cross])
    return kinds[kind.flatten(), torch.arange(n)].to(torch.uint8).unsqueeze(1)


def load() -> Splits:
    """10,000 / 1,000 / 1,000 images, the same in every run, shape [1, 28, 28]."""
    images = draw(sum(SIZES), torch.Generator().manual_seed(SEED))
    train, valid, test = images.split(SIZES)
    return Splits(StoredData(train), valid, test, mean=train.float().mean(0))
