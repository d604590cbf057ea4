"""Images from a model: samples from its prior, and data with their reconstructions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ovis.analysis.module_state import evaluation_mode
from ovis.analysis.seeding import own_seed
from ovis.experiments.training.build import TrainingRun

__all__ = ["image_grid", "prior_samples", "reconstructions"]

#: Samples from the prior in a grid.
SAMPLES = 64

#: Data in a grid of reconstructions.
RECONSTRUCTED = 10

#: Grey level between the images.
GAP = 128

#: Largest size of an enlarged grid, in pixels.
HEIGHT, WIDTH = 480, 960


@torch.no_grad()
def prior_samples(run: TrainingRun) -> Tensor:
    """Means of p(x|z) for z ~ p(z), in a near-square grid: see :func:`image_grid`."""
    with own_seed(run.settings.seed, run.device), evaluation_mode(run.model):
        images: Tensor = run.model.sample_from_prior(SAMPLES)["px"].mean
    return image_grid(images, math.ceil(math.sqrt(SAMPLES)))


@torch.no_grad()
def reconstructions(run: TrainingRun, x: Tensor) -> Tensor:
    """The first data in one row and, below each, the mean of p(x|z) for one z ~ q(z|x): see :func:`image_grid`.

    Args:
        run: the parts of the run. They and the global random state are left unchanged.
        x: data, shape [n, C, H, W].
    """
    x = x[:RECONSTRUCTED]
    with own_seed(run.settings.seed, run.device), evaluation_mode(run.model):
        means: Tensor = run.model(x)["px"].mean
    return image_grid(torch.cat([x, means]), len(x))


def image_grid(images: Tensor, columns: int, gap: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Arrange images in a grid, row by row, enlarged by the largest whole factor that fits ``height`` and ``width``.

    Args:
        images: shape [n, C, H, W] in [0, 1]; the mean over C is shown.
        columns: images in a row.
        gap: width of the grey lines between images, in pixels before enlarging.
        height: largest height of the result, in pixels, where the grid is enlarged.
        width: largest width of the result, in pixels, where the grid is enlarged.

    Returns:
        uint8, shape [H', W'].
    """
    pixels = (images.detach().float().mean(1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    n, h, w = pixels.shape
    rows = math.ceil(n / columns)
    grid = torch.full((rows * (h + gap) + gap, columns * (w + gap) + gap), GAP, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        grid[top : top + h, left : left + w] = image
    factor = max(1, min(height // grid.shape[0], width // grid.shape[1]))
    return grid.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
