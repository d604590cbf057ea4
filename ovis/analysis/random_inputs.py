"""The random numbers of a model as an input: their shapes are recorded once, then the numbers are supplied.

A model's samples are functions of uniform and normal numbers. While a model runs, :class:`RandomInputs` replaces the
random functions of torch by ones that return given tensors, so that the numbers can be numbered by draw and datum, be
shared by estimators, and be mapped over (``vmap`` refuses the in-place ``normal_`` of ``Normal.rsample``). Rejection
samplers (gamma, Dirichlet, Poisson, binomial) get one generator for each datum, seeded by a uniform number. Every other
source of random numbers is refused, because its numbers would not depend on the seed: other functions of torch, NumPy's
and Python's global generators, and generators of the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovis.analysis.foreign_generators import global_generators_unused, own_generators_unused
from ovis.analysis.seeding import seeded_generator

__all__ = [
    "RandomInputSpec",
    "RandomInputs",
    "check_random",
    "check_repeatable",
    "make_random_inputs",
    "record_random_inputs",
]

REMEDY = (
    "draw through torch.rand, randn, bernoulli, multinomial or a distribution of torch, or, where it is noise of the "
    "training, call model.eval()"
)


@dataclass(frozen=True)
class RandomInputSpec:
    """Shape and distribution of random numbers that a model needs for one datum."""

    normal: bool  # else uniform in [0, 1)
    count: int
    dtype: torch.dtype


class RandomInputs(TorchFunctionMode):
    """A context in which torch's random functions return these numbers, in this order.

    Args:
        given: for each request, numbers of shape [rows, count]: one row per datum, in the order of the model.

    Raises:
        ValueError: (inside) the model requests more numbers, or not equally many for each datum.
    """

    def __init__(self, given: Sequence[Tensor]):
        super().__init__()
        self.given = list(given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = HANDLERS.get(func)
        return func(*args, **(kwargs or {})) if handler is None else handler(self.take, *args, **(kwargs or {}))

    def take(self, normal: bool, shape: Sequence[int] | None, like: Tensor) -> Tensor:
        """The next numbers, in this shape; None: one number for each row."""
        if not self.given:
            raise ValueError("the model draws more random numbers than it did for its first datum")
        noise = self.given.pop(0)
        if shape is None:
            return noise.flatten()
        if noise.numel() != torch.Size(shape).numel():
            raise ValueError("the model's random numbers are not as many for each datum")
        return noise.reshape(torch.Size(shape)).clone()  # the model may write into its numbers


class _SpecRecorder(RandomInputs):
    """Records the specs of the numbers drawn, and refuses functions that draw from torch's global generators."""

    def __init__(self) -> None:
        super().__init__(())
        self.requests: list[RandomInputSpec] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = _global_states()
        result = super().__torch_function__(func, types, args, kwargs)
        generator = None if func in HANDLERS else (kwargs or {}).get("generator")
        if generator is not None or not all(map(torch.equal, before, _global_states())):
            raise _refusal(getattr(func, "__name__", str(func)))
        return result

    def take(self, normal: bool, shape: Sequence[int] | None, like: Tensor) -> Tensor:
        size = torch.Size((1,) if shape is None else shape)
        self.requests.append(RandomInputSpec(normal, size.numel(), like.dtype))
        numbers = torch.empty(size, dtype=like.dtype, device=like.device)
        generator = torch.Generator(like.device).manual_seed(len(self.requests))
        return numbers.normal_(generator=generator) if normal else numbers.uniform_(generator=generator)


def _global_states() -> list[Tensor]:
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])


def _refusal(name: str) -> ValueError:
    return ValueError(f"{name} draws random numbers that can't be numbered by draw and datum: {REMEDY}")


def record_random_inputs(run: Callable[[], Any]) -> tuple[tuple[RandomInputSpec, ...], Any]:
    """The specs of the random numbers that ``run`` draws for one datum, and its result.

    The global random states are left as they were.

    Raises:
        ValueError: ``run`` draws from a random function whose numbers can't be supplied, or from the global generator
            of NumPy or Python.
    """
    with global_generators_unused(_refusal), torch.random.fork_rng(), _SpecRecorder() as recorder:
        result = run()
    return tuple(recorder.requests), result


def check_random(model: nn.Module, requests: Sequence[RandomInputSpec]) -> None:
    """Check that a model, with its estimator, draws at least one random number that can be supplied.

    Raises:
        ValueError: there is none, so that all draws would be equal.
    """
    if not requests:
        raise ValueError(
            f"{type(model).__name__} draws no random numbers through torch, so its gradient would not vary: {REMEDY}"
        )


