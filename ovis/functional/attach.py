"""A tensor with a given value and a given gradient: how the factors of an estimator become a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["UNKNOWN", "Rule", "attach", "constant", "undifferentiable"]

#: How factors depend on x, for second derivatives: (i, factor of x_i, [*x, *others]) -> the same value with its graph.
Rule = Callable[[int, Tensor, Sequence[Tensor]], Tensor]


def constant(i: int, factor: Tensor, x: Sequence[Tensor]) -> Tensor:
    """The rule of factors that do not depend on x."""
    return factor


def undifferentiable(reason: str) -> Rule:
    """The rule of factors that depend on x in a way that must not be differentiated.

    The gradient estimate of a score-function method is not the derivative of its loss, for example.

    Args:
        reason: the end of the message.

    Returns:
        a rule whose factors raise RuntimeError where a second derivative passes through them.
    """

    def rule(i: int, factor: Tensor, x: Sequence[Tensor]) -> Tensor:
        same: Tensor = _Undifferentiable.apply(reason, factor, *x)  # type: ignore[no-untyped-call]
        return same

    return rule


#: For gradients whose factors are known as numbers only.
UNKNOWN = undifferentiable(
    "the factors of its gradient are constants; ovis.functional.multisample_loss has it for iwae"
)


def attach(value: Tensor, *pairs: tuple[Tensor, Tensor], rule: Rule = UNKNOWN, others: Sequence[Tensor] = ()) -> Tensor:
    """A tensor with this value and the gradient sum_k factor_k grad x_k.

    Use it to make a loss of :class:`ovis.functional.surrogates.Factors`:
    ``attach(-factors.value, (-factors.log_p, log_p), (-factors.log_q, log_q))``.

    Args:
        value: shape [...].
        pairs: (factor, x), each of a shape [..., *rest] that starts with value's; summed over the rest.
        rule: how the factors depend on x. It is used only where the gradient is differentiated again.
        others: other tensors that the rule needs; it must not refer to tensors itself.

    Returns:
        shape [...]. Infinite x do no harm, as their values are not used.

    Raises:
        RuntimeError: where a second derivative is computed, and the rule has none.
    """
    if torch.compiler.is_compiling():
        if sum(_derivatives()) > 1:
            raise RuntimeError("torch.compile can't trace second derivatives of this loss: leave fullgraph=True out")
        return _attach_by_differences(value, pairs)
    factors, x = [factor for factor, _ in pairs], [x for _, x in pairs]
    needed = rule if _may_be_twice(x) else None
    attached: Tensor = _Attach.apply(needed, len(x), value, *factors, *x, *others)  # type: ignore[no-untyped-call]
    return attached


def _attach_by_differences(value: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
    """The same by x - x.detach(), for Dynamo, which can't trace a Function without grad inputs or inside functorch.

    An infinite x has no gradient here, and an infinite factor counts as the largest number: 0 times it is 0.
    """
    value = value.detach()
    largest = torch.finfo(value.dtype).max
    for factor, x in pairs:
        still = x.detach()
        move = torch.where(still.isinf(), 0.0, x - still) * factor.detach().clamp(-largest, largest)
        value = value + (move.flatten(value.dim()).sum(-1) if move.dim() > value.dim() else move)
    return value


def _may_be_twice(x: Sequence[Tensor]) -> bool:
    """False within one transform of torch.func that differentiates, if nothing outside does: a rule would cost time."""
    if not torch._C._are_functorch_transforms_active():
        return True
    backward, forward = _derivatives()
    if forward > 1:  # the tangents of an autograd.Function have no tangents themselves
        raise RuntimeError("this loss has no forward-over-forward derivative: use torch.func.hessian")
    return backward + forward != 1 or any(_unwrapped(item).requires_grad for item in x)


def _derivatives() -> tuple[int, int]:
    """How many transforms of torch.func around this call differentiate backward, and forward."""
    transforms = torch._C._functorch.TransformType
    kinds = [level.key() for level in torch._C._functorch.get_interpreter_stack() or []]
    return kinds.count(transforms.Grad), kinds.count(transforms.Jvp)


# as torch.compiler.assume_constant_result does, which imports Dynamo: the result is known when a graph is traced
_derivatives._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


class _Attach(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rule: Rule | None, count: int, value: Tensor, *tensors: Tensor) -> Tensor:
        return value.detach().clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rule, ctx.count, _, *tensors = inputs
        saved = tensors[: ctx.count] if ctx.rule is None else tensors
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for i in range(ctx.count):
            position = 3 + ctx.count + i
            if ctx.needs_input_grad[position]:
                factor = _factor(ctx, i, torch.is_grad_enabled())
                grads[position] = factor * grad.reshape(grad.shape + (1,) * (factor.dim() - grad.dim()))
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        total = torch.zeros_like(tangents[2])
        for i in range(ctx.count):
            move = _factor(ctx, i, True) * tangents[3 + ctx.count + i]
            total = total + (move.flatten(total.dim()).sum(-1) if move.dim() > total.dim() else move)
        return total


def _factor(ctx: Any, i: int, differentiable: bool) -> Tensor:
    saved: Sequence[Tensor] = ctx.saved_tensors
    rule: Rule | None = ctx.rule
    return rule(i, saved[i], saved[ctx.count :]) if differentiable and rule is not None else saved[i]


class _Undifferentiable(torch.autograd.Function):
    """A value that depends on x in a way that can't be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(reason: str, value: Tensor, *x: Tensor) -> Tensor:
        return value.detach().clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.reason = inputs[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError(f"this loss has no second derivative: {ctx.reason}")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(f"this loss has no second derivative: {ctx.reason}")
