"""Training steps and evaluations of several runs at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ovis.estimators.base import GradientEstimator
from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.ensemble.batches import ensemble_batches
from ovis.experiments.training.ensemble.evaluation import EnsembleEvaluation
from ovis.experiments.training.ensemble.stacked_state import EnsembleUnsupported, StackedState
from ovis.experiments.training.ensemble.vmapped import VmappedFunction, graph_compiler
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.schedule import LearningRates, scheduled_config
from ovis.models.model import Model

__all__ = ["VmappedStep"]

log = logging.getLogger(__name__)


class VmappedStep:
    """The stepper of several runs: see :class:`ovis.experiments.training.trainer.Stepper`.

    Args:
        runs: runs with the same settings except the seed, at the same step.
        measurements: the measurements of each run.
        random: the global random states of each run.
        steps: how many steps will be taken, which decides whether the graphs are compiled.

    Raises:
        EnsembleUnsupported: these runs can't be batched; :meth:`step` may raise it, too.
    """

    def __init__(
        self,
        runs: Sequence[TrainingRun],
        measurements: Sequence[Measurements],
        random: Sequence[dict[str, Any]],
        steps: int,
    ):
        first = runs[0]
        self.settings, self.random = first.settings, random
        self.state = StackedState(runs)
        self.compiler = graph_compiler(steps, first.settings.compile)
        self.gradients = VmappedFunction(self.state, _loss_of_batch, gradients=True, compiler=self.compiler)
        self.rates = LearningRates(first.settings, self.state.optimizer, first.total_steps)
        self.evaluation: EnsembleEvaluation | None = EnsembleEvaluation(self.state, measurements, self.compiler)
        self.generators = [torch.Generator(run.device) for run in runs]
        for generator, states in zip(self.generators, random, strict=True):
            generator.set_state(states[first.device.type])
        self.state.module.model.train()

    def batches(self, start: int, end: int) -> Iterator[Tensor]:
        return ensemble_batches(self.state, start, end, self.compiler)

    def step(self, x: Tensor, step: int) -> Tensor:
        """Take step number ``step`` on x, shape [S, B, *event], and return the losses [S]."""
        self.rates(step)
        alpha = [torch.tensor(value, dtype=torch.float64) for value in scheduled_config(self.settings, step).values()]
        losses: Tensor
        gradients, losses = self.gradients(self.generators, alpha, [x])
        self.state.optimizer_step(gradients)
        return losses

    def sync(self, row: int) -> dict[str, Any]:
        self.state.write_back(row)
        generator = self.generators[row]
        return {**self.random[row], generator.device.type: generator.get_state()}

    def measure(self, step: int) -> list[dict[str, float]] | None:
        if self.evaluation is not None:
            try:
                return self.evaluation(step)
            except EnsembleUnsupported as error:
                log.warning("%s; the runs are evaluated one after the other", error)
                self.evaluation = None
        return None


def _loss_of_batch(model: Model, estimator: GradientEstimator, *rest: Tensor) -> Any:
    """The mean loss of a batch. ``rest`` is alpha, if it changes with the step, and the batch."""
    *alpha, x = rest
    config = {"alpha": alpha[0]} if alpha else {}
    loss: Tensor = estimator(model, x, return_diagnostics=False, **config)[0]
    return loss.mean()
