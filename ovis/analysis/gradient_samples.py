"""Samplers of the gradient of the mini-batch's mean loss with respect to parameters, or to a tensor of the output.

Draw number i depends on (seed, i, datum) alone: neither on how draws and data are batched nor on the other estimators.
Estimators that draw their particles in the same way share them, with their log-weights and their graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from ovis.analysis.module_state import (
    batch_norm_modules,
    frozen_batch_statistics,
    no_argument_validation,
    restored_buffers,
    untracked_batch_statistics,
)
from ovis.analysis.output_tensors import output_tensors
from ovis.analysis.random_inputs import (
    RandomInputs,
    RandomInputSpec,
    check_random,
    check_repeatable,
    make_random_inputs,
    record_random_inputs,
)
from ovis.estimators.base import GradientEstimator
from ovis.estimators.sampling import encode, unwrapped
from ovis.estimators.types import Particles
from ovis.nests import Nest, count_rows, first_tensor, rows_of

__all__ = ["ParameterGradientSampler", "TensorGradientSampler", "select_parameters"]

#: Particles in memory at once by default.
PARTICLES = 2**13

#: Entries of gradients in memory at once (32 MB in float32; differentiation makes a few copies): the gradients of a
#: large model need more memory than the graph of a few particles.
NUMBERS = 2**23

#: Data of the two runs with equal random numbers that are compared at the start.
REPEATED = 16

#: Separate sets of random numbers: for the particles, and for an estimator's additional samples.
MAIN, AUXILIARY = 0, 1

Section = tuple[int, tuple[RandomInputSpec, ...]]


def select_parameters(model: nn.Module, key_filter: str) -> dict[str, nn.Parameter]:
    """The trainable parameters whose name contains one of the comma-separated keys.

    Args:
        model: the model.
        key_filter: keys, e.g. ``inference_network`` or ``A,b``.

    Returns:
        parameters by name, in the model's order.

    Raises:
        ValueError: no name contains a key; the message lists the model's modules.
    """
    keys = [key.strip() for key in key_filter.split(",") if key.strip()]
    named = {n: p for n, p in model.named_parameters() if p.requires_grad and any(key in n for key in keys)}
    if not named:
        valid = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
        raise ValueError(f"no parameter of {type(model).__name__} has {key_filter!r} in its name; it has: {valid}")
    return named


@dataclass(frozen=True)
class _Member:
    """One estimator of a group: its index among all estimators, and its settings for these draws."""

    index: int
    estimator: GradientEstimator
    settings: Any


class _EstimatorGroup(nn.Module):
    """Estimators that share their particles, as a function of the model's parameters and the random numbers."""

    def __init__(self, model: nn.Module, members: Sequence[_Member], x: Nest):
        super().__init__()
        self.model, self.members = model, list(members)
        self.estimators = nn.ModuleList(member.estimator for member in members)
        self.sections = self._record(rows_of(x, slice(1)))

    @property
    def particles(self) -> int:
        """Particles of one datum."""
        settings = self.members[0].settings
        count: int = settings.mc * settings.iw
        return count

    def forward(self, x: Nest, noise: Sequence[Sequence[Tensor]]) -> Tensor:
        """The sum of each estimator's losses over x: [members], from the random numbers of each section."""
        return self.losses(x, noise)[0]

    def losses(self, x: Nest, noise: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Particles]:
        totals = []
        with untracked_batch_statistics(self.model):
            with RandomInputs(noise[0]):
                encoded, particles = self._draw(x)
            for member, given in zip(self.members, noise[1:], strict=True):
                with RandomInputs(given):
                    totals.append(self._loss(member, x, encoded, particles).sum())
        return torch.stack(totals), particles

    def _draw(self, x: Nest) -> tuple[Nest | None, Particles]:
        encoded, first = encode(self.model, x), self.members[0]
        return encoded, first.estimator.draw(self.model, x, encoded, first.settings)

    def _loss(self, member: _Member, x: Nest, encoded: Nest | None, particles: Particles) -> Tensor:
        return member.estimator.loss(self.model, x, encoded, particles, member.settings)

    def _record(self, x: Nest) -> list[Section]:
        with frozen_batch_statistics(self.model), restored_buffers(self):  # one datum has none
            requests, (encoded, particles) = record_random_inputs(lambda: self._draw(x))
            sections = [(MAIN, requests)]
            for member in self.members:
                loss = partial(self._loss, member, x, encoded, particles)
                sections.append((AUXILIARY, record_random_inputs(loss)[0]))
        return sections

    def check(self, x: Nest) -> None:
        """Refuse a model or an estimator whose results do not depend on the given random numbers, and on them alone."""
        rows, device = range(count_rows(x)), first_tensor(x).device
        noise = [make_random_inputs(requests, rows, device, 0, key) for key, requests in self.sections]
        parameters = [p for p in self.parameters() if p.requires_grad]

        def run() -> list[Tensor]:
            with torch.enable_grad(), restored_buffers(self):
                losses, particles = self.losses(x, noise)
                results = [losses, particles.log_px, particles.log_pz, particles.log_qz, *particles.z]
                for loss in losses if losses.requires_grad else ():  # a baseline is seen in the gradient only
                    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                    results += [grad.to_dense() for grad in grads if grad is not None]
            return [result.detach() for result in results]

        check_repeatable(self.model, run)
        check_random(self.model, [request for _, requests in self.sections for request in requests])


