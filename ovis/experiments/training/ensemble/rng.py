"""The random numbers of several runs at once, bit-identical to those that each run draws alone.

A run draws from torch's global generator. :class:`SuppliedRandom` overrides torch's random functions while a model runs
and returns numbers that were drawn before: with the generator of each run, by the kernels of the random functions, in
the same order and sizes. The remaining work of a random function is arithmetic, which can be traced and mapped over the
runs. (``ovis.analysis.random_inputs`` numbers its draws by datum instead, and its numbers need not equal torch's.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["RandomBuffers", "RandomRequest", "SuppliedRandom", "record_requests"]


@dataclass(frozen=True)
class RandomRequest:
    """Random numbers that one run requests in one call."""

    kind: str  # uniform, normal, exponential, bernoulli
    shape: tuple[int, ...]
    dtype: torch.dtype
    probability: float = 0.5  # of a one, if bernoulli

    def filler(self, out: Tensor) -> Callable[..., Any]:
        """The method that fills a tensor of this shape in place, given ``generator``."""
        if self.kind == "bernoulli":
            return lambda generator: out.bernoulli_(self.probability, generator=generator)
        fill: Callable[..., Any] = getattr(out, f"{self.kind}_")
        return fill


class SuppliedRandom(TorchFunctionMode):
    """A context in which torch's random functions return these numbers, in this order.

    Args:
        numbers: for each request, a tensor of its shape.
    """

    def __init__(self, numbers: Sequence[Tensor]):
        super().__init__()
        self.numbers = list(numbers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        return func(*args, **kwargs) if handler is None else handler(self.take, *args, **kwargs)

    def take(self, request: RandomRequest, device: torch.device) -> Tensor:
        """The numbers of the next request."""
        return self.numbers.pop(0)


class _RequestRecorder(SuppliedRandom):
    """Records the requests, and draws their numbers."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(())
        self.generator = generator
        self.requests: list[RandomRequest] = []

    def take(self, request: RandomRequest, device: torch.device) -> Tensor:
        self.requests.append(request)
        numbers = torch.empty(request.shape, dtype=request.dtype, device=device)
        request.filler(numbers)(generator=self.generator)
        return numbers


def record_requests(run: Callable[[], Any], generator: torch.Generator) -> tuple[tuple[RandomRequest, ...], Any]:
    """The random numbers that ``run`` requests, and its result with numbers of this generator."""
    with _RequestRecorder(generator) as recorder:
        result = run()
    return tuple(recorder.requests), result


class RandomBuffers:
    """The random numbers of a call for each of several runs, in tensors that are refilled for each call.

    Args:
        requests: the requests of one run.
        runs: number of runs.
        device: device of the numbers.
    """

    def __init__(self, requests: Sequence[RandomRequest], runs: int, device: torch.device):
        self.numbers = [torch.empty(runs, *r.shape, dtype=r.dtype, device=device) for r in requests]  # [S, *shape]
        pairs = list(zip(requests, self.numbers, strict=True))
        self._fillers = [[request.filler(numbers[s]) for request, numbers in pairs] for s in range(runs)]

    def fill(self, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """The next numbers of each run: for each request, shape [S, *shape]."""
        for fillers, generator in zip(self._fillers, generators, strict=True):
            for fill in fillers:
                fill(generator=generator)
        return self.numbers


Take = Callable[[RandomRequest, torch.device], Tensor]


def _factory(kind: str) -> Callable[..., Tensor]:
    def made(take: Take, *size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        like = torch.empty(0, dtype=dtype, device=device)
        return take(RandomRequest(kind, tuple(shape), like.dtype), like.device)

    return made


def _like(kind: str) -> Callable[..., Tensor]:
    return lambda take, tensor, **_: take(RandomRequest(kind, tuple(tensor.shape), tensor.dtype), tensor.device)


def _normal_in_place(take: Take, tensor: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return _like("normal")(take, tensor) * std + mean


def _uniform_in_place(take: Take, tensor: Tensor, low: float = 0.0, high: float = 1.0, **given: Any) -> Tensor:
    low, high = given.get("from", low), given.get("to", high)
    return _like("uniform")(take, tensor) * (high - low) + low


def _normal(take: Take, mean: Tensor, std: Tensor, **_: Any) -> Tensor:
    shape = tuple(torch.broadcast_shapes(mean.shape, std.shape))
    return take(RandomRequest("normal", shape, mean.dtype), mean.device) * std + mean


def _bernoulli(take: Take, probs: Tensor, **_: Any) -> Tensor:
    return (_like("uniform")(take, probs) < probs).to(probs.dtype)


def _multinomial(take: Take, probs: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    if num_samples == 1:  # as in torch: the class whose exponential waiting time is the shortest
        clocks = take(RandomRequest("exponential", tuple(probs.shape), probs.dtype), probs.device)
        return (probs / clocks).argmax(-1, keepdim=True)
    if not replacement:
        raise NotImplementedError("samples without replacement")
    shape = (*probs.shape[:-1], num_samples)
    uniform = take(RandomRequest("uniform", shape, torch.float64), probs.device)
    below = probs.cumsum(-1)
    below = below[..., :-1] / below[..., -1:]  # the last class gets the probability that rounding leaves over
    # summed over dimension -2 and as floats, which a compiler vectorizes
    return (below.unsqueeze(-1) < uniform.unsqueeze(-2)).sum(-2, dtype=below.dtype).long()


def _dropout(
    take: Take, tensor: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, **_: Any
) -> Tensor:
    if not training or p == 0:
        return tensor
    kept = take(RandomRequest("bernoulli", tuple(tensor.shape), tensor.dtype, 1 - p), tensor.device)
    return tensor * (kept / (1 - p))


HANDLERS: dict[Any, Callable[..., Tensor]] = {
    torch.rand: _factory("uniform"),
    torch.randn: _factory("normal"),
    torch.rand_like: _like("uniform"),
    torch.randn_like: _like("normal"),
    torch.Tensor.normal_: _normal_in_place,
    torch.Tensor.uniform_: _uniform_in_place,
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
    torch.nn.functional.dropout: _dropout,
}
