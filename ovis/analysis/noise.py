"""The random numbers of a model as an input: recorded once by shape, then given, whatever is batched with what.

A model's samples are functions of uniform and normal numbers. :class:`Noise` stands in front of torch's random
functions while a model runs: it hands out tensors that were made elsewhere, so they can be numbered by draw and datum,
be shared by estimators, and be mapped over (``vmap`` refuses the in-place ``normal_`` of ``Normal.rsample``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ovis.analysis.streams import stream

__all__ = ["Noise", "Request", "make_noise", "record"]


@dataclass(frozen=True)
class Request:
    """Random numbers that a model asks for, for one datum."""

    normal: bool  # else uniform in [0, 1)
    count: int
    dtype: torch.dtype


class Noise(TorchFunctionMode):
    """Whatever is drawn inside takes these numbers, in this order.

    Args:
        given: for each request, numbers [rows, count]: the rows are the data, their order the model's.

    Raises:
        ValueError: (inside) the model asks for more, or for numbers that are not a multiple of the data's.
    """

    def __init__(self, given: Sequence[Tensor]):
        super().__init__()
        self.given = list(given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = HANDLERS.get(func)
        return func(*args, **(kwargs or {})) if handler is None else handler(self.take, *args, **(kwargs or {}))

    def take(self, normal: bool, shape: Sequence[int], like: Tensor) -> Tensor:
        if not self.given:
            raise ValueError("the model draws more random numbers than it did for its first datum")
        noise = self.given.pop(0)
        if noise.numel() != torch.Size(shape).numel():
            raise ValueError("the model's random numbers are not as many for each datum")
        return noise.reshape(torch.Size(shape))


class _Recorder(Noise):
    """Draws from torch's own generator, and writes down what was asked for."""

    def __init__(self) -> None:
        super().__init__(())
        self.requests: list[Request] = []

    def take(self, normal: bool, shape: Sequence[int], like: Tensor) -> Tensor:
        self.requests.append(Request(normal, torch.Size(shape).numel(), like.dtype))
        maker = torch.randn if normal else torch.rand
        return maker(torch.Size(shape), dtype=like.dtype, device=like.device)


def record(run: Callable[[], Any]) -> tuple[tuple[Request, ...], Any]:
    """What random numbers ``run`` asks for when it runs on one datum, and its result.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(), _Recorder() as recorder:
        result = run()
    return tuple(recorder.requests), result


def make_noise(
    requests: Sequence[Request], rows: Sequence[int], device: torch.device, seed: int, purpose: int
) -> list[Tensor]:
    """Numbers for each request, [rows, count]: row number r depends on (seed, purpose, r) alone.

    Args:
        requests: what the model asks for, for one datum.
        rows: numbers of the rows.
        device: where.
        seed: of the study.
        purpose: stream.
    """
    noise = [torch.empty(len(rows), request.count, dtype=request.dtype, device=device) for request in requests]
    for position, row in enumerate(rows if noise else ()):
        generator = stream(device, seed, purpose, row)
        for request, numbers in zip(requests, noise, strict=True):
            fill = numbers[position].normal_ if request.normal else numbers[position].uniform_
            fill(generator=generator)
    return noise


Take = Callable[[bool, Sequence[int], Tensor], Tensor]


def _factory(normal: bool) -> Callable[..., Tensor]:
    def made(take: Take, *size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return take(normal, shape, torch.empty(0, dtype=dtype, device=device))

    return made


def _like(normal: bool) -> Callable[..., Tensor]:
    return lambda take, tensor, **_: take(normal, tensor.shape, tensor)


def _normal_in_place(take: Take, tensor: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return take(True, tensor.shape, tensor) * std + mean


def _uniform_in_place(take: Take, tensor: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
    return take(False, tensor.shape, tensor) * (high - low) + low


def _exponential_in_place(take: Take, tensor: Tensor, rate: float = 1.0, **_: Any) -> Tensor:
    return -torch.log1p(-take(False, tensor.shape, tensor)) / rate


def _normal(take: Take, mean: Tensor, std: Tensor, **_: Any) -> Tensor:
    return take(True, torch.broadcast_shapes(mean.shape, std.shape), mean) * std + mean


def _bernoulli(take: Take, probs: Tensor, **_: Any) -> Tensor:
    return (take(False, probs.shape, probs) < probs).to(probs.dtype)


def _multinomial(take: Take, probs: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    if not replacement and num_samples > 1:
        raise ValueError("samples without replacement can't be numbered")
    uniform = take(False, (*probs.shape[:-1], num_samples), probs)
    below = probs.cumsum(-1)
    index = (uniform.unsqueeze(-1) * below[..., -1:].unsqueeze(-2) >= below.unsqueeze(-2)).sum(-1)
    return index.clamp(max=probs.shape[-1] - 1)


HANDLERS: dict[Any, Callable[..., Tensor]] = {
    torch.rand: _factory(normal=False),
    torch.randn: _factory(normal=True),
    torch.rand_like: _like(normal=False),
    torch.randn_like: _like(normal=True),
    torch.Tensor.normal_: _normal_in_place,
    torch.Tensor.uniform_: _uniform_in_place,
    torch.Tensor.exponential_: _exponential_in_place,
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
}
