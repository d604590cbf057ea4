"""Control variates c_k of the score-function gradient, in the form of the learning signals d_k - c_k.

The phi-gradient of the importance-weighted bound L is sum_k (d_k - c_k) grad log q(z_k|x), with the prefactor
d_k = L - v_k and the normalized weights v_k. It is unbiased where c_k does not depend on z_k:

    REINFORCE          c_k = 0
    VIMCO, arithmetic  c_k = r log 1/(K - 1) T_k
    VIMCO, geometric   c_k = r log 1/K (T_k + exp((1 - alpha)/(K - 1) sum_{l != k} log w_l))
    OVIS_MC            c_k = 1/S sum_s [r log (T_k + u_s)/K - u_s/(T_k + u_s)]
    OVIS~              c_k = r log 1/(K - 1) T_k - gamma v_k + (1 - gamma) log(1 - 1/K)

with T_k = sum_{l != k} w_l^(1 - alpha), r = 1/(1 - alpha), and u_s the tempered weight of an auxiliary sample. At
alpha = 0 and large K, d_k and c_k are of order 1 and their difference of order 1/K^2, so it is computed directly. With
u_s and g_k (of the geometric mean) now fractions of the sum of all weights, l = log(1 - 1/K), and
h(t) = -log(1 - t) - t = t^2/2 + t^3/3 + ...:

    d_k                = L - v_k
    VIMCO, arithmetic  d_k - c_k = r h(v_k) + (r - 1) v_k + r l
    VIMCO, geometric   d_k - c_k = r h(t_k) + (r - 1) t_k - g_k,                        t_k = v_k - g_k
    OVIS_MC            d_k - c_k = mean_s r h(t_s) + (r - 1) t_s + u_s t_s/(1 - t_s),   t_s = v_k - u_s
    OVIS~              d_k - c_k = r h(v_k) + (r - 1 + gamma) (v_k + l)

Near alpha = 1, v_k, u_s and g_k are all near 1/K, and their differences, of order 1 - alpha, are divided by 1 - alpha.
Therefore, for alpha > 1/2 they are taken relative to 1/K and computed by expm1 (``_relative``). The arithmetic signals,
in which v_k and l would cancel, then come from t_k = (v_k - 1/K) K/(K - 1), with log(1 - t_k) = log(1 - v_k) - l:

    VIMCO, arithmetic  d_k - c_k = -r log(1 - t_k) - v_k
    OVIS~              d_k - c_k = -r log(1 - t_k) - (1 - gamma) (v_k + l)

The control variate itself is ``prefactor(log_w, alpha) - learning_signal(log_w, method, alpha)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ovis.estimators.ids import EstimatorId, parse_estimator
from ovis.functional.log_weights import (
    Alpha,
    LeaveOneOut,
    centre,
    check_alpha,
    check_auxiliary,
    check_log_weights,
    is_largest,
    iw_bound,
    leave_one_out,
    normalized_weights,
    particle_count,
    particle_mean,
)
from ovis.functional.precision import at_least_single
from ovis.suggestions import did_you_mean

__all__ = [
    "learning_signal",
    "ovis_asymptotic_signal",
    "ovis_monte_carlo_signal",
    "prefactor",
    "vimco_arithmetic_signal",
    "vimco_geometric_signal",
]

#: Valid methods, as an error message lists them.
SIGNAL_METHODS = (
    "reinforce",
    "vimco-arithmetic",
    "vimco-geometric",
    "ovis-gamma<g>",
    "ovis-S<s>",
    "wake-wake",
)

#: Below this value the series of h with this many terms is exact to rounding; above it the closed form loses at most 5
#: bits.
SERIES_BELOW = 1 / 16
SERIES_TERMS = {torch.float64: 14, torch.float32: 7}

#: Largest number of normalized weights that can exceed 1/16.
FEW = 15

#: 1 + exp(HUGE) equals exp(HUGE) in any precision.
HUGE = 40.0


def learning_signal(
    log_w: Tensor,
    method: str,
    alpha: Alpha = 0.0,
    log_w_aux: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The factor d_k - c_k of grad log q(z_k|x) in the gradient of the bound, by the id of an estimator.

    Use it in a custom training loop; :func:`ovis.functional.multisample_loss` computes a loss from it.

    Args:
        log_w: log-weights, shape [..., K].
        method: estimator id: reinforce, vimco[-arithmetic|-geometric], ovis-gamma<g>, ovis-S<s>, or rws, whose wake-phi
            update has the factor v_k (Bornschein & Bengio 2015, https://arxiv.org/abs/1406.2751).
        alpha: order of the Renyi bound, below 1; a float or a tensor without dimensions.
        log_w_aux: log-weights of auxiliary samples, shape [..., S]; ovis-S<s> only, of which s is then not used.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K], without gradient; 0 where a particle is not there. Infinite only where one particle has all the
        weight: the bound without that particle is then log 0.

    Raises:
        ValueError: a method that is not a factor of grad log q, a wrong shape, K < 2 for a leave-one-out method,
            alpha >= 1, or auxiliary log-weights that are missing or not used.
    """
    spec = parse_estimator(method)
    if spec.family not in _SIGNALS:
        raise ValueError(f"method {method!r} has no learning signal{did_you_mean(method, SIGNAL_METHODS)}")
    if (log_w_aux is None) is (spec.family == "ovis-S"):
        needs = "needs log_w_aux [..., S]" if log_w_aux is None else "takes no log_w_aux"
        raise ValueError(f"method {method!r} {needs}")
    alpha, log_w = check_alpha(alpha), at_least_single(log_w.detach())
    signal = _SIGNALS[spec.family](log_w, alpha, spec, log_w_aux, mask)
    return signal if mask is None else torch.where(mask, signal, 0.0)


