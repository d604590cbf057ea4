"""Learning signals of a policy whose density is not in the weights: chains of thought, verifiable rewards."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ovis.functional.control_variates import log_mean_of_others
from ovis.functional.log_weights import (
    centre,
    check_log_weights,
    iw_bound,
    leave_one_out,
    normalized_weights,
    particle_mean,
    readable,
)
from ovis.functional.precision import at_least_single
from ovis.functional.surrogates import rloo_factors
from ovis.suggestions import did_you_mean

__all__ = ["policy_signal"]


def policy_signal(log_r: Tensor, method: str, floor: float | None = None) -> Tensor:
    """The factor of grad log pi(c_k|x) in the gradient of an objective of K rollouts c_k ~ pi(.|x) with rewards r_k.

    Use it where the latent c_k is drawn from the policy itself, e.g. a chain of thought with r_k = p(answer|x, c_k), or
    with a reward that a checker gives. Then the weight is r_k alone, without a density of c_k: unlike in
    :func:`ovis.functional.learning_signal` there is no term -v_k, which the control variate of OVIS~ would cancel.

        loss = -(policy_signal(log_r.detach(), "vimco") * log_pi).sum(-1).mean()

    has the gradient for the policy. If the reward has parameters, those of E log 1/K sum_k r_k follow
    ``ovis.functional.log_mean_exp(log_r)``.

    With v_k = r_k / sum_l r_l and L = log 1/K sum_l r_l, the methods are

    ============  =========================================  ==========================================
    method        signal                                     unbiased for the gradient of
    ============  =========================================  ==========================================
    reinforce     L                                          E log 1/K sum_k r_k
    vimco         L - log 1/(K - 1) sum_{l != k} r_l         E log 1/K sum_k r_k
    rloo          (r_k - mean r)/(K - 1)                     E r
    rloo-log      (log r_k - mean log r)/(K - 1)             E log r
    dr-grpo       (r_k - mean r)/K                           (K - 1)/K E r
    grpo          (r_k - mean r)/(K sd(r))
    maxrl         v_k; 0 where no rollout succeeds           for r in {0, 1}: E sum_{j=1}^K -(1 - r)^j/j
    ============  =========================================  ==========================================

    sd has K - 1 in its denominator. The objective of ``maxrl`` is log p truncated after K terms of its series in 1 - p,
    where p is the probability of success. Sources: REINFORCE (Williams 1992, https://doi.org/10.1007/BF00992696); VIMCO
    (Mnih & Rezende 2016, https://arxiv.org/abs/1602.06725), of JEPO's objective (Tang et al. 2025,
    https://arxiv.org/abs/2503.19618); RLOO (Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE); GRPO (Shao
    et al. 2024, https://arxiv.org/abs/2402.03300), dr-grpo without its division (Liu et al. 2025,
    https://arxiv.org/abs/2503.20783).

    Rewards are compared by the differences of their logarithms, so that nearly equal ones lose no digits in float32.
    Equal rewards have the signal 0 exactly, except for ``reinforce``.

    Args:
        log_r: log r_k, shape [..., K], K >= 2 except for ``reinforce`` and ``maxrl``; -inf for r_k = 0, a failure.
            Where rewards may be negative, add a constant to all of them: ``rloo``, ``grpo`` and ``dr-grpo`` do not
            change.
        method: one of the above.
        floor: smallest log r_k for ``vimco``, ``reinforce`` and ``rloo-log``, in nats: lower ones count as ``floor``.
            None: no limit. Without it, the only success among failures has the signal inf with ``vimco``, and with
            ``rloo-log`` successes have the signal inf beside failures, and these -inf.

    Returns:
        shape [..., K], without gradient, at least in single precision. 0 in rows where all rollouts fail, unless there
        is a ``floor``.

    Raises:
        ValueError: an unknown method, a wrong shape, too few rollouts, a floor that the method does not use, or, on the
            CPU, NaN, the logarithm of a negative reward.
        TypeError: rewards that are not floating point.

    See also:
        :func:`ovis.functional.multisample_loss`, for latents with a density in the weights.
    """
    if method not in _METHODS:
        raise ValueError(f"unknown method {method!r}{did_you_mean(method, tuple(_METHODS))}")
    check_log_weights(log_r, at_least=1 if method in ("reinforce", "maxrl") else 2, name="log_r")
    log_r = at_least_single(log_r.detach())
    if floor is not None:
        if method not in _FLOORED or not math.isfinite(floor):
            raise ValueError(f"floor must be a finite number, for {', '.join(_FLOORED)} only; got {floor} for {method}")
        log_r = log_r.clamp(min=floor)
    if readable(log_r) and bool(log_r.isnan().any()):
        raise ValueError("log_r has NaN: it is the logarithm of the rewards, which must not be negative")
    some_succeed = log_r.amax(-1, keepdim=True) > -math.inf
    return torch.where(some_succeed, _METHODS[method](log_r), 0.0)


def _reinforce(log_r: Tensor) -> Tensor:
    return iw_bound(log_r).unsqueeze(-1).expand_as(log_r)


def _vimco(log_r: Tensor) -> Tensor:
    return -log_mean_of_others(leave_one_out(log_r), 1 / log_r.shape[-1])


def _rloo(log_r: Tensor) -> Tensor:
    deviation, top = _deviation(log_r)
    return deviation * (top.exp() / (log_r.shape[-1] - 1))


def _deviation(log_r: Tensor) -> tuple[Tensor, Tensor]:
    """r_k - mean r in units of the largest r, 0 exactly where all are equal; and the logarithm of the largest."""
    top, gaps = centre(log_r)
    relative = gaps.expm1()
    return relative - particle_mean(relative, None), top


def _rloo_log(log_r: Tensor) -> Tensor:
    return torch.where(log_r == -math.inf, log_r, rloo_factors(log_r).log_q)


def _dr_grpo(log_r: Tensor) -> Tensor:
    return _rloo(log_r) * (1 - 1 / log_r.shape[-1])


def _grpo(log_r: Tensor) -> Tensor:
    count, (deviation, _) = log_r.shape[-1], _deviation(log_r)
    # in units of the largest deviation, so that squares of small ones do not underflow
    unit = deviation.abs().amax(-1, keepdim=True)
    scaled = torch.where(unit == 0, 0.0, deviation / unit)
    spread = scaled.square().sum(-1, keepdim=True).div(count - 1).sqrt()
    return torch.where(unit == 0, 0.0, scaled / (count * spread))


_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "reinforce": _reinforce,
    "vimco": _vimco,
    "rloo": _rloo,
    "rloo-log": _rloo_log,
    "dr-grpo": _dr_grpo,
    "grpo": _grpo,
    "maxrl": normalized_weights,
}

#: Methods that use log r, which is infinite for a failure.
_FLOORED = ("reinforce", "vimco", "rloo-log")