def check_repeatable(model: nn.Module, run: Callable[[], Sequence[Tensor]]) -> None:
    """Check that two runs with the same random numbers have the same results, up to rounding.

    Args:
        model: the model that runs, which is named in the error.
        run: computes tensors from given random numbers, leaving the buffers as they were.

    Raises:
        ValueError: the second run draws from a generator of NumPy or Python that ``run`` refers to, which need not show
            in the results if the events are rare; or the results differ. Rare events of a generator that is created
            anew in every run, from the entropy of the system, are not noticed.
    """
    results = run()
    with own_generators_unused(
        run, lambda generator: _refusal(f"{type(model).__name__} or its estimator, by {generator},")
    ):
        repeated = run()
    for first, second in zip(results, repeated, strict=True):
        if not _same(first, second):
            raise ValueError(
                f"{type(model).__name__} or its estimator has other results for the same random numbers: it draws from "
                f"a generator of its own ({REMEDY}), or a forward pass changes a state outside its buffers, such as a "
                "counter of an annealing schedule (leave the state as it is in such passes, e.g. in evaluation mode)"
            )


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two results are equal up to half of their digits: some sums on a GPU depend on the order of threads."""
    if first.shape != second.shape:
        return False
    digits = torch.finfo(first.dtype).eps ** 0.5 if first.is_floating_point() else 0.0
    first, second = first.detach().double(), second.detach().double()
    size = first.nan_to_num(0.0, 0.0, 0.0).abs().amax().item() if first.numel() else 0.0
    return torch.allclose(first, second, rtol=digits, atol=digits * size, equal_nan=True)


def make_random_inputs(
    requests: Sequence[RandomInputSpec], rows: Sequence[int], device: torch.device, seed: int, purpose: int
) -> list[Tensor]:
    """Draw the numbers of each request, shape [rows, count]. Row number r depends on (seed, purpose, r) alone.

    Args:
        requests: the specs for one datum.
        rows: the row numbers.
        device: device of the result.
        seed: seed of the study.
        purpose: separates independent sets of numbers with the same seed.
    """
    noise = [torch.empty(len(rows), request.count, dtype=request.dtype, device=device) for request in requests]
    for position, row in enumerate(rows if noise else ()):
        generator = seeded_generator(device, seed, purpose, row)
        for request, numbers in zip(requests, noise, strict=True):
            fill = numbers[position].normal_ if request.normal else numbers[position].uniform_
            fill(generator=generator)
    return noise


Take = Callable[[bool, Sequence[int] | None, Tensor], Tensor]


def _factory(normal: bool) -> Callable[..., Tensor]:
    def made(take: Take, *size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return take(normal, shape, torch.empty(0, dtype=dtype, device=device))

    return made


def _like(normal: bool) -> Callable[..., Tensor]:
    return lambda take, tensor, **_: take(normal, tensor.shape, tensor)


def _write(tensor: Tensor, value: Tensor) -> Tensor:
    """Write a value into a tensor and return the tensor.

    vmap can't write a value that differs between draws into a tensor that does not. In that case the value is returned
    and the tensor filled with NaN, so that code that reads the tensor instead of the result gets no stale numbers.
    """
    try:
        return tensor.copy_(value)
    except RuntimeError:
        tensor.fill_(math.nan)
        return value


def _normal_in_place(take: Take, tensor: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return _write(tensor, take(True, tensor.shape, tensor) * std + mean)


def _log_normal_in_place(take: Take, tensor: Tensor, mean: float = 1.0, std: float = 2.0, **_: Any) -> Tensor:
    return _write(tensor, (take(True, tensor.shape, tensor) * std + mean).exp())


def _uniform_in_place(take: Take, tensor: Tensor, low: float = 0.0, high: float = 1.0, **given: Any) -> Tensor:
    low, high = given.get("from", low), given.get("to", high)
    return _write(tensor, take(False, tensor.shape, tensor) * (high - low) + low)


def _exponential_in_place(take: Take, tensor: Tensor, lambd: float = 1.0, **_: Any) -> Tensor:
    return _write(tensor, -torch.log1p(-take(False, tensor.shape, tensor)) / lambd)


def _cauchy_in_place(take: Take, tensor: Tensor, median: float = 0.0, sigma: float = 1.0, **_: Any) -> Tensor:
    return _write(tensor, (math.pi * (take(False, tensor.shape, tensor) - 0.5)).tan() * sigma + median)


def _geometric_in_place(take: Take, tensor: Tensor, p: float, **_: Any) -> Tensor:
    trials = torch.log1p(-take(False, tensor.shape, tensor)) / math.log1p(-p)
    return _write(tensor, trials.ceil().clamp(min=1))


def _bernoulli_in_place(take: Take, tensor: Tensor, p: Tensor | float = 0.5, **_: Any) -> Tensor:
    return _write(tensor, (take(False, tensor.shape, _precise(tensor)) < p).to(tensor.dtype))


def _dropout(
    take: Take, tensor: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, **_: Any
) -> Tensor:
    if not training or p == 0:
        return tensor
    kept = take(False, tensor.shape, _precise(tensor)) >= p
    dropped = torch.where(kept, tensor / (1 - p), 0.0)
    return tensor.copy_(dropped) if inplace else dropped


def _gumbel_softmax(
    take: Take, logits: Tensor, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    uniform = take(False, logits.shape, _precise(logits)).clamp(min=torch.finfo(torch.float32).tiny)
    gumbel = -(-torch.log1p(-uniform)).log()
    soft = ((logits + gumbel.to(logits.dtype)) / tau).softmax(dim)
    if not hard:
        return soft
    picked = torch.zeros_like(logits).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return picked - soft.detach() + soft


def _by_rejection(func: Callable[..., Tensor], event: int = 0) -> Callable[..., Tensor]:
    """Samples that need an unknown number of random numbers: drawn with a separate generator for each row.

    Args:
        func: the random function, called with its parameters and ``generator``.
        event: how many of the last dimensions of the parameters are one event.
    """

    def sample(take: Take, *parameters: Tensor, **_: Any) -> Tensor:
        like = torch.empty(0, dtype=torch.float64, device=parameters[0].device)
        seeds = (take(False, None, like) * 2**32).tolist()
        shape = torch.broadcast_shapes(*(p.shape for p in parameters))
        if shape.numel() % len(seeds):
            raise ValueError("the model's random numbers are not as many for each datum")
        row_shape = (len(seeds), -1, *shape[len(shape) - event :])
        rows = zip(*(p.expand(shape).reshape(row_shape) for p in parameters), strict=True)
        device = parameters[0].device
        samples = [
            func(*row, generator=torch.Generator(device).manual_seed(int(seed)))
            for row, seed in zip(rows, seeds, strict=True)
        ]
        return torch.stack(samples).view(shape)

    return sample


def _normal(take: Take, mean: Tensor, std: Tensor, **_: Any) -> Tensor:
    return take(True, torch.broadcast_shapes(mean.shape, std.shape), mean) * std + mean


def _bernoulli(take: Take, probs: Tensor, **_: Any) -> Tensor:
    return (take(False, probs.shape, _precise(probs)) < probs).to(probs.dtype)


def _multinomial(take: Take, probs: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    if not replacement and num_samples > 1:
        raise ValueError("samples without replacement can't be numbered")
    uniform = take(False, (*probs.shape[:-1], num_samples), _precise(probs))
    below = probs.cumsum(-1, dtype=uniform.dtype)
    index = (uniform.unsqueeze(-1) * below[..., -1:].unsqueeze(-2) >= below.unsqueeze(-2)).sum(-1)
    last = (below < below[..., -1:]).sum(-1, keepdim=True)  # of positive probability: the product may round up
    return torch.minimum(index, last)


def _precise(tensor: Tensor) -> Tensor:
    """An empty tensor for uniform numbers that are compared with a probability: at least in single precision."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.empty(0, dtype=dtype, device=tensor.device)


HANDLERS: dict[Any, Callable[..., Tensor]] = {
    torch.rand: _factory(normal=False),
    torch.randn: _factory(normal=True),
    torch.rand_like: _like(normal=False),
    torch.randn_like: _like(normal=True),
    torch.Tensor.normal_: _normal_in_place,
    torch.Tensor.uniform_: _uniform_in_place,
    torch.Tensor.exponential_: _exponential_in_place,
    torch.Tensor.log_normal_: _log_normal_in_place,
    torch.Tensor.cauchy_: _cauchy_in_place,
    torch.Tensor.geometric_: _geometric_in_place,
    torch.Tensor.bernoulli_: _bernoulli_in_place,
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
    torch.nn.functional.dropout: _dropout,
    torch.nn.functional.gumbel_softmax: _gumbel_softmax,
    torch._standard_gamma: _by_rejection(torch._standard_gamma),
    torch._sample_dirichlet: _by_rejection(torch._sample_dirichlet, event=1),
    torch.poisson: _by_rejection(torch.poisson),
    torch.binomial: _by_rejection(torch.binomial),
}
