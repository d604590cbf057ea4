"""Evaluation of several runs at once, with the results that each would get alone, up to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ovis.analysis.evaluate import evaluate_batch
from ovis.analysis.module_state import evaluation_mode
from ovis.diagnostics import Aggregator
from ovis.estimators.base import GradientEstimator
from ovis.experiments.training.ensemble.stacked_state import StackedState
from ovis.experiments.training.ensemble.vmapped import GraphCompiler, VmappedFunction
from ovis.experiments.training.ensemble.vmapped_gradients import EnsembleGradients
from ovis.experiments.training.measurements import Measurements, Split
from ovis.experiments.training.random_state import random_state_of
from ovis.models.model import Model

__all__ = ["EnsembleEvaluation"]


class EnsembleEvaluation:
    """Callable: :class:`ovis.experiments.training.measurements.Measurements` of all runs of an ensemble.

    Args:
        state: state of the runs. Before a call each row has to be written back to its run
            (:meth:`ovis.experiments.training.ensemble.stacked_state.StackedState.write_back`).
        measures: the measurements of each run.
        compiler: compiles a traced graph.
    """

    def __init__(self, state: StackedState, measures: Sequence[Measurements], compiler: GraphCompiler):
        self.state, self.measures = state, list(measures)
        on_cpu = state.runs[0].device.type == "cpu"
        self.hosts = [torch.Generator() for _ in state.runs]  # for numbers that are drawn on the CPU on any device
        self.generators = self.hosts if on_cpu else [torch.Generator(run.device) for run in state.runs]
        ess = state.runs[0].settings.iw
        sizes = {split.iw for split in measures[0].splits.values()}
        self.bounds = {iw: VmappedFunction(state, partial(_bounds, iw=iw, ess=ess), compiler=compiler) for iw in sizes}
        analyses = [measure.gradients for measure in measures if measure.gradients is not None]
        self.gradients = EnsembleGradients(state, analyses, compiler) if analyses else None

    def __call__(self, step: int) -> list[dict[str, float]]:
        """Measure all but the split that is held out until the end: the numbers of each run by name.

        Raises:
            EnsembleUnsupported: these runs can't be evaluated at once.
        """
        for measure, *generators in zip(self.measures, self.hosts, self.generators, strict=True):
            for generator in generators:
                generator.manual_seed(measure.seed)
        values: list[dict[str, float]] = [{} for _ in self.measures]
        for name, split in self.measures[0].splits.items():
            for measured, bounds, measure in zip(values, self._bounds(split), self.measures, strict=True):
                measured.update(bounds.data.flat(f"{name}:"))
                measured.update(measure.distances(measure.run.model, name, split))
        if self.gradients is not None:
            for measured, statistics in zip(values, self.gradients(step, self.hosts), strict=True):
                measured.update(statistics)
        for measured, measure, *generators in zip(values, self.measures, self.hosts, self.generators, strict=True):
            with random_state_of(*generators):
                measured.update(measure.active_units())
        return values

    def _bounds(self, split: Split) -> list[Aggregator]:
        """L_K and the other means over the data, of each run."""
        means = [Aggregator() for _ in self.measures]
        with evaluation_mode(self.state.module.model):
            for rows in split.points.split(split.batch):
                stacked = self.bounds[split.iw](self.generators, [rows])
                for s, mean in enumerate(means):
                    mean.update({group: {k: v[s] for k, v in values.items()} for group, values in stacked.items()})
                for measure in self.measures:
                    if measure.on_batch is not None:
                        measure.on_batch()
        return means


def _bounds(model: Model, estimator: GradientEstimator, x: Tensor, iw: int, ess: int) -> Any:
    return evaluate_batch(model, x, iw, ess)
