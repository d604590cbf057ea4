"""Many particles in the memory of a few: score them in passes without graph, replay the passes to differentiate.

The factors of an estimator need all log-weights, but not their graph. So a first pass over the particles, ``size`` of
each datum at a time, keeps their log-weights alone. Once the factors are known, the backward of the loss draws the same
particles again, with graph, and adds up the gradients: those of one pass, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ovis.estimators.forward_context import Surroundings
from ovis.estimators.memory import give_back_freed_memory

__all__ = ["Replay", "check_same", "in_passes", "parts", "replayed", "shared_in_passes"]

#: So many passes are worth fresh pages of memory, which cost about half of one.
MANY = 16


def parts(count: int, size: int) -> Iterator[slice]:
    """The passes over ``count`` particles, ``size`` at a time; the last one may be smaller."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@torch.no_grad()
def in_passes(count: int, size: int, compute: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
    """Numbers of ``count`` particles, of which ``size`` are computed at a time, without graph.

    Args:
        count: particles of each datum.
        size: of a pass.
        compute: n -> tensors [B, n] of n more particles. Nothing else of them is kept.

    Returns:
        tensors [B, count].
    """
    if size >= count:
        return list(compute(count))
    whole: list[Tensor] = []

    def fill(part: slice) -> None:
        values = compute(part.stop - part.start)
        if not whole:
            whole.extend(value.new_empty(len(value), count) for value in values)
        for kept, value in zip(whole, values, strict=True):
            kept[:, part] = value

    for part in parts(count, size):
        fill(part)  # its tensors end with it: one that were still there would split the room of the next pass
    return whole


def check_same(again: Tensor, first: Tensor, model: nn.Module) -> None:
    """Refuse a replay that drew other particles than the first pass, by their log-weights.

    Raises:
        RuntimeError: they differ by more than half precision, and another order of the sums, may bring about.
    """
    if not torch.isclose(again, first, rtol=0.02, atol=0.02, equal_nan=True).all():
        raise RuntimeError(
            f"particles_per_pass: {type(model).__name__} drew other particles in the backward than in the forward; its "
            "random numbers must come from torch's global generators (or leave particles_per_pass out)"
        )


@dataclass(frozen=True)
class Replay:
    """A part of a loss that is differentiated in passes.

    Attributes:
        start: the surroundings in which the passes were made first.
        count: particles of each datum.
        size: of a pass.
        share: (which, x, encoded) -> [B], their share in the loss, with graph to x, the encoding and the parameters.
            Only the gradient counts.
    """

    start: Surroundings
    count: int
    size: int
    share: Callable[[slice, Tensor, Tensor | None], Tensor]


@torch.no_grad()
def shared_in_passes(share: Callable[[int], Tensor], count: int, size: int, start: Surroundings) -> Replay:
    """A loss whose factors are known beforehand: drawn once without graph, for what comes after it in the stream.

    Args:
        share: n -> [B], the share of n more of the ``count`` particles.
        count: particles of each datum.
        size: of a pass.
        start: the surroundings now.
    """
    for part in parts(count, size):
        share(part.stop - part.start)
    return Replay(start, count, size, lambda part, x, encoded: share(part.stop - part.start))


def replayed(value: Tensor, replays: Sequence[Replay], model: nn.Module, x: Tensor, encoded: Tensor | None) -> Tensor:
    """A loss of which the backward replays.

    Args:
        value: of the loss, shape [B].
        replays: what is added up to its gradient.
        model: its parameters get gradients as x and the encoding do, so that any use of the loss works:
            ``backward()``, ``torch.autograd.grad``, hooks of parameters, which run once.
        x: observations.
        encoded: x as the model has encoded it, once for all particles.

    Returns:
        shape [B]. Without graph where none is recorded.
    """
    names, parameters = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            names.append(name)
            parameters.append(parameter)

    def gradients(grad: Tensor, saved: Sequence[Tensor | None]) -> list[Tensor | None]:
        _check_parameters(model, names, parameters)
        # a graph of their own: the encoder's, and whatever x depends on, are run through once, by the caller
        inputs = [None if item is None else item.detach().requires_grad_(item.requires_grad) for item in saved[:2]]
        wanted = [item for item in (*inputs, *parameters) if item is not None and item.requires_grad]
        totals = _add_up(replays, inputs, wanted, grad)
        return [totals.get(id(item)) for item in (*inputs, *parameters)]

    loss: Tensor = _Replayed.apply(gradients, value, x, encoded, *parameters)  # type: ignore[no-untyped-call]
    return loss


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Callable[..., Any], value: Tensor, *inputs: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        ctx.save_for_backward(*inputs)  # torch refuses to give back what has been changed in place since
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.gradients(grad, ctx.saved_tensors))


def _add_up(
    replays: Sequence[Replay], inputs: Sequence[Tensor | None], wanted: Sequence[Tensor], grad: Tensor
) -> dict[int, Tensor]:
    """Gradients of those wanted that matter, by their identity."""
    x, encoded = inputs
    assert x is not None
    if x.device.type == "cpu" and any(replay.count >= MANY * replay.size for replay in replays):
        give_back_freed_memory()
    # made before any pass: what outlives a pass and was allocated in it splits the room that the next one needs
    totals = [torch.zeros_like(item) for item in wanted]
    used: set[int] = set()

    def add(replay: Replay, part: slice) -> None:
        share = replay.share(part, x, encoded)
        if not share.requires_grad:
            return
        if part.start == 0:
            _check_leaves(share, wanted)
        found = torch.autograd.grad(share, wanted, grad, allow_unused=True)
        for place, value in enumerate(found):
            if value is not None:
                used.add(place)
                totals[place].add_(value)

    for replay in replays:
        with replay.start.again(), torch.enable_grad():
            for part in parts(replay.count, replay.size):
                add(replay, part)
    return {id(wanted[place]): totals[place] for place in used}


def _check_parameters(model: nn.Module, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
    current = dict(model.named_parameters())
    for name, parameter in zip(names, parameters, strict=True):
        if current.get(name) is not parameter:
            raise RuntimeError(
                f"particles_per_pass: parameter {name} of {type(model).__name__} is not the tensor it was in the "
                "forward, which the backward replays; call the backward where the parameters are (or backward=True)"
            )


def _check_leaves(share: Tensor, wanted: Sequence[Tensor]) -> None:
    """Refuse a graph that reaches what no gradient would be returned for."""
    known = {id(item) for item in wanted}
    seen = {item.grad_fn for item in wanted}  # of parameters that were computed: not our concern what from
    nodes = [share.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise ValueError(
                f"particles_per_pass: a tensor of shape {tuple(leaf.shape)} requires a gradient and is no parameter of "
                "the model, so it would get none; register it as nn.Parameter, or leave particles_per_pass out"
            )
        nodes += [following for following, _ in node.next_functions]
