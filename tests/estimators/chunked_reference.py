"""The gradient of all particles at once from the very particles that several chunks drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from problems import scripted
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal, normal

from ovis.estimators import GradientEstimator
from ovis.estimators.sampling import encode
from ovis.estimators.types import Particles
from ovis.models.distributions import BernoulliVector


@dataclass(frozen=True)
class Result:
    loss: Tensor
    diagnostics: dict[str, Tensor]
    grads: dict[str, Tensor | None]  # of the model's parameters, the estimator's, and x


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """Whatever is sampled inside, in this order; of reparameterized normals the noise."""
    found: list[Tensor] = []

    def recording(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            value: Tensor = function(*args, **kwargs)
            found.append(value.detach().clone())
            return value

        return call

    with ExitStack() as stack:
        for kind in (Bernoulli, Categorical, Normal, BernoulliVector):
            stack.enter_context(mock.patch.object(kind, "sample", recording(kind.sample)))
        stack.enter_context(mock.patch.object(normal, "_standard_normal", recording(normal._standard_normal)))
        yield found


def sizes(count: int, size: int) -> list[int]:
    return [min(size, count - start) for start in range(0, count, size)]


def join(samples: Sequence[Tensor], rows: int, each: Sequence[int]) -> Tensor:
    """Samples of several chunks as one draw would have made them: [B, n, ...], [n, B, ...] or [B n, ...]."""
    if any(s.dim() == 3 and s.shape[2] == 1 for s in samples):  # one particle of a class is drawn as [B, 1]
        samples = [s if s.dim() == 3 else s.T.unsqueeze(-1) for s in samples]
    if all(s.shape[:2] == (n, rows) for s, n in zip(samples, each, strict=True)):
        return torch.cat(list(samples))
    return torch.cat([s.reshape(rows, n, -1) for s, n in zip(samples, each, strict=True)], 1)


def by_chunk(records: Sequence[Tensor], rows: int, each: Sequence[int]) -> list[Tensor]:
    """Each of the draws of a chunk, of all chunks together."""
    step = len(records) // len(each)
    return [join(records[i::step], rows, each) for i in range(step)]


def differentiate(
    estimator: GradientEstimator, model: nn.Module, x: Tensor, loss: Tensor, diagnostics: Any, weights: Tensor
) -> Result:
    named = [*model.named_parameters(), *((f"estimator.{k}", v) for k, v in estimator.named_parameters())]
    named = [(k, v) for k, v in [*named, ("x", x)] if v.requires_grad]
    grads = torch.autograd.grad((loss * weights).sum(), [v for _, v in named], allow_unused=True)
    measured = {k: v for group in diagnostics.values() for k, v in group.items()}
    return Result(loss.detach(), measured, dict(zip([k for k, _ in named], grads, strict=True)))


def weights_of(x: Tensor) -> Tensor:
    """Of the data's losses, all different, so that none is mistaken for another."""
    return torch.linspace(0.5, 1.5, len(x), dtype=x.dtype)


def both_ways(
    estimator: GradientEstimator, model: nn.Module, x: Tensor, size: int, depth: int, auxiliary: int = 0, **call: Any
) -> tuple[Result, Result]:
    """The same draws in chunks and all at once.

    Args:
        estimator: its settings say how many particles.
        model: draws each layer of a chunk at once.
        x: data, shape [B, *event].
        size: particles of a chunk.
        depth: of the model.
        auxiliary: S, samples that the estimator draws on top for each bound.
        call: settings of the call.
    """
    settings = estimator.configured(**call)
    main = sizes(settings.mc * settings.iw, size)
    extra = sizes(settings.mc * auxiliary, size)
    with recorded() as records:
        loss, diagnostics, output = estimator(model, x, particles_per_pass=size, **call)
        assert (output == {}) is (len(main) > 1)
        first = list(records)
        several = differentiate(estimator, model, x, loss, diagnostics, weights_of(x))
    end = [depth * len(main), depth * (len(main) + len(extra))]
    drawn, aside, dreams = first[: end[0]], first[end[0] : end[1]], first[end[1] :]
    if len(main) > 1:
        again = records[len(first) :]
        assert len(again) == len(drawn) + len(dreams)
        assert all(torch.equal(a, b) for a, b in zip(again, drawn + dreams, strict=True))
    script = by_chunk(drawn, len(x), main)
    script += by_chunk(aside, len(x), extra) if aside else []
    script += by_chunk(dreams, len(x), main) if dreams else []
    with scripted(script):
        loss, diagnostics, _ = estimator(model, x, **call)
    return several, differentiate(estimator, model, x, loss, diagnostics, weights_of(x))


def from_the_same_stream(
    estimator: GradientEstimator, model: nn.Module, x: Tensor, size: int, seed: int
) -> tuple[Result, Result]:
    """The same for any model, of which the graph of all chunks is held at once. Not for DReG, which scales grad z."""
    settings = estimator.settings
    torch.manual_seed(seed)
    loss, diagnostics, _ = estimator(model, x, particles_per_pass=size)
    several = differentiate(estimator, model, x, loss, diagnostics, weights_of(x))
    torch.manual_seed(seed)
    encoded = encode(model, x)
    drawn = [estimator.draw(model, x, encoded, settings, n) for n in sizes(settings.mc * settings.iw, size)]
    particles = Particles(
        torch.cat([p.log_px for p in drawn], 1),
        torch.cat([p.log_pz for p in drawn], 1),
        torch.cat([p.log_qz for p in drawn], 1),
        drawn[0].output,
    )
    loss = estimator.loss(model, x, encoded, particles, settings)
    return several, differentiate(estimator, model, x, loss, {}, weights_of(x))


def close(a: Result, b: Result, tolerance: float = 1e-10) -> None:
    """Equal to rounding, and not all zero."""
    options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    torch.testing.assert_close(a.loss, b.loss, **options)
    if b.diagnostics:
        assert a.diagnostics.keys() == b.diagnostics.keys()
    for name, value in b.diagnostics.items():
        torch.testing.assert_close(a.diagnostics[name], value, **options)
    assert a.grads.keys() == b.grads.keys()
    assert not all(grad is None or grad.abs().sum() == 0 for grad in b.grads.values())
    for name, grad in b.grads.items():
        assert (grad is None) == (a.grads[name] is None), name
        if grad is not None:
            torch.testing.assert_close(a.grads[name], grad, msg=lambda m, name=name: f"{name}: {m}", **options)
