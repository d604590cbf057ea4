"""The batches of several runs, stacked: each run's own, which it would see alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ovis.estimators.base import GradientEstimator
from ovis.experiments.datasets.splits import FreshData
from ovis.experiments.training import loop
from ovis.experiments.training.ensemble.stacked_state import NotTogetherError, Stack
from ovis.experiments.training.ensemble.vmapped import Finish, Together
from ovis.experiments.training.random_state import global_of
from ovis.models.template import ParticleModel

__all__ = ["batches_together"]


def batches_together(stack: Stack, start: int, end: int, finish: Finish) -> Iterator[Tensor]:
    """:func:`ovis.experiments.training.loop.batches` of all runs: float, shape [S, B, *event].

    Args:
        stack: the runs.
        start: the first step, from 0.
        end: the step after the last one.
        finish: what makes a traced graph fast.
    """
    train = stack.runs[0].splits.train
    if isinstance(train, FreshData):
        size = min(stack.runs[0].settings.bs, train.size)
        together = Together(stack, partial(_draw, data=train, size=size), finish=finish)
        try:
            yield from _fresh(stack, together, start, end)
            return
        except NotTogetherError:  # at the first batch, or never
            pass
    rows = [loop.batches(run, start, end) for run in stack.runs]
    for _ in range(start, end):
        yield torch.stack([next(batches) for batches in rows])


def _fresh(stack: Stack, together: Together, start: int, end: int) -> Iterator[Tensor]:
    first = stack.runs[0]
    per_epoch = first.splits.train.batches_per_epoch(first.settings.bs)
    step = start
    while step < end:
        epoch, skip = divmod(step, per_epoch)
        generators = [loop.epoch_generator(run, epoch) for run in stack.runs]
        for number in range(min(per_epoch, skip + end - step)):
            x = together(generators)
            if number >= skip:
                yield x
                step += 1


def _draw(model: ParticleModel, estimator: GradientEstimator, data: FreshData, size: int) -> Tensor:
    return data.draw(size, global_of(torch.device(data.device)))
