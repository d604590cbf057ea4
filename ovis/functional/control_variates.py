"""Control variates c_k of the score-function gradient of the importance-weighted bound, each O(K) (OVIS_MC: O(S K)).

The gradient is sum_k (d_k - c_k) grad log q(z_k|x), with the prefactor d_k = bound - v_k. It stays unbiased where c_k
does not depend on z_k. To train, use ``learning_signal``: it computes d_k - c_k without subtracting large numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ovis.functional.log_weights import (
    Alpha,
    centre,
    check_alpha,
    check_auxiliary,
    check_log_weights,
    is_largest,
    iw_bound,
    leave_one_out,
    leave_one_out_bound,
    normalized_weights,
)

__all__ = ["ovis_asymptotic", "ovis_monte_carlo", "prefactor", "vimco_arithmetic", "vimco_geometric"]


def prefactor(log_w: Tensor, alpha: Alpha = 0.0) -> Tensor:
    """Prefactor of grad log q(z_k|x) without control variate, d_k = bound - v_k (Lievin et al. 2020).

    Args:
        log_w: log-weights, shape [..., K].
        alpha: order of the Renyi bound, below 1.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, or alpha >= 1.
    """
    return iw_bound(log_w, alpha).unsqueeze(-1) - normalized_weights(log_w, alpha)


def vimco_arithmetic(log_w: Tensor, alpha: Alpha = 0.0) -> Tensor:
    """VIMCO, arithmetic: the mean of the other weights takes the place of z_k's (Mnih & Rezende 2016).

    c_k = 1/(1 - alpha) log 1/(K - 1) sum_{l != k} w_l^(1 - alpha). Independent of z_k.

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        alpha: order of the Renyi bound, below 1.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, K < 2, or alpha >= 1.
    """
    check_log_weights(log_w, at_least=2)
    return leave_one_out_bound(log_w, check_alpha(alpha))


def vimco_geometric(log_w: Tensor, alpha: Alpha = 0.0) -> Tensor:
    """VIMCO, geometric: the mean of the other log-weights takes the place of z_k's (Mnih & Rezende 2016, eq. 8).

    c_k = 1/(1 - alpha) log 1/K (sum_{l != k} w_l^(1 - alpha) + exp((1 - alpha)/(K - 1) sum_{l != k} log w_l)).
    Independent of z_k.

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        alpha: order of the Renyi bound, below 1.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, K < 2, or alpha >= 1.
    """
    check_log_weights(log_w, at_least=2)
    others = leave_one_out(log_w, check_alpha(alpha)).log_others
    mean = leave_one_out_mean(log_w)
    log_mean = torch.where(mean.reference.isinf(), mean.reference, mean.reference + mean.depth)
    return _log_sum(others, log_mean, alpha) - math.log(log_w.shape[-1]) / (1 - alpha)


def ovis_monte_carlo(log_w: Tensor, log_w_aux: Tensor, alpha: Alpha = 0.0) -> Tensor:
    """OVIS_MC: the mean prefactor with z_k replaced by each of S auxiliary samples (OVIS, eq. 12).

    c_k = 1/S sum_s [ 1/(1 - alpha) log (T_k + u_s)/K - u_s/(T_k + u_s) ], with T_k = sum_{l != k} w_l^(1 - alpha) and
    u_s the tempered weight of the auxiliary sample z^(s). The samples are shared by all k. Independent of z_k.

    Args:
        log_w: log-weights, shape [..., K], K >= 1 (for K = 1, T_k = 0).
        log_w_aux: log-weights of the auxiliary samples, shape [..., S], S >= 1.
        alpha: order of the Renyi bound, below 1.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, or alpha >= 1.
    """
    check_log_weights(log_w)
    check_auxiliary(log_w, log_w_aux)
    others = leave_one_out(log_w, check_alpha(alpha)).log_others.unsqueeze(-2)  # [..., 1, K]
    fresh = log_w_aux.unsqueeze(-1)  # [..., S, 1]
    bounds = _log_sum(others, fresh, alpha) - math.log(log_w.shape[-1]) / (1 - alpha)
    gap = torch.where(fresh == others, 0.0, fresh - others) * (1 - alpha)
    return (bounds - gap.sigmoid()).mean(-2)


def ovis_asymptotic(log_w: Tensor, gamma: float = 1.0, alpha: Alpha = 0.0) -> Tensor:
    """OVIS~, the control variate of the limits of the effective sample size (OVIS, eq. 17), corrected for alpha != 0.

    c_k = 1/(1 - alpha) log 1/(K - 1) sum_{l != k} w_l^(1 - alpha) - gamma v_k + (1 - gamma) log(1 - 1/K).

    gamma = 0 is the limit ESS >> 1 and does not depend on z_k; gamma = 1 is the limit ESS ~ 1 and does, through v_k.

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        gamma: in [0, 1].
        alpha: order of the Renyi bound, below 1.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, K < 2, gamma outside [0, 1], or alpha >= 1.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    check_log_weights(log_w, at_least=2)
    sums = leave_one_out(log_w, check_alpha(alpha))
    count = log_w.shape[-1]
    return (
        sums.log_others
        - math.log(count - 1) / (1 - alpha)
        - gamma * sums.weights
        + (1 - gamma) * math.log1p(-1 / count)
    )


class OthersMean(NamedTuple):
    """Mean of the other log-weights, 1/(K - 1) sum_{l != k} log w_l = reference + depth."""

    reference: Tensor  # [..., K], the largest of the others
    depth: Tensor  # [..., K], <= 0, how far their mean is below it


def leave_one_out_mean(log_w: Tensor) -> OthersMean:
    """Means of the other log-weights, K >= 2, in two parts, so that neither swallows the digits of the other.

    Seen from the largest of the others, all terms have one sign, so the sum cancels nothing; and taking one term away
    from it is well conditioned for all but the largest term, which is left out of a sum of its own.
    """
    largest, deepest = is_largest(log_w), is_largest(-log_w)
    top, depths = centre(log_w)
    second, other_depths = centre(log_w.masked_fill(largest, -math.inf))
    without_top = other_depths.masked_fill(largest, 0.0).sum(-1, keepdim=True)
    without_deepest = depths.masked_fill(deepest, 0.0).sum(-1, keepdim=True)
    floor = depths.amin(-1, keepdim=True)
    rest = torch.where(floor.isinf(), floor, depths.sum(-1, keepdim=True) - depths)
    rest = torch.where(deepest, without_deepest, rest)
    reference = torch.where(largest, second, top)
    depth = torch.where(largest, without_top, rest) / (log_w.shape[-1] - 1)
    return OthersMean(reference, depth)


def _log_sum(a: Tensor, b: Tensor, alpha: Alpha) -> Tensor:
    """1/(1 - alpha) log(exp((1 - alpha) a) + exp((1 - alpha) b)), right for infinities of either sign."""
    gap = torch.where(a == b, 0.0, (a - b).abs()) * (1 - alpha)
    return torch.maximum(a, b) + torch.log1p(torch.exp(-gap)) / (1 - alpha)
