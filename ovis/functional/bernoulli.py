"""The log-density of many Bernoulli variables: next to matrix products, the largest cost of a training step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovis.functional.precision import at_least_single, without_autocast

__all__ = ["bernoulli_log_prob", "bounded", "softplus"]

#: Factors that share one logarithm: each is at least 1/2, so the product of this many is not subnormal.
FACTORS = 16

#: Up to this many logits torch's function is as fast, because call overhead dominates.
FEW = 2**14


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(l)), accurate to rounding: torch's own loses half the digits of float64 for l > 20.

    Args:
        logits: l, any shape.

    Returns:
        the shape of ``logits``, in nats.
    """
    return F.softplus(logits, threshold=40)  # above its threshold, 20 by default, torch returns l itself


def bernoulli_log_prob(logits: Tensor, value: Tensor, finite: bool = False) -> Tensor:
    """Log-density of independent Bernoulli variables, sum_i v_i l_i - log(1 + exp(l_i)), over the last dimension.

    No term cancels another, as log(1 + exp(l)) is split into max(l, 0) and log(1 + exp(-|l|)): logits of any size lose
    no digits. Logits that several values share are not repeated: the sum over the variables is then a matrix product.
    Otherwise one logarithm is taken of the product of several sigmoids, and the gradient, v - sigmoid(l), is computed
    in one new tensor. Torch's own function takes up to three times as long, because it allocates memory at every
    operation; it is used for few numbers, and inside the transforms of torch.func. The result is differentiable twice.

    Args:
        logits: log p/(1 - p), shape [..., N]. Where one is infinite, the variable is certain: it adds 0, or -infinity
            if the value is the other one.
        value: in [0, 1]; its shape and that of ``logits`` are broadcast.
        finite: the logits are known to be finite, which saves time (a tenth of a training step); the log-density for
            infinite ones is then undefined.

    Returns:
        the broadcast shape without its last dimension, in nats, at least in single precision.

    See also:
        :class:`ovis.models.distributions.BernoulliVector`, the distribution that uses it.
    """
    logits, value = at_least_single(logits), at_least_single(value)
    if finite:
        return _of_finite(logits, value)
    return F.threshold(_of_finite(bounded(logits), value), -_largest(logits), -math.inf)


def _of_finite(logits: Tensor, value: Tensor) -> Tensor:
    """The log-density for finite logits. Where one is infinite, 0 times infinity may make it NaN."""
    if logits.dim() == value.dim() > 1 and logits.shape[-2] == 1 < value.shape[-2]:
        if torch._C._are_functorch_transforms_active() or not torch.is_grad_enabled():
            return _of_shared(logits, value)
        shared: Tensor = _OfShared.apply(logits, value)  # type: ignore[no-untyped-call]
        return shared
    if not _expands(value, logits):
        logits = logits.expand(torch.broadcast_shapes(logits.shape, value.shape))
    if logits.numel() <= FEW or torch._C._are_functorch_transforms_active():
        value = value.expand_as(logits).to(logits.dtype)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none").sum(-1)
    if not torch.is_grad_enabled() or not (logits.requires_grad or value.requires_grad):
        return _log_prob(logits, value)
    log_prob: Tensor = _LogProb.apply(logits, value)  # type: ignore[no-untyped-call]
    return log_prob


def _of_shared(logits: Tensor, value: Tensor) -> Tensor:
    """sum_i l_i (v_i - [l_i > 0]) - log(1 + exp(-|l_i|)) for logits [..., 1, N] and values [..., K, N]: [..., K]."""
    positive = (logits.detach() > 0).to(logits.dtype)
    with without_autocast(logits.device):
        # with the logits on the left their gradient is a row, too (on the right, a column)
        dot = logits @ (value - positive).transpose(-1, -2)
    return dot.squeeze(-2) - F.softplus(torch.addcmul(logits, positive, logits, value=-2)).sum(-1)


class _OfShared(torch.autograd.Function):
    """Keeps logits and values for the backward, and no other tensor of the values' size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(logits, value)
        return _of_shared(logits, value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, value = ctx.saved_tensors
        wanted, value_wanted = ctx.needs_input_grad
        grad_logits = None
        if wanted:
            with without_autocast(logits.device):
                weighted = grad.unsqueeze(-2) @ value
            grad_logits = (weighted - logits.sigmoid() * grad.sum(-1)[..., None, None]).sum_to_size(logits.shape)
        return grad_logits, (grad.unsqueeze(-1) * logits).sum_to_size(value.shape) if value_wanted else None


def _expands(small: Tensor, large: Tensor) -> bool:
    """Whether ``small`` broadcasts to the shape of ``large``; faster than ``torch.broadcast_shapes``."""
    shapes = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.dim() <= large.dim() and all(a in (1, b) for a, b in shapes)


def bounded(logits: Tensor) -> Tensor:
    """The logits, with the largest number instead of infinity. A log-density below minus this number is -infinity."""
    return logits.clamp(-_largest(logits), _largest(logits))


def _largest(logits: Tensor) -> float:
    return torch.finfo(logits.dtype).max


def _log_prob(logits: Tensor, value: Tensor) -> Tensor:
    buffer = logits.abs().sigmoid_()
    log_prob: Tensor = buffer.unflatten(-1, (factors(buffer.shape[-1]), -1)).prod(-2).log_().sum(-1)
    torch.clamp(logits, min=0, out=buffer)
    return log_prob.sub_(buffer.addcmul_(value, logits, value=-1).sum(-1))


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
    """How many sigmoids share one logarithm: the largest divisor of ``count`` up to :data:`FACTORS`.

    Args:
        count: N, the number of Bernoulli variables.

    Returns:
        from 1 to :data:`FACTORS`.
    """
    return max(parts for parts in range(1, FACTORS + 1) if count % parts == 0)
