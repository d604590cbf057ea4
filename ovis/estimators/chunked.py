"""The particles of a call in chunks (``particles_per_pass``): the gradient of all with the memory of one chunk.

The factors of an estimator need all log-weights, but not their graph. So the forward scores the particles chunk by
chunk, ``size`` of each datum at a time, without graph, and keeps only their log-weights. Once the factors are known,
the backward of the loss draws the same particles again, with graph, and adds up the gradients. They equal the gradients
of all particles at once, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from ovis.estimators.chunk_sizes import release_freed_memory
from ovis.estimators.forward_context import ForwardContext
from ovis.functional.precision import at_least_single
from ovis.nests import Nest, first_tensor

__all__ = ["ChunkedTerm", "check_same_particles", "chunked_loss", "chunks", "compute_in_chunks", "independent_term"]

#: Smallest number of chunks for which it pays to release freed memory, which costs about half a chunk.
MANY = 16


def chunks(count: int, size: int) -> Iterator[slice]:
    """The chunks of ``count`` particles, ``size`` each; the last one may be smaller."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@torch.no_grad()
def compute_in_chunks(count: int, size: int, compute: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
    """Compute values of ``count`` particles, ``size`` at a time, without graph.

    Args:
        count: particles of each datum.
        size: particles in a chunk.
        compute: n -> tensors [B, n] of n more particles. Only these tensors are kept.

    Returns:
        tensors [B, count].
    """
    if size >= count:
        return list(compute(count))
    whole: list[Tensor] = []

    def fill(chunk: slice) -> None:
        values = compute(chunk.stop - chunk.start)
        if not whole:
            whole.extend(value.new_empty(len(value), count) for value in values)
        for kept, value in zip(whole, values, strict=True):
            kept[:, chunk] = value

    for chunk in chunks(count, size):
        fill(chunk)  # a function, so that its tensors are freed: one left over would fragment the next chunk's memory
    return whole


def check_same_particles(again: Tensor, first: Tensor, model: nn.Module) -> None:
    """Check by their log-weights that the backward drew the same particles as the forward.

    Args:
        again: log-weights in the backward, shape [B, n].
        first: those in the forward, of the same shape.
        model: the model, for the message.

    Raises:
        RuntimeError: they differ by more than half precision and another order of summation explain.
    """
    if not torch.isclose(again, first, rtol=0.02, atol=0.02, equal_nan=True).all():
        raise RuntimeError(
            f"particles_per_pass: {type(model).__name__} drew other particles in the backward than in the forward; its "
            "random numbers must come from torch's global generators (or leave particles_per_pass out)"
        )


@dataclass(frozen=True)
class ChunkedTerm:
    """A term of a loss that is differentiated chunk by chunk.

    Attributes:
        context: the context in which the forward began to draw the particles.
        count: particles of each datum.
        size: particles in a chunk.
        share: (chunk, x, encoded) -> [B], the chunk's part of the loss, with graph to x, the encoding and the
            parameters. Only its gradient is used.
    """

    context: ForwardContext
    count: int
    size: int
    share: Callable[[slice, Nest, Nest | None], Tensor]


@torch.no_grad()
def independent_term(share: Callable[[int], Tensor], count: int, size: int, context: ForwardContext) -> ChunkedTerm:
    """A term that needs no log-weights. It is drawn here once without graph, to advance the random state.

    Args:
        share: n -> [B], the part of the loss of n more of the ``count`` particles.
        count: particles of each datum.
        size: particles in a chunk.
        context: the current context.
    """
    for chunk in chunks(count, size):
        share(chunk.stop - chunk.start)
    return ChunkedTerm(context, count, size, lambda chunk, x, encoded: share(chunk.stop - chunk.start))


def chunked_loss(
    value: Tensor, terms: Sequence[ChunkedTerm], model: nn.Module, x: Nest, encoded: Nest | None
) -> Tensor:
    """A loss whose backward draws the particles again, chunk by chunk.

    Args:
        value: value of the loss, shape [B].
        terms: the terms, whose gradients are added up.
        model: the model. Its parameters get gradients as x and the encoding do, so that any use of the loss works:
            ``backward()``, ``torch.autograd.grad``, and hooks of parameters, which run once.
        x: observations.
        encoded: the model's encoding of x, computed once for all particles.

    Returns:
        shape [B], without graph under ``torch.no_grad``.
    """
    names, parameters = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            names.append(name)
            parameters.append(parameter)
    inputs, form = pytree.tree_flatten((x, encoded))

    def gradients(grad: Tensor, saved: Sequence[Tensor | None]) -> list[Tensor | None]:
        _check_parameters(model, names, parameters)
        # detached, so that the graphs of the encoder and of x are traversed only once, by the caller's backward
        again = [_leaf(item) for item in saved[: len(inputs)]]
        wanted = [item for item in (*again, *parameters) if item is not None and item.requires_grad]
        x, encoded = pytree.tree_unflatten(again, form)
        totals = _add_up(terms, x, encoded, wanted, grad)
        return [totals.get(id(item)) for item in (*again, *parameters)]

    loss: Tensor = _ChunkedLoss.apply(gradients, value, *inputs, *parameters)  # type: ignore[no-untyped-call]
    return loss


def _leaf(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Callable[..., Any], value: Tensor, *inputs: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        ctx.save_for_backward(*inputs)  # torch raises an error if one is changed in place before the backward
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.gradients(grad, ctx.saved_tensors))


def _add_up(
    terms: Sequence[ChunkedTerm], x: Nest, encoded: Nest | None, wanted: Sequence[Tensor], grad: Tensor
) -> dict[int, Tensor]:
    """The summed gradients of those ``wanted`` tensors that the terms depend on, by their identity."""
    if first_tensor(x).device.type == "cpu" and any(term.count >= MANY * term.size for term in terms):
        release_freed_memory()
    # allocated before any chunk: tensors that outlive a chunk would fragment the memory of the next one
    totals = [torch.zeros_like(at_least_single(item)) for item in wanted]
    used: set[int] = set()

    def add(term: ChunkedTerm, chunk: slice) -> None:
        share = term.share(chunk, x, encoded)
        if not share.requires_grad:
            return
        if chunk.start == 0:
            _check_leaves(share, wanted)
        gradients = torch.autograd.grad(share, wanted, grad, allow_unused=True)
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                if gradient.is_sparse and i not in used:
                    totals[i] = torch.zeros_like(gradient, dtype=totals[i].dtype)  # no longer dense
                used.add(i)
                totals[i] = _sum(totals[i], gradient)

    for term in terms:
        with term.context.restored(), torch.enable_grad():
            for chunk in chunks(term.count, term.size):
                add(term, chunk)
    return {id(wanted[i]): totals[i].to(wanted[i].dtype) for i in used}


def _sum(total: Tensor, gradient: Tensor) -> Tensor:
    """The sum, in place of a dense total; that of sparse tensors stays sparse."""
    if not total.is_sparse:
        return total.add_(gradient)
    return (total + gradient).coalesce() if gradient.is_sparse else gradient + total


def _check_parameters(model: nn.Module, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
    current = dict(model.named_parameters())
    for name, parameter in zip(names, parameters, strict=True):
        if current.get(name) is not parameter:
            raise RuntimeError(
                f"particles_per_pass: parameter {name} of {type(model).__name__} is not the tensor it was in the "
                "forward, which the backward repeats; call the backward where the parameters are (or backward=True)"
            )


def _check_leaves(share: Tensor, wanted: Sequence[Tensor]) -> None:
    """Reject a graph that depends on a tensor for which no gradient would be returned."""
    known = {id(item) for item in wanted}
    seen = {item.grad_fn for item in wanted}  # the graphs behind computed parameters are not checked
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
