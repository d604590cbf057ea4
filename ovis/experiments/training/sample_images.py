"""Pictures of a model of images: samples from its prior, data beside their reconstructions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.random_state import own_random_state

__all__ = ["image_grid", "prior_samples", "reconstructions"]

#: Samples from the prior in a picture.
SAMPLES = 64

#: Data in a picture of reconstructions.
RECONSTRUCTED = 10

#: Grey level between the pictures.
GAP = 128

#: Pixels of a picture, at most, unless it has more of its own.
HEIGHT, WIDTH = 480, 960


@torch.no_grad()
def prior_samples(run: TrainingRun) -> Tensor:
    """Means of p(x|z), z ~ p(z), in a near-square grid: see :func:`image_grid`."""
    with own_random_state(run.settings.seed, run.device), _evaluating(run.model):
        images: Tensor = run.model.sample_from_prior(SAMPLES)["px"].mean
    return image_grid(images, math.ceil(math.sqrt(SAMPLES)))


@torch.no_grad()
def reconstructions(run: TrainingRun, x: Tensor) -> Tensor:
    """The first data in one row, below each the mean of p(x|z) for one z ~ q(z|x): see :func:`image_grid`.

    Args:
        run: the parts of the run, which are left as they are, as the global random state is.
        x: data, shape [n, C, H, W].
    """
    x = x[:RECONSTRUCTED]
    with own_random_state(run.settings.seed, run.device), _evaluating(run.model):
        means: Tensor = run.model(x)["px"].mean
    return image_grid(torch.cat([x, means]), len(x))


def image_grid(images: Tensor, columns: int, gap: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Pictures side by side, row by row, enlarged in whole pixels as far as ``height`` and ``width`` allow.

    Args:
        images: shape [n, C, H, W] in [0, 1]; the mean over C is shown.
        columns: pictures in a row.
        gap: pixels of grey between them, before enlarging: neither ink nor paper.
        height: of the result, at most, unless the pictures are larger.
        width: as ``height``.

    Returns:
        uint8, shape [H', W'].
    """
    pictures = (images.detach().float().mean(1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    n, h, w = pictures.shape
    rows = math.ceil(n / columns)
    grid = torch.full((rows * (h + gap) + gap, columns * (w + gap) + gap), GAP, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        grid[top : top + h, left : left + w] = picture
    factor = max(1, min(height // grid.shape[0], width // grid.shape[1]))
    return grid.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout, for a block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