def prefactor(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """Prefactor of grad log q(z_k|x) without control variate, d_k = L - v_k: the signal of REINFORCE.

    See Lievin et al. (2020), https://arxiv.org/abs/2008.01998.

    Args:
        log_w: log-weights, shape [..., K].
        alpha: order of the Renyi bound, below 1.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K], in nats.

    Raises:
        ValueError: a wrong shape, or alpha >= 1.
    """
    return iw_bound(log_w, alpha, mask).unsqueeze(-1) - normalized_weights(log_w, alpha, mask)


def vimco_arithmetic_signal(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """d_k - c_k of VIMCO with the arithmetic mean (Mnih & Rezende 2016, https://arxiv.org/abs/1602.06725).

    c_k = 1/(1 - alpha) log 1/(K - 1) sum_{l != k} w_l^(1 - alpha).

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        alpha: order of the Renyi bound, below 1.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, or K < 2.
    """
    return _from_leave_one_out(log_w, alpha, mask, weight_factor=0.0, constant_factor=1.0)


def ovis_asymptotic_signal(log_w: Tensor, gamma: float = 1.0, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """d_k - c_k of OVIS~ (Lievin et al. 2020, eq. 17, https://arxiv.org/abs/2008.01998), corrected for alpha != 0.

    c_k = 1/(1 - alpha) log 1/(K - 1) sum_{l != k} w_l^(1 - alpha) - gamma v_k + (1 - gamma) log(1 - 1/K). At gamma = 0,
    the limit ESS >> 1, it does not depend on z_k; at gamma = 1, the limit ESS ~ 1, it does, through v_k.

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        gamma: in [0, 1].
        alpha: order of the Renyi bound, below 1.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, or K < 2.
    """
    return _from_leave_one_out(log_w, alpha, mask, weight_factor=gamma, constant_factor=gamma)


def _from_leave_one_out(
    log_w: Tensor, alpha: Alpha, mask: Tensor | None, weight_factor: float, constant_factor: float
) -> Tensor:
    check_log_weights(log_w, at_least=2)
    sums, origin = leave_one_out(log_w, alpha, mask), _origin(log_w, alpha, mask)
    factors = (1 / (1 - alpha), weight_factor, constant_factor)
    if not isinstance(origin, Tensor):
        return _arithmetic_near_one(sums, origin, *factors) if origin else _arithmetic(sums, alpha, *factors)
    return torch.where(origin > 0, _arithmetic_near_one(sums, origin, *factors), _arithmetic(sums, alpha, *factors))


def _arithmetic(sums: LeaveOneOut, alpha: Alpha, ratio: Alpha, weight_factor: float, constant_factor: float) -> Tensor:
    """r h(v_k) + (r - 1 + weight_factor) v_k + (r - 1 + constant_factor) l."""
    extra = alpha * ratio  # r - 1, exactly 0 at alpha = 0
    constant = _log_without_one(particle_count(sums.weights, sums.mask))
    curve = h(sums.weights, sums.log_rest)
    return ratio * curve + (extra + weight_factor) * sums.weights + (extra + constant_factor) * constant


def _arithmetic_near_one(
    sums: LeaveOneOut, origin: Alpha, ratio: Alpha, weight_factor: float, constant_factor: float
) -> Tensor:
    """-r log(1 - t_k) + (weight_factor - 1) v_k + (constant_factor - 1) l, the same for alpha > 1/2."""
    constant = _log_without_one(particle_count(sums.weights, sums.mask))
    others = ratio * log_mean_of_others(sums, origin)
    return (weight_factor - 1) * sums.weights + (constant_factor - 1) * constant - others


def log_mean_of_others(sums: LeaveOneOut, origin: Alpha) -> Tensor:
    """log(1 - t_k), the logarithm of the mean weight without particle k relative to that of all, for every k.

    Args:
        sums: of the tempered weights.
        origin: 1/K.

    Returns:
        shape [..., K], accurate also where all weights are nearly equal.
    """
    count = particle_count(sums.weights, sums.mask)
    shift = _relative(sums.weights, sums.gaps, sums, origin) * (count / (count - 1))
    return torch.where(shift < 0.5, torch.log1p(-shift), sums.log_rest - _log_without_one(count))


def _log_without_one(count: int | Tensor) -> float | Tensor:
    """l = log(1 - 1/K)."""
    return torch.log1p(-1 / count) if isinstance(count, Tensor) else math.log1p(-1 / count)


def vimco_geometric_signal(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """d_k - c_k of VIMCO with the geometric mean (Mnih & Rezende 2016, eq. 8, https://arxiv.org/abs/1602.06725).

    c_k = 1/(1 - alpha) log 1/K (sum_{l != k} w_l^(1 - alpha) + exp((1 - alpha)/(K - 1) sum_{l != k} log w_l)).

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        alpha: order of the Renyi bound, below 1.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape, or K < 2.
    """
    check_log_weights(log_w, at_least=2)
    sums = leave_one_out(log_w, alpha, mask)
    mean = leave_one_out_mean(log_w, mask)
    gaps = (_minus(mean.reference, sums.top) + mean.depth) * (1 - alpha)
    log_share = gaps - sums.log_total
    share = log_share.exp()
    origin = _origin(log_w, alpha, mask)
    shift = _relative(sums.weights, sums.gaps, sums, origin) - _relative(share, gaps, sums, origin)
    curve = h(shift, torch.logaddexp(sums.log_rest, log_share))
    return (curve + alpha * shift) / (1 - alpha) - share


def ovis_monte_carlo_signal(log_w: Tensor, log_w_aux: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Tensor:
    """d_k - c_k of OVIS_MC (Lievin et al. 2020, eq. 12, https://arxiv.org/abs/2008.01998).

    c_k is the mean prefactor with z_k replaced by each auxiliary sample; all k share the auxiliary samples. It takes
    O(S K) operations for small K. For large K only the signals of the few largest v_k are computed in this way; the
    others come from a power series in v_k whose coefficients are means over the auxiliary samples, in O(S + K).

    Args:
        log_w: log-weights, shape [..., K], K >= 1.
        log_w_aux: log-weights of the auxiliary samples, shape [..., S], S >= 1.
        alpha: order of the Renyi bound, below 1.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all.

    Returns:
        shape [..., K].

    Raises:
        ValueError: a wrong shape.
    """
    check_log_weights(log_w)
    check_auxiliary(log_w, log_w_aux)
    sums = leave_one_out(log_w, alpha, mask)
    gaps = _minus(log_w_aux, sums.top) * (1 - alpha)
    aux = _auxiliary(gaps, sums, _origin(log_w, alpha, mask))
    relative = _relative(sums.weights, sums.gaps, sums, aux.origin)
    if log_w.shape[-1] <= 2 * FEW:
        return _monte_carlo_each(sums.weights, relative, sums.log_rest, aux, alpha)
    largest, where = sums.weights.topk(FEW)
    each = _monte_carlo_each(largest, relative.gather(-1, where), sums.log_rest.gather(-1, where), aux, alpha)
    return _monte_carlo_series(relative, aux, alpha).scatter(-1, where, each)


class Auxiliary(NamedTuple):
    """Tempered weights u_s of the auxiliary samples as fractions of the sum of all weights, each of shape [..., S]."""

    log_share: Tensor  # log u_s
    share: Tensor  # u_s, or exp(HUGE) if that is less: all other terms are negligible next to it
    beyond: Tensor  # >= 0, log u_s - log(share)
    relative: Tensor  # share - origin
    origin: Alpha  # 0, or 1/K for alpha > 1/2


def _auxiliary(gaps: Tensor, sums: LeaveOneOut, origin: Alpha) -> Auxiliary:
    log_share = gaps - sums.log_total
    highest = min(HUGE, math.log(torch.finfo(log_share.dtype).max) - 1)
    share = log_share.clamp(max=highest).exp()
    return Auxiliary(log_share, share, (log_share - highest).relu(), _relative(share, gaps, sums, origin), origin)


def _monte_carlo_series(weights: Tensor, aux: Auxiliary, alpha: Alpha) -> Tensor:
    """The signals of v_k < 1/16, for any u. With v and u relative to the origin o, and b = u/(1 + u),

    (1 - alpha) (d - c) = mean_s [-h(b) - (alpha + (1 - alpha) o) b]
                          + v mean_s [alpha (1 - b) - (1 - alpha) (b^2 - o (1 - b)^2)]
                          + sum_{n > 1} v^n mean_s [(1 - b)^n (1/n + (1 - alpha) (b + o (1 - b)))]
    """
    rest = 1 / (1 + aux.relative)  # 1 - b
    b, fraction = aux.relative * rest, aux.share * rest
    orders = torch.arange(2, _terms(weights) + 1, dtype=b.dtype, device=b.device).unsqueeze(-1)
    powers = rest.unsqueeze(-2).expand(*rest.shape[:-1], len(orders) + 1, -1).cumprod(-2)[..., 1:, :]
    coefficients = (powers * (1 / orders + (1 - alpha) * fraction.unsqueeze(-2))).mean(-1)
    total = torch.zeros_like(weights)
    for coefficient in reversed(coefficients.unbind(-1)):
        total = torch.addcmul(coefficient.unsqueeze(-1), total, weights)
    square = b.square() - aux.origin * rest.square()
    linear = (alpha * rest - (1 - alpha) * square).mean(-1, keepdim=True)
    curve = h(b, -aux.relative.log1p() - aux.beyond)
    constant = (-curve - (alpha + (1 - alpha) * aux.origin) * b).mean(-1, keepdim=True)
    return (constant + weights * (linear + weights * total)) / (1 - alpha)


def _monte_carlo_each(weights: Tensor, relative: Tensor, log_rest: Tensor, aux: Auxiliary, alpha: Alpha) -> Tensor:
    """The signals of v_k [..., K] with v_k - origin and log(1 - v_k), for each pair (k, s)."""
    largest = weights.argmax(-1, keepdim=True)  # all others are at most 1/2
    weight, its_relative, its_log_rest = (x.gather(-1, largest) for x in (weights, relative, log_rest))
    exact = _monte_carlo_any(weight, its_relative, its_log_rest, aux, alpha)
    return _monte_carlo_half(weights, relative, aux, alpha).scatter(-1, largest, exact)


def _monte_carlo_half(weights: Tensor, relative: Tensor, aux: Auxiliary, alpha: Alpha) -> Tensor:
    """The signals of v_k <= 1/2, where 1 - v_k + u_s is not near 0, so one logarithm per pair (k, s) is enough."""
    # auxiliary samples in the last dimension: usually the longer one, which a compiler vectorizes
    rise = aux.relative.unsqueeze(-2) - relative.unsqueeze(-1)  # of the sum with z^(s) in slot k, as a share of it
    fraction, log_total = aux.share.unsqueeze(-2) / (1 + rise), rise.log1p() + aux.beyond.unsqueeze(-2)
    return _monte_carlo_mean(weights.unsqueeze(-1), -rise, fraction, log_total, alpha)


def _monte_carlo_any(weights: Tensor, relative: Tensor, log_rest: Tensor, aux: Auxiliary, alpha: Alpha) -> Tensor:
    """The signals of any v_k, even close to 1, computed in logarithms throughout."""
    log_share = aux.log_share.unsqueeze(-2)
    log_total = torch.logaddexp(log_rest.unsqueeze(-1), log_share)
    fraction = torch.where(log_share == log_total, 1.0, (log_share - log_total).exp())
    shift = relative.unsqueeze(-1) - aux.relative.unsqueeze(-2)
    return _monte_carlo_mean(weights.unsqueeze(-1), shift, fraction, log_total, alpha)


def _monte_carlo_mean(weights: Tensor, shift: Tensor, fraction: Tensor, log_total: Tensor, alpha: Alpha) -> Tensor:
    """Mean signal over the last dimension, from v_k, v_k - u_s, u_s/(1 - v_k + u_s), and log(1 - v_k + u_s)."""
    small = h(shift, log_total) + alpha * shift + (1 - alpha) * fraction * shift
    # far from 0 the terms above cancel each other: a huge auxiliary weight has a huge negative shift
    large = (1 - alpha) * (fraction - weights) - log_total
    return (torch.where(shift.abs() < SERIES_BELOW, small, large) / (1 - alpha)).mean(-1)


def _origin(log_w: Tensor, alpha: Alpha, mask: Tensor | None) -> Alpha:
    """1/K for alpha > 1/2, else 0: what shares are taken relative to, so that their differences are exact."""
    count = particle_count(log_w, mask)
    if isinstance(alpha, Tensor):
        return (alpha > 0.5).to(log_w.dtype) / count
    return 1 / count if alpha > 0.5 else 0.0


def _relative(shares: Tensor, gaps: Tensor, sums: LeaveOneOut, origin: Alpha) -> Tensor:
    """``shares - origin``, accurate to the rounding of ``gaps``, of which the shares are ``exp(gaps) / sums.total``."""
    if not isinstance(origin, Tensor) and origin == 0:
        return shares
    difference = (gaps.expm1() - particle_mean(sums.gaps.expm1(), sums.mask)) / sums.total
    return torch.where((shares < 2) & (origin > 0), difference, shares - origin)


class OthersMean(NamedTuple):
    """Mean of the other log-weights, 1/(K - 1) sum_{l != k} log w_l = reference + depth."""

    reference: Tensor  # [..., K], the largest of the others
    depth: Tensor  # [..., K], <= 0, how far their mean is below it


def leave_one_out_mean(log_w: Tensor, mask: Tensor | None = None) -> OthersMean:
    """Mean of the other log-weights, 1/(K - 1) sum_{l != k} log w_l, for every k, in two parts.

    VIMCO's geometric mean is its exponential. The two parts are kept apart because their sum would lose digits where
    the reference is large. Relative to the largest of the others, all terms have one sign, so nothing cancels in their
    sum. Subtracting one term from the sum is well conditioned for all but the largest term, for which the others are
    summed separately. So it takes O(K) operations.

    Args:
        log_w: log-weights, shape [..., K], K >= 2.
        mask: which particles there are; None: all.

    Returns:
        the largest of the other log-weights and the distance of their mean from it, each of shape [..., K], in nats.

    See also:
        :func:`ovis.functional.leave_one_out_log_mean_exp` for the logarithm of the arithmetic mean.
    """
    lowest = -log_w
    if mask is not None:
        log_w, lowest = (torch.where(mask, values, -math.inf) for values in (log_w, lowest))
    largest, deepest = is_largest(log_w), is_largest(lowest)
    top, depths = centre(log_w)
    second, other_depths = centre(log_w.masked_fill(largest, -math.inf))
    if mask is not None:
        depths, other_depths = (torch.where(mask, values, 0.0) for values in (depths, other_depths))
    without_top = other_depths.masked_fill(largest, 0.0).sum(-1, keepdim=True)
    without_deepest = depths.masked_fill(deepest, 0.0).sum(-1, keepdim=True)
    floor = depths.amin(-1, keepdim=True)
    rest = torch.where(floor.isinf(), floor, depths.sum(-1, keepdim=True) - depths)
    rest = torch.where(deepest, without_deepest, rest)
    reference = torch.where(largest, second, top)
    depth = torch.where(largest, without_top, rest) / (particle_count(log_w, mask) - 1)
    return OthersMean(reference, depth)


def h(t: Tensor, log_rest: Tensor) -> Tensor:
    """h(t) = -log(1 - t) - t = t^2/2 + t^3/3 + ... for t <= 1, by its series near 0, where the difference would cancel.

    Args:
        t: any shape.
        log_rest: log(1 - t), accurate near t = 1, of the same shape.

    Returns:
        the shape of t.
    """
    terms = _terms(t)
    series = torch.full_like(t, 1 / terms)
    for n in range(terms - 1, 1, -1):
        series = series * t + 1 / n
    return torch.where(t.abs() < SERIES_BELOW, series * t * t, -log_rest - t)


def _terms(t: Tensor) -> int:
    return SERIES_TERMS.get(t.dtype, 7)  # half precision needs no more than float32


def _minus(a: Tensor, b: Tensor) -> Tensor:
    """a - b, 0 where both are the same infinity."""
    return torch.where(a == b, 0.0, a - b)


def _ovis_asymptotic(
    log_w: Tensor, alpha: Alpha, spec: EstimatorId, log_w_aux: Tensor | None, mask: Tensor | None
) -> Tensor:
    return ovis_asymptotic_signal(log_w, float(spec.config["gamma"]), alpha, mask)


def _ovis_monte_carlo(
    log_w: Tensor, alpha: Alpha, spec: EstimatorId, log_w_aux: Tensor | None, mask: Tensor | None
) -> Tensor:
    assert log_w_aux is not None
    return ovis_monte_carlo_signal(log_w, at_least_single(log_w_aux.detach()), alpha, mask)


_Signal = Callable[[Tensor, Alpha, EstimatorId, Tensor | None, Tensor | None], Tensor]

_SIGNALS: dict[str, _Signal] = {
    "reinforce": lambda log_w, alpha, spec, aux, mask: prefactor(log_w, alpha, mask),
    "vimco-arithmetic": lambda log_w, alpha, spec, aux, mask: vimco_arithmetic_signal(log_w, alpha, mask),
    "vimco-geometric": lambda log_w, alpha, spec, aux, mask: vimco_geometric_signal(log_w, alpha, mask),
    "ovis-gamma": _ovis_asymptotic,
    "ovis-S": _ovis_monte_carlo,
    "wake-wake": lambda log_w, alpha, spec, aux, mask: normalized_weights(log_w, alpha, mask),
}
