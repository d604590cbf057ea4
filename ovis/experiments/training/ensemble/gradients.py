"""The gradient analysis of several runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ovis.analysis.gradient_samples import ParameterGradientSampler, select_parameters
from ovis.analysis.gradients import TENSOR, gradient_statistics
from ovis.analysis.module_state import untracked_batch_statistics
from ovis.analysis.random_inputs import RandomInputs
from ovis.estimators.base import GradientEstimator
from ovis.estimators.sampling import encode
from ovis.experiments.training.ensemble.stacked_state import ModelAndEstimator, StackedState
from ovis.experiments.training.ensemble.vmapped import GraphCompiler, VmappedFunction
from ovis.experiments.training.gradient_analysis import GradientAnalysis
from ovis.experiments.training.random_state import random_state_of
from ovis.experiments.training.schedule import scheduled_config
from ovis.models.template import ParticleModel

__all__ = ["EnsembleGradients"]

#: Random numbers, of all runs, that one call takes: more no longer save time.
NUMBERS_PER_CALL = 2**17

#: Most bytes of the gradients of all runs: beyond that, each run is analysed alone.
MAX_GRADIENT_BYTES = 2**28

#: Most bytes of random numbers that are kept from one evaluation to the next, which requests the same ones.
MAX_NOISE_BYTES = 2**28


class EnsembleGradients:
    """Callable: :class:`ovis.experiments.training.gradient_analysis.GradientAnalysis` of all runs of an ensemble.

    Args:
        state: of the runs.
        analyses: of each run.
        compiler: compiles a traced graph.
    """

    def __init__(self, state: StackedState, analyses: Sequence[GradientAnalysis], compiler: GraphCompiler):
        self.state, self.analyses, self.x = state, list(analyses), analyses[0].x
        self.settings = state.runs[0].settings
        self.key, self.count = self.settings.analysed_parameters, self.settings.grad_samples
        self.names: list[str] = []
        if not self.key.startswith(TENSOR):
            self.names = list(select_parameters(state.module.model, self.key))
        self.vmapped = VmappedFunction(state, self._gradients, compiler=compiler)
        self.particle_requests = 0  # the first requests; the others are of auxiliary samples
        self.kept: dict[tuple[int, ...], list[list[Tensor]]] = {}

    def __call__(self, step: int, generators: Sequence[torch.Generator]) -> list[dict[str, float]]:
        """``train:grads/...`` of each run by name.

        Args:
            step: optimizer steps so far.
            generators: of each run's evaluation, on the CPU; they move on.
        """
        size = self.count * sum(self.state.values[f"model.{name}"].nbytes for name in self.names)
        if not self.names or size > MAX_GRADIENT_BYTES:
            return [self._alone(step, *pair) for pair in zip(self.analyses, generators, strict=True)]
        seeds = tuple(int(torch.randint(2**31, (), generator=generator)) for generator in generators)
        shared = [self.x, *map(torch.tensor, scheduled_config(self.settings, step).values())]
        grads = torch.cat([self.vmapped(generators, shared, noise) for noise in self._noise(seeds)], 1)  # [S, M, D]
        return [gradient_statistics(own, self.settings.grad_epsilon).flat("train:") for own in grads]

    def _alone(self, step: int, analysis: GradientAnalysis, generator: torch.Generator) -> dict[str, float]:
        with random_state_of(generator):
            return analysis(step)

    def _noise(self, seeds: tuple[int, ...]) -> Iterator[list[Tensor]]:
        """A few draws at a time: for each request [S, draws, B, count]."""
        if seeds in self.kept:
            yield from self.kept[seeds]
            return
        draws = [
            ParameterGradientSampler({"": run.estimator}, run.model, self.x, self.key, seed)
            for run, seed in zip(self.state.runs, seeds, strict=True)
        ]
        of_particles, beside = draws[0].random_numbers(range(1))
        self.particle_requests = len(of_particles)
        each = len(seeds) * sum(numbers.numel() for numbers in (*of_particles, *beside))
        size, pieces, held = _divisor(self.count, NUMBERS_PER_CALL // max(each, 1)), [], 0
        for first in range(0, self.count, size):
            own = [chain(*of_run.random_numbers(range(first, first + size))) for of_run in draws]
            piece = [torch.stack(numbers) for numbers in zip(*own, strict=True)]
            held += sum(numbers.nbytes for numbers in piece)
            if held <= MAX_NOISE_BYTES:
                pieces.append(piece)
            yield piece
        self.kept = {seeds: pieces} if held <= MAX_NOISE_BYTES else {}

    def _gradients(self, model: ParticleModel, estimator: GradientEstimator, x: Tensor, *rest: Tensor) -> Tensor:
        """Some draws of one run: [draws, D]."""
        alphas = int(self.settings.warmup > 0)
        parts = ModelAndEstimator(model, estimator)
        values = dict(parts.named_parameters())
        selected: dict[str, Tensor] = {f"model.{name}": values[f"model.{name}"] for name in self.names}

        def draw(*noise: Tensor) -> Tensor:
            def loss(selected: dict[str, Tensor]) -> Any:
                return functional_call(parts, selected, (self._loss, x, rest[:alphas], noise))

            grads = grad(loss)(selected)
            return torch.cat([grads[name].flatten() for name in selected])

        found: Tensor = vmap(draw)(*rest[alphas:])
        return found / len(x)

    def _loss(
        self,
        model: ParticleModel,
        estimator: GradientEstimator,
        x: Tensor,
        alpha: Sequence[Tensor],
        noise: Sequence[Tensor],
    ) -> Tensor:
        """The sum over x of the loss of one draw."""
        settings = estimator.configured(**({"alpha": alpha[0]} if alpha else {}))
        with untracked_batch_statistics(model):
            with RandomInputs(noise[: self.particle_requests]):
                encoded = encode(model, x)
                particles = estimator.draw(model, x, encoded, settings)
            with RandomInputs(noise[self.particle_requests :]):
                return estimator.loss(model, x, encoded, particles, settings).sum()


def _divisor(count: int, largest: int) -> int:
    """The largest divisor that is not above ``largest``, at least 1: no piece is smaller than the others."""
    return max((d for d in range(1, largest + 1) if count % d == 0), default=1)