class _GradientSampler:
    """The common part of both samplers: groups of estimators, batches of draws, random numbers.

    Args:
        estimators: estimators by name.
        model: their model. Its mode, its gradients and the global random state are left unchanged.
        x: the mini-batch, shape [B, *event], or a nest of such tensors.
        seed: seed of the random numbers.
        samples_per_batch: largest number of particles whose graph is in memory at once, at least those of one datum,
            or of all data where batch normalization uses the batch's statistics; None: 8,192.
        config: settings of all estimators for these draws, e.g. ``alpha``.
    """

    def __init__(
        self,
        estimators: Mapping[str, GradientEstimator],
        model: nn.Module,
        x: Nest,
        seed: int = 0,
        samples_per_batch: int | None = None,
        **config: Any,
    ):
        self.model = model = unwrapped(model)  # torch.func can't trace compiled code
        self.x, self.seed, self.count = x, seed, len(estimators)
        self.rows, self.device = count_rows(x), first_tensor(x).device
        groups: dict[Any, list[_Member]] = {}
        for index, estimator in enumerate(estimators.values()):
            settings = estimator.configured(**config)
            # an estimator that detaches q scales the gradient into z in its own way, so it forms a separate group
            alone = index if estimator.detached_q else None
            key = (estimator.reparameterized, estimator.mixed, settings.mc * settings.iw, settings.tau, alone)
            groups.setdefault(key, []).append(_Member(index, estimator, settings))
        self.groups = [_EstimatorGroup(model, members, x) for members in groups.values()]
        self.particles = samples_per_batch or PARTICLES
        self.least = self.rows if batch_norm_modules(model) else 1
        for group in self.groups:
            group.check(rows_of(x, slice(max(self.least, min(REPEATED, self.particles // group.particles)))))

    @property
    def entries(self) -> int:
        """D, entries of a draw, where several draws are in memory at once."""
        return 1

    def _batches(self, start: int, stop: int) -> Iterator[tuple[range, list[range]]]:
        """For each batch the numbers of its draws, and the rows of x in each chunk."""
        rows, each = self.rows, max(group.particles for group in self.groups)
        batch = max(1, min(self.particles // (rows * each), NUMBERS // (self.count * self.entries)))
        size = min(rows, max(self.least, self.particles // each))
        pieces = [range(first, min(first + size, rows)) for first in range(0, rows, size)]
        for first in range(start, stop, batch):
            yield range(first, min(first + batch, stop)), pieces

    def random_numbers(self, numbers: range) -> list[list[Tensor]]:
        """The random numbers of the first estimator for all data.

        Returns:
            the numbers of its particles and those of its additional samples: for each request a tensor of shape
            [draws, B, count], of which one draw is the input of a :class:`~ovis.analysis.random_inputs.RandomInputs`.
        """
        return self._noise(self.groups[0], numbers, range(self.rows))[:2]

    def _noise(self, group: _EstimatorGroup, numbers: range, rows: range) -> list[list[Tensor]]:
        """Random numbers for each section of a group: for each request, shape [draws, rows, count]."""
        cells = [number * self.rows + row for number in numbers for row in rows]
        made: dict[Section, list[Tensor]] = {}
        for purpose, requests in group.sections:
            if (purpose, requests) not in made:
                numbers_of = make_random_inputs(requests, cells, self.device, self.seed, purpose)
                made[purpose, requests] = [n.view(len(numbers), len(rows), -1) for n in numbers_of]
        return [made[section] for section in group.sections]


class ParameterGradientSampler(_GradientSampler):
    """Samples gradients with respect to parameters, many at once under ``vmap``.

    A model that torch.func can't trace (it branches on values, writes into its buffers, has an autograd.Function
    without vmap, or samples by rejection) is differentiated by autograd, draw by draw.

    Args:
        key_filter: see :func:`select_parameters`.

    Raises:
        ValueError: no parameter has such a name.
    """

    def __init__(
        self,
        estimators: Mapping[str, GradientEstimator],
        model: nn.Module,
        x: Nest,
        key_filter: str = "inference_network",
        seed: int = 0,
        samples_per_batch: int | None = None,
        **config: Any,
    ):
        self.selected = select_parameters(unwrapped(model), key_filter)
        self.names = tuple(self.selected)
        super().__init__(estimators, model, x, seed, samples_per_batch, **config)
        self.mapped = True

    @property
    def entries(self) -> int:
        return sum(parameter.numel() for parameter in self.selected.values())

    @torch.no_grad()
    def __call__(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the draws with numbers start, ..., stop - 1 in order, a few at a time: [n, E, D]."""
        for numbers, pieces in self._batches(start, stop):
            totals: Tensor | None = None
            for rows in pieces:
                x = rows_of(self.x, slice(rows.start, rows.stop))
                for group in self.groups:
                    grads = self._gradients(group, x, self._noise(group, numbers, rows))
                    if totals is None:
                        totals = grads.new_zeros(len(numbers), self.count, self.entries)
                    totals[:, [member.index for member in group.members]] += grads
                    del grads  # before the next are made
            if totals is not None:
                yield totals.div_(self.rows)

    def _gradients(self, group: _EstimatorGroup, x: Nest, noise: list[list[Tensor]]) -> Tensor:
        """Gradients of the losses summed over x: [n, members, D]."""
        count = next((n.shape[0] for section in noise for n in section), 1)
        if self.mapped and count > 1:
            try:
                with no_argument_validation():
                    return self._mapped(group, x, noise)
            except (RuntimeError, ValueError, NotImplementedError):
                self.mapped = False  # an error of the model itself is clearer from the plain call
        return torch.stack(
            [self._plain(group, x, [[n[i] for n in section] for section in noise]) for i in range(count)]
        )

    def _mapped(self, group: _EstimatorGroup, x: Nest, noise: list[list[Tensor]]) -> Tensor:
        """All draws at once: noise [n, rows of x, numbers] -> [n, members, D]."""
        constant = {name: value.detach() for name, value in group.named_parameters()}
        buffers = {name: value.clone() for name, value in group.named_buffers()}
        selected = {f"model.{name}": constant.pop(f"model.{name}") for name in self.names}

        def one(noise: list[list[Tensor]]) -> Tensor:
            def losses(values: dict[str, Tensor]) -> Tensor:
                totals: Tensor = functional_call(group, {**constant, **buffers, **values}, (x, noise))
                return totals

            rows: dict[str, Tensor] = jacrev(losses)(selected)
            return torch.cat([row.reshape(len(row), -1) for row in rows.values()], 1)

        mapped: Tensor = vmap(one, randomness="different")(noise)
        return mapped

    def _plain(self, group: _EstimatorGroup, x: Nest, noise: list[list[Tensor]]) -> Tensor:
        """One draw: noise [rows of x, numbers] -> [members, D]."""
        parameters = list(self.selected.values())
        with torch.enable_grad(), restored_buffers(group):
            losses, _ = group.losses(x, noise)
            rows = []
            for loss in losses:
                grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                filled = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)]
                rows.append(torch.cat([g.flatten() for g in filled]))
        return torch.stack(rows)


class TensorGradientSampler(_GradientSampler):
    """Samples gradients with respect to a tensor of the model's output, e.g. the logits of q, draw by draw.

    Args:
        key: see :func:`ovis.analysis.output_tensors.output_tensors`.

    Raises:
        ValueError: (at the first draw) there is no such tensor.
    """

    def __init__(
        self,
        estimators: Mapping[str, GradientEstimator],
        model: nn.Module,
        x: Nest,
        key: str,
        seed: int = 0,
        samples_per_batch: int | None = None,
        **config: Any,
    ):
        super().__init__(estimators, model, x, seed, samples_per_batch, **config)
        self.names: tuple[str, ...] = (f"tensor:{key}",)
        self.key = key

    def __call__(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the draws with numbers start, ..., stop - 1 in order, one at a time: [1, E, D].

        D runs over the data, the layers and the entries of the tensor.
        """
        for numbers, pieces in self._batches(start, stop):
            for number in numbers:
                parts: list[list[Tensor]] = [[] for _ in range(self.count)]
                for rows in pieces:
                    for group in self.groups:
                        noise = [[n[0] for n in s] for s in self._noise(group, range(number, number + 1), rows)]
                        grads = self._gradients(group, rows_of(self.x, slice(rows.start, rows.stop)), noise)
                        for member, part in zip(group.members, grads, strict=True):
                            parts[member.index].append(part)
                yield torch.stack([torch.cat(part).flatten() for part in parts]).unsqueeze(0) / self.rows

    def _gradients(self, group: _EstimatorGroup, x: Nest, noise: list[list[Tensor]]) -> list[Tensor]:
        """Gradients for each member, shape [rows of x, entries of a row]."""
        with torch.enable_grad(), restored_buffers(group):
            losses, particles = group.losses(x, noise)
            tensors = output_tensors(particles.output, self.key)
            rows = []
            for loss in losses:
                grads = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
                filled = [torch.zeros_like(t) if g is None else g for g, t in zip(grads, tensors, strict=True)]
                rows.append(torch.cat([g.reshape(count_rows(x), -1) for g in filled], 1))
        return rows
