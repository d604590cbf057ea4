"""The evaluations of several runs at once: the numbers that each would measure alone, to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ovis.diagnostics import Aggregator
from ovis.estimators.base import GradientEstimator
from ovis.experiments.training.ensemble.gradients import GradientsTogether
from ovis.experiments.training.ensemble.stacked_state import Stack
from ovis.experiments.training.ensemble.vmapped import Finish, Together
from ovis.experiments.training.evaluate import evaluate_batch
from ovis.experiments.training.measurements import Measurements, Split
from ovis.experiments.training.random_state import random_state_of
from ovis.models.template import ParticleModel

__all__ = ["MeasuredTogether"]


class MeasuredTogether:
    """:class:`ovis.experiments.training.measurements.Measurements` of all runs of a stack.

    Args:
        stack: the runs. Each has to stand where its row does: :meth:`ovis.experiments.training.ensemble.stacked_state.Stack.give_back`.
        measures: of each run.
        finish: what makes a traced graph fast.
    """

    def __init__(self, stack: Stack, measures: Sequence[Measurements], finish: Finish):
        self.stack, self.measures = stack, list(measures)
        on_cpu = stack.runs[0].device.type == "cpu"
        self.hosts = [torch.Generator() for _ in stack.runs]  # what is not drawn on the device
        self.generators = self.hosts if on_cpu else [torch.Generator(run.device) for run in stack.runs]
        ess = stack.runs[0].settings.iw
        sizes = {split.iw for split in measures[0].splits.values()}
        self.bounds = {iw: Together(stack, partial(_bounds, iw=iw, ess=ess), finish=finish) for iw in sizes}
        analyses = [measure.gradients for measure in measures if measure.gradients is not None]
        self.gradients = GradientsTogether(stack, analyses, finish) if analyses else None

    def __call__(self, step: int) -> list[dict[str, float]]:
        """Measure all but the split that is kept for the end: the numbers of each run by name.

        Raises:
            NotTogetherError: these runs can't be measured at once.
        """
        for measure, *generators in zip(self.measures, self.hosts, self.generators, strict=True):
            for generator in generators:
                generator.manual_seed(measure.seed)
        values: list[dict[str, float]] = [{} for _ in self.measures]
        for name, split in self.measures[0].splits.items():
            for found, bounds, measure in zip(values, self._bounds(split), self.measures, strict=True):
                found.update(bounds.data.flat(f"{name}:"))
                found.update(measure.truth(measure.run.model, name, split))
        if self.gradients is not None:
            for found, statistics in zip(values, self.gradients(step, self.hosts), strict=True):
                found.update(statistics)
        for found, measure, *generators in zip(values, self.measures, self.hosts, self.generators, strict=True):
            with random_state_of(*generators):
                found.update(measure.units())
        return values

    def _bounds(self, split: Split) -> list[Aggregator]:
        """L_K and the other means over the data, of each run."""
        means = [Aggregator() for _ in self.measures]
        model = self.stack.parts.model
        training = model.training
        model.eval()
        try:
            for rows in split.points.split(split.batch):
                found = self.bounds[split.iw](self.generators, [rows])
                for s, mean in enumerate(means):
                    mean.update({group: {k: v[s] for k, v in leaves.items()} for group, leaves in found.items()})
        finally:
            model.train(training)
        return means


def _bounds(model: ParticleModel, estimator: GradientEstimator, x: Tensor, iw: int, ess: int) -> Any:
    return evaluate_batch(model, x, iw, ess)
