"""The batches of several runs, stacked. Each run gets the batches that it would get alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ovis.estimators.base import GradientEstimator
from ovis.experiments.datasets.splits import FreshData
from ovis.experiments.training.ensemble.stacked_state import EnsembleUnsupported, StackedState
from ovis.experiments.training.ensemble.vmapped import GraphCompiler, VmappedFunction
from ovis.experiments.training.random_state import global_generator
from ovis.models.model import Model

__all__ = ["ensemble_batches"]


def ensemble_batches(state: StackedState, start: int, end: int, compiler: GraphCompiler) -> Iterator[Tensor]:
    """:meth:`ovis.experiments.training.build.TrainingRun.batches` of all runs: float, shape [S, B, *event].

    Args:
        state: state of the runs.
        start: the first step, from 0.
        end: the step after the last one.
        compiler: compiles a traced graph.
    """
    train = state.runs[0].splits.train
    if isinstance(train, FreshData):
        size = min(state.runs[0].settings.bs, train.size)
        draw = VmappedFunction(state, partial(_draw, data=train, size=size), compiler=compiler)
        try:
            yield from _fresh_batches(state, draw, start, end)
            return
        except EnsembleUnsupported:  # raised at the first batch, if at all
            pass
    rows = [run.batches(start, end) for run in state.runs]
    for _ in range(start, end):
        yield torch.stack([next(batches) for batches in rows])


def _fresh_batches(state: StackedState, draw: VmappedFunction, start: int, end: int) -> Iterator[Tensor]:
    per_epoch = state.runs[0].steps_per_epoch
    step = start
    while step < end:
        epoch, skip = divmod(step, per_epoch)
        generators = [run.epoch_generator(epoch) for run in state.runs]
        for number in range(min(per_epoch, skip + end - step)):
            x = draw(generators)
            if number >= skip:
                yield x
                step += 1


def _draw(model: Model, estimator: GradientEstimator, data: FreshData, size: int) -> Tensor:
    return data.draw(size, global_generator(torch.device(data.device)))
