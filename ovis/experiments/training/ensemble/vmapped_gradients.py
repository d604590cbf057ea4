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
from ovis.models.model import Model

__all__ = ["EnsembleGradients"]

#: Random numbers of all runs in one call; more don't save time.
NUMBERS_PER_CALL = 2**17

#: Largest size of the gradients of all runs; beyond it each run is analysed alone.
MAX_GRADIENT_BYTES = 2**28

#: Largest size of the random numbers that are kept for the next evaluation, which needs the same ones.
MAX_NOISE_BYTES = 2**28


class EnsembleGradients:
    """Callable: :class:`ovis.experiments.training.gradient_analysis.GradientAnalysis` of all runs of an ensemble.

    Args:
        state: state of the runs.
        analyses: the analysis of each run.
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
        self.particle_requests = 0  # of the requests, the first ones; the others are for auxiliary samples
        self.kept: dict[tuple[int, ...], list[list[Tensor]]] = {}

    def __call__(self, step: int, generators: Sequence[torch.Generator]) -> list[dict[str, float]]:
        """``train:grads/...`` of each run by name.

        Args:
            step: optimizer steps so far.
            generators: generators of the runs' evaluations, on the CPU; they are advanced.
        """
        size = self.count * sum(self.state.values[f"model.{name}"].nbytes for name in self.names)
        if not self.names or size > MAX_GRADIENT_BYTES:
            return [self._alone(step, *pair) for pair in zip(self.analyses, generators, strict=True)]
        seeds = tuple(int(torch.randint(2**31, (), generator=generator)) for generator in generators)
        shared = [self.x, *map(torch.tensor, scheduled_config(self.settings, step).values())]
        grads = torch.cat([self.vmapped(generators, shared, noise) for noise in self._noise(seeds)], 1)  # [S, M, D]
        return [gradient_statistics(draws, self.settings.grad_epsilon).flat("train:") for draws in grads]

    def _alone(self, step: int, analysis: GradientAnalysis, generator: torch.Generator) -> dict[str, float]:
        with random_state_of(generator):
            return analysis(step)

    def _noise(self, seeds: tuple[int, ...]) -> Iterator[list[Tensor]]:
        """Random numbers for a few draws at a time: for each request, shape [S, draws, B, count]."""
        if seeds in self.kept:
            yield from self.kept[seeds]
            return
        samplers = [
            ParameterGradientSampler({"": run.estimator}, run.model, self.x, self.key, seed)
            for run, seed in zip(self.state.runs, seeds, strict=True)
        ]
        of_particles, of_auxiliary = samplers[0].random_numbers(range(1))
        self.particle_requests = len(of_particles)
        each = len(seeds) * sum(numbers.numel() for numbers in (*of_particles, *of_auxiliary))
        size, chunks, total = _divisor(self.count, NUMBERS_PER_CALL // max(each, 1)), [], 0
        for first in range(0, self.count, size):
            per_run = [chain(*sampler.random_numbers(range(first, first + size))) for sampler in samplers]
            chunk = [torch.stack(numbers) for numbers in zip(*per_run, strict=True)]
            total += sum(numbers.nbytes for numbers in chunk)
            if total <= MAX_NOISE_BYTES:
                chunks.append(chunk)
            yield chunk
        self.kept = {seeds: chunks} if total <= MAX_NOISE_BYTES else {}

    def _gradients(self, model: Model, estimator: GradientEstimator, x: Tensor, *rest: Tensor) -> Tensor:
        """Gradients of some draws of one run: [draws, D]."""
        alphas = int(self.settings.warmup > 0)
        parts = ModelAndEstimator(model, estimator)
        values = dict(parts.named_parameters())
        selected: dict[str, Tensor] = {f"model.{name}": values[f"model.{name}"] for name in self.names}

        def draw(*noise: Tensor) -> Tensor:
            def loss(selected: dict[str, Tensor]) -> Any:
                return functional_call(parts, selected, (self._loss, x, rest[:alphas], noise))

            grads = grad(loss)(selected)
            return torch.cat([grads[name].flatten() for name in selected])

        gradients: Tensor = vmap(draw)(*rest[alphas:])
        return gradients / len(x)

    def _loss(
        self,
        model: Model,
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
    """The largest divisor of ``count`` up to ``largest``, at least 1, so that all chunks have the same size."""
    return max((d for d in range(1, largest + 1) if count % d == 0), default=1)
