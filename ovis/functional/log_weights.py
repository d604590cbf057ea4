"""Importance weights in the log domain: bounds, normalized weights, leave-one-out means. O(K) in time and memory.

Everything is computed from the distances to the largest log-weight, *then* tempered by 1 - alpha, so that a common
offset of thousands of nats costs no accuracy. Rows of equal infinities count as ties. Log-weights in half precision are
converted to single precision.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ovis.functional.precision import at_least_single

__all__ = [
    "effective_sample_size",
    "iw_bound",
    "leave_one_out_log_mean_exp",
    "log_mean_exp",
    "normalized_weights",
]

Alpha = float | Tensor


def log_mean_exp(log_w: Tensor) -> Tensor:
    """Logarithm of the mean weight, log (1/K) sum_k w_k: the importance-weighted bound at alpha = 0.

    Args:
        log_w: log-weights, shape [..., K], K >= 1.

    Returns:
        shape [...]; ``-inf`` where every weight is zero, NaN where a log-weight is NaN.

    Raises:
        ValueError: no particle dimension, or K = 0.
        TypeError: log-weights that are not floating point.
    """
    return iw_bound(log_w)


def iw_bound(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """Importance-weighted Renyi bound, 1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha), whose expectation is L_K.

    alpha = 0 is the importance-weighted bound (Burda et al. 2016, eq. 8, https://arxiv.org/abs/1509.00519); alpha -> 1
    tends to the mean log-weight (Li & Turner 2016, eq. 9, https://arxiv.org/abs/1602.02311). Differentiable in the
    log-weights.

    Args:
        log_w: log-weights, shape [..., K], K >= 1.
        alpha: order of the bound, below 1; a float or a tensor without dimensions.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [...], in nats; ``-inf`` where no particle is there.

    Raises:
        ValueError: no particle dimension, K = 0, or alpha >= 1.
        TypeError: log-weights that are not floating point.
    """
    check_log_weights(log_w)
    alpha = check_alpha(alpha)
    top, gaps = centre(log_w, alpha, mask)
    log_mean = particle_mean(gaps.exp(), mask).log()
    if isinstance(alpha, Tensor) or alpha != 0:
        # near alpha = 1 all terms are near 1, where the logarithm loses what is divided by 1 - alpha; with many small
        # terms the sum of expm1 loses them
        below_one = particle_mean(gaps.expm1(), mask)
        near_one = below_one > -0.5
        log_mean = torch.where(near_one, torch.where(near_one, below_one, 0.0).log1p(), log_mean)
    return (top + log_mean / (1 - alpha)).squeeze(-1)


def normalized_weights(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """Normalized tempered weights, v_k = w_k^(1 - alpha) / sum_l w_l^(1 - alpha).

    Args:
        log_w: log-weights, shape [..., K], K >= 1.
        alpha: order of the bound, below 1; a float or a tensor without dimensions.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K], summing to 1 over the last dimension (weights that are all zero count as equal); 0 where a
        particle is not there.

    Raises:
        ValueError: no particle dimension, K = 0, or alpha >= 1.
        TypeError: log-weights that are not floating point.
    """
    check_log_weights(log_w)
    weights = centre(log_w, check_alpha(alpha), mask).gaps.exp()
    total = weights.sum(-1, keepdim=True)
    return weights / (total if mask is None else total.clamp(min=1))  # at least 1 but in a row without particles


def effective_sample_size(log_w: Tensor) -> Tensor:
    """Effective sample size, (sum_k w_k)^2 / sum_k w_k^2, between 1 and K (Kong 1992).

    Near K, q is close to the posterior; near 1, one particle has all the weight.

    Args:
        log_w: log-weights, shape [..., K], K >= 1.

    Returns:
        shape [...], in particles.

    Raises:
        ValueError: no particle dimension, or K = 0.
        TypeError: log-weights that are not floating point.
    """
    return 1 / normalized_weights(log_w).square().sum(-1)


def leave_one_out_log_mean_exp(log_w: Tensor) -> Tensor:
    """Logarithm of the mean of the other weights, log 1/(K - 1) sum_{l != k} w_l, for every k.

    At most one normalized weight exceeds 1/2. Subtracting any other weight from the sum is well conditioned; for the
    largest one the others are summed again. So it takes O(K) operations, not O(K^2).

    Args:
        log_w: log-weights, shape [..., K], K >= 2.

    Returns:
        shape [..., K].

    Raises:
        ValueError: no particle dimension, or K < 2.
        TypeError: log-weights that are not floating point.
    """
    check_log_weights(log_w, at_least=2)
    return leave_one_out(log_w).log_others - math.log(log_w.shape[-1] - 1)


class Centred(NamedTuple):
    """Log-weights relative to the largest: ``log_w = top + gaps / (1 - alpha)``."""

    top: Tensor  # [..., 1], constant for autograd: the bound's gradient flows through the gaps
    gaps: Tensor  # [..., K], <= 0, tempered


def particle_count(log_w: Tensor, mask: Tensor | None = None) -> int | Tensor:
    """Number of particles of each row.

    Args:
        log_w: log-weights, shape [..., K].
        mask: which particles there are; None: all.

    Returns:
        K, or shape [..., 1] in the type of the log-weights.
    """
    return log_w.shape[-1] if mask is None else mask.sum(-1, keepdim=True, dtype=log_w.dtype)


def particle_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the particles.

    Args:
        values: shape [..., K].
        mask: which particles there are; None: all.

    Returns:
        shape [..., 1]; 0 where no particle is there.
    """
    if mask is None:
        return values.mean(-1, keepdim=True)
    count = mask.sum(-1, keepdim=True, dtype=values.dtype)
    return torch.where(mask, values, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)


def centre(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Centred:
    """Distances of the log-weights to the largest, tempered: (1 - alpha) (log w_k - max_l log w_l).

    Args:
        log_w: log-weights, shape [..., K], K >= 1.
        alpha: order of the bound, below 1; a float or a tensor without dimensions.
        mask: which particles there are; None: all.

    Returns:
        the largest, shape [..., 1], and the distances, shape [..., K], in nats; a distance is 0 where both are the same
        infinity, and ``-inf`` where a particle is not there. NaN throughout a row with a NaN.
    """
    log_w = at_least_single(log_w)
    if mask is not None:
        log_w = torch.where(mask, log_w, -math.inf)
    top = log_w.detach().amax(-1, keepdim=True)
    # a NaN here comes from equal infinities, except in rows with a NaN (ten times as fast as a mask)
    gaps = (log_w - top).nan_to_num(0.0, math.inf, -math.inf) + torch.where(top.isnan(), top, 0.0)
    gaps = gaps * (1 - alpha)
    return Centred(top, gaps if mask is None else torch.where(mask, gaps, -math.inf))


class LeaveOneOut(NamedTuple):
    """Sums of tempered weights without particle k, each entry accurate to rounding."""

    top: Tensor  # [..., 1], the largest log-weight
    gaps: Tensor  # [..., K], distances to the top, <= 0, tempered
    total: Tensor  # [..., 1], sum_l exp(gaps_l): the whole sum, relative to the top
    log_total: Tensor  # [..., 1]
    weights: Tensor  # [..., K], v_k
    log_rest: Tensor  # [..., K], log(1 - v_k), accurate even for v_k close to 1
    log_others: Tensor  # [..., K], 1/(1 - alpha) log sum_{l != k} w_l^(1 - alpha)
    mask: Tensor | None  # [..., K], which particles there are


def leave_one_out(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> LeaveOneOut:
    """Sums of the tempered weights without particle k, sum_{l != k} w_l^(1 - alpha), for every k, in O(K).

    Every leave-one-out control variate is computed from them. At most one normalized weight exceeds 1/2: subtracting
    any other from the total is well conditioned, and for the largest one the others are summed again.

    Args:
        log_w: log-weights, shape [..., K], K >= 1.
        alpha: order of the bound, below 1; a float or a tensor without dimensions.
        mask: which particles there are; None: all.

    Returns:
        the sums, relative to the largest log-weight. For K = 1 they are empty: ``-inf``.
    """
    log_w = at_least_single(log_w)
    top, gaps = centre(log_w, alpha, mask)
    if mask is not None:
        log_w = torch.where(mask, log_w, -math.inf)
    terms = gaps.exp()
    total = terms.sum(-1, keepdim=True)
    weights = terms / total
    log_total = total.log()

    # one position of each row is replaced: scattering is cheaper than masks
    largest = log_w.detach().argmax(-1, keepdim=True)
    second, other_gaps = centre(log_w.scatter(-1, largest, -math.inf), alpha, mask)
    log_other_total = other_gaps.exp().scatter(-1, largest, 0.0).sum(-1, keepdim=True).log()
    drop = torch.where(second == top, 0.0, second - top) * (1 - alpha)  # NaN in a row with a NaN

    log_rest = torch.log1p(-weights.scatter(-1, largest, 0.0))  # v_k <= 1/2 here
    log_others = top + (log_total + log_rest) / (1 - alpha)
    without = second + log_other_total / (1 - alpha)
    return LeaveOneOut(
        top,
        gaps,
        total,
        log_total,
        weights,
        log_rest.scatter(-1, largest, drop + log_other_total - log_total),
        log_others.scatter(-1, largest, torch.where(top.isnan(), top, without)),
        mask,
    )


def is_largest(log_w: Tensor) -> Tensor:
    """Mask of one largest log-weight in each row (the first of ties); none in a row with a NaN.

    Args:
        log_w: log-weights, shape [..., K].

    Returns:
        bool [..., K].
    """
    log_w = log_w.detach()
    positions = torch.arange(log_w.shape[-1], device=log_w.device)
    largest = positions == log_w.argmax(-1, keepdim=True)
    return largest & ~log_w.isnan().any(-1, keepdim=True)


def check_log_weights(log_w: Tensor, at_least: int = 1, name: str = "log_w") -> None:
    """Raise an error unless log_w is floating point of shape [..., K] with K >= ``at_least``.

    Args:
        log_w: what a caller gave.
        at_least: smallest K.
        name: of the argument, for the message.

    Raises:
        ValueError: no particle dimension, or too few particles.
        TypeError: not floating point.
    """
    if not log_w.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {log_w.dtype}")
    if log_w.dim() < 1 or log_w.shape[-1] < at_least:
        raise ValueError(f"{name} must have shape [..., K] with K >= {at_least}, got {tuple(log_w.shape)}")


def check_mask(log_w: Tensor, mask: Tensor, at_least: int) -> Tensor:
    """Raise an error unless the mask fits, and no row has too few particles, if its values can be read.

    Args:
        log_w: log-weights, shape [..., K].
        mask: what a caller gave.
        at_least: smallest number of particles in a row that has any.

    Returns:
        the mask, shape [..., K].

    Raises:
        ValueError: a shape that does not broadcast to that of the log-weights; too few particles in a row on the CPU.
        TypeError: not bool.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where a particle is there, got {mask.dtype}")
    fits = zip(reversed(mask.shape), reversed(log_w.shape), strict=False)
    if not 1 <= mask.dim() <= log_w.dim() or not all(a in (1, b) for a, b in fits):
        raise ValueError(f"mask must have the shape {tuple(log_w.shape)} of log_p, got {tuple(mask.shape)}")
    mask = mask.expand_as(log_w)
    if at_least > 1 and readable(mask):
        counts = mask.sum(-1)
        few = (counts > 0) & (counts < at_least)
        if bool(few.any()):
            row = [int(index) for index in few.nonzero()[0]]
            raise ValueError(
                f"this method leaves one particle out and needs {at_least} in each row of the mask, or none; row {row} "
                f"has {int(counts[few][0])}: mask that row, or use a method without this limit, e.g. rws or reinforce"
            )
    return mask


def check_auxiliary(log_w: Tensor, log_w_aux: Tensor) -> None:
    """Raise an error unless auxiliary log-weights match the log-weights.

    Args:
        log_w: log-weights, shape [..., K].
        log_w_aux: auxiliary log-weights, shape [..., S], whose leading dimensions broadcast to those of ``log_w``.

    Raises:
        ValueError: other leading dimensions, or S = 0.
        TypeError: not floating point.
    """
    check_log_weights(log_w_aux, name="log_w_aux")
    rows, rows_aux = log_w.shape[:-1], log_w_aux.shape[:-1]
    fits = all(b in (1, a) for a, b in zip(reversed(rows), reversed(rows_aux), strict=False))
    if len(rows_aux) > len(rows) or not fits:
        shapes = f"{tuple(log_w_aux.shape)} beside {tuple(log_w.shape)}"
        raise ValueError(f"log_w_aux must have shape [..., S] with the rows of log_w, got {shapes}")


def check_alpha(alpha: Alpha) -> Alpha:
    """Raise an error if alpha >= 1. Where that would need host-device synchronization, return NaN, as the loss will be.

    Args:
        alpha: order of the bound; a float or a tensor without dimensions.

    Returns:
        alpha, or NaN.

    Raises:
        ValueError: alpha >= 1, or a tensor with dimensions.
    """
    if isinstance(alpha, Tensor):
        if alpha.dim() > 0:
            raise ValueError(f"alpha must be a float or a tensor without dimensions, got shape {tuple(alpha.shape)}")
        if not readable(alpha):
            return torch.where(alpha < 1, alpha, math.nan)
    if not float(alpha) < 1:
        raise ValueError(f"alpha must be below 1, got {float(alpha)}; at alpha = 1 the bound is the mean log-weight")
    return alpha


def readable(tensor: Tensor) -> bool:
    """Whether the values can be read: they are on the host, and no tracers of a transform or of a compiler."""
    plain = not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()
    return plain and tensor.device.type == "cpu"
