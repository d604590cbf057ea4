"""The log-density of many Bernoulli variables, the dearest thing in a step after the matrix products: few passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["bernoulli_log_prob", "softplus"]

#: Factors of which one logarithm is taken: each is at least 1/2, so the product of so many is no subnormal number.
FACTORS = 16

#: Up to so many logits torch's own function is as fast, as a step's time is that of its calls.
FEW = 2**14


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(l)) of each l."""
    return F.softplus(logits, threshold=40)  # torch's 20 costs float64 half its digits


def bernoulli_log_prob(logits: Tensor, value: Tensor) -> Tensor:
    """sum_i v_i l_i - log(1 + exp(l_i)), over the last dimension.

    log(1 + exp(l)) = max(l, 0) - log sigmoid|l|, of which the logarithms are taken of products; the gradient is
    (v - sigmoid l), in one new tensor. No term cancels another's. Torch's own function takes up to three times as long,
    for it wants memory at every step; it serves for a few numbers, and inside the transforms of torch.func.

    Args:
        logits: log p/(1 - p), shape [..., N].
        value: in [0, 1], a shape that broadcasts to [..., N]: rows that particles share are not repeated.

    Returns:
        shape [...], at least in single precision.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.numel() <= FEW or torch._C._are_functorch_transforms_active():
        value = value.expand_as(logits).to(logits.dtype)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none").sum(-1)
    if not torch.is_grad_enabled() or not (logits.requires_grad or value.requires_grad):
        return _log_prob(logits, value)
    log_prob: Tensor = _LogProb.apply(logits, value)  # type: ignore[no-untyped-call]
    return log_prob


def _log_prob(logits: Tensor, value: Tensor) -> Tensor:
    room = logits.abs().sigmoid_()
    log_prob: Tensor = room.unflatten(-1, (factors(room.shape[-1]), -1)).prod(-2).log_().sum(-1)
    torch.clamp(logits, min=0, out=room)
    return log_prob.sub_(room.addcmul_(value, logits, value=-1).sum(-1))


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(logits, value)
        return _log_prob(logits, value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, value = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        wanted, value_wanted = ctx.needs_input_grad
        grad_logits = None
        if wanted:  # in one tensor, unless it is to be differentiated itself
            probs = logits.sigmoid()
            grad_logits = (value - probs) * grad if torch.is_grad_enabled() else probs.sub_(value).mul_(-grad)
        return grad_logits, (grad * logits).sum_to_size(value.shape) if value_wanted else None


def factors(count: int) -> int:
    """In how many equal parts ``count`` factors are multiplied with each other: the most that are safe."""
    return max(parts for parts in range(1, FACTORS + 1) if count % parts == 0)
