"""Losses whose value is minus a bound and whose gradient is an estimator's.

Every estimator is a pair of factors for each particle, functions of the *detached* log-weights: one multiplies
grad log p(x, z_k), the other grad log q(z_k|x). So the factors need no graph, and the particles can be split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ovis.estimators.ids import EstimatorId, auxiliary_count, parse_estimator
from ovis.functional.attach import Rule, attach, constant, undifferentiable
from ovis.functional.control_variates import learning_signal
from ovis.functional.log_weights import (
    Alpha,
    centre,
    check_alpha,
    check_log_weights,
    check_mask,
    iw_bound,
    normalized_weights,
    particle_count,
    particle_mean,
)
from ovis.functional.partitions import tvo_nodes, tvo_partition
from ovis.functional.precision import at_least_single

__all__ = ["Factors", "attach", "doubly_reparameterized_loss", "multisample_loss"]


class Factors(NamedTuple):
    """An estimate of a bound and of its gradient, sum_k log_p_k grad log p(x, z_k) + log_q_k grad log q(z_k|x).

    Attributes:
        value: the bound, shape [...], in nats.
        log_p: the factors of grad log p(x, z_k), shape [..., K].
        log_q: the factors of grad log q(z_k|x), shape [..., K].
        constant: whether the factors are the same for all log-weights; second derivatives are right then.
    """

    value: Tensor  # [...]
    log_p: Tensor  # [..., K], of grad log p(x, z_k)
    log_q: Tensor  # [..., K], of grad log q(z_k | x)
    constant: bool = False


def multisample_loss(
    log_p: Tensor,
    log_q: Tensor,
    method: str,
    alpha: Alpha = 0.0,
    log_w_aux: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Loss of a multi-sample bound from the log-densities alone: call ``.mean().backward()`` on it.

    Use it for a model that is not an :class:`ovis.models.Template`. Its value is minus the bound (TVO: minus the
    Riemann sum); its gradient is the estimator's. For the score-function methods the samples need no graph. For
    ``iwae``, ``vae`` and ``ciwae`` they are reparameterized and both log-densities carry the graph through z; for
    ``stl`` too, but log q is evaluated with the parameters of q detached.

    It is not for a policy whose density is no part of the weights, as with verifiable rewards: the weight would be
    r_k / pi(c_k|x). Use :func:`ovis.functional.policy_signal` there.

    Args:
        log_p: log p(x, z_k), shape [..., K].
        log_q: log q(z_k | x), shape [..., K].
        method: estimator id: reinforce, vimco[-arithmetic|-geometric], ovis-gamma<g>, ovis-S<s>, rloo, rws, tvo-...,
            iwae, vae, ciwae-beta<b>, stl.
        alpha: order of the Renyi bound, below 1; a float or a tensor without dimensions. Not for vae, ciwae, rloo and
            tvo.
        log_w_aux: log-weights of S auxiliary samples, shape [..., S], for ovis-S<s>-exclusive. Without them,
            ovis-S<s> takes the last s of the K particles: theta's bound uses all, phi's K - s.
        mask: bool [..., K], or a shape that broadcasts to it: which particles there are; None: all. Value and gradient
            of each row are those of its particles alone. The other log-densities may have any value, NaN too; their
            gradient is 0. Not for ovis-S<s> without ``log_w_aux``, nor for tvo-...-config1 and -config2, which depend
            on K in other ways.

    Returns:
        shape [...], in nats, at least in single precision. Where a row of the mask has no particle, value and gradient
        are 0. Where it has one, and the method leaves one out, they are NaN; on the CPU this is an error.

    Raises:
        ValueError: an unknown or unsupported method, shapes that differ, too few particles, or alpha >= 1.
        TypeError: a mask that is not bool.

    See also:
        :func:`doubly_reparameterized_loss` for DReG; :func:`ovis.estimators.config.get_config` for modules that draw
        and score the particles, too.
    """
    check_log_weights(log_p, name="log_p")
    check_log_weights(log_q, name="log_q")
    if log_p.shape != log_q.shape:
        shapes = f"{tuple(log_p.shape)} and {tuple(log_q.shape)}"
        raise ValueError(f"log_p and log_q must have one shape [..., K], got {shapes}")
    spec = parse_estimator(method)
    if spec.family in ("reinforce-baseline", "wake-sleep", "wake-mix", "dreg", "mixed", "piwae"):
        hint = {
            "piwae": "; use its phi method on (log_p.detach(), log_q) and on all particles (log_p, log_q.detach())",
            "dreg": "; use doubly_reparameterized_loss",
            **dict.fromkeys(
                ("reinforce-baseline", "wake-sleep", "wake-mix"), "; use ovis.estimator, which takes the model"
            ),
            "mixed": "; use (log_p - log_q_pathwise, log_q_scored, method of the scored layers)",
        }.get(spec.family, "")
        raise ValueError(f"method {method!r} needs more than log-densities{hint}")
    check_alpha(alpha)
    if "alpha" in spec.lacks and (isinstance(alpha, Tensor) or alpha != 0):
        raise ValueError(f"method {method!r} has no alpha")
    log_p, log_q = at_least_single(log_p), at_least_single(log_q)
    if mask is not None:
        _check_maskable(spec, log_w_aux)
        mask = check_mask(log_p, mask, _at_least(spec))
        log_p, log_q = torch.where(mask, log_p, 0.0), torch.where(mask, log_q, 0.0)
    factors = _factors((log_p - log_q).detach(), spec, alpha, log_w_aux, mask)
    if mask is not None:
        factors = _masked(factors, mask, _at_least(spec))
    others = [item for item in (alpha, mask) if isinstance(item, Tensor)]
    rule = _rule(spec, alpha, mask)
    return attach(-factors.value, (-factors.log_p, log_p), (-factors.log_q, log_q), rule=rule, others=others)


def _rule(spec: EstimatorId, alpha: Alpha, mask: Tensor | None) -> Rule:
    """How the factors depend on log p and log q, where the gradient is the derivative of the loss."""
    if spec.family == "pathwise-vae":
        return constant
    known = "" if spec.family == "tvo" else " with respect to log q"
    estimate = undifferentiable(f"the gradient of {spec.canonical!r}{known} is an estimate, not its derivative")
    if spec.family == "tvo":
        return estimate
    bound, elbo_weight = spec.family in ("pathwise-iwae", "ciwae"), float(spec.config.get("elbo_weight", 0.0))
    number = None if isinstance(alpha, Tensor) else alpha
    masked = mask is not None

    def rule(i: int, factor: Tensor, x: Sequence[Tensor]) -> Tensor:
        if i == 1 and not bound:
            return estimate(i, factor, x)
        log_p, log_q, *others = x
        there = others[-1] if masked else None
        log_w = log_p - (log_q if bound else estimate(1, log_q, [log_q]))
        weights = normalized_weights(log_w, others[0] if number is None else number, there)
        if elbo_weight:
            weights = (1 - elbo_weight) * weights + elbo_weight * _equal_weights(log_w, there)
        return torch.where(factor.isnan(), factor, weights if i == 1 else -weights)

    return rule


def _check_maskable(spec: EstimatorId, log_w_aux: Tensor | None) -> None:
    if spec.family == "ovis-S" and log_w_aux is None:
        raise ValueError(f"method {spec.canonical!r} takes the last particles of a row: with a mask, give log_w_aux")
    if spec.family == "tvo" and isinstance(spec.config["first"], str):
        raise ValueError(f"method {spec.canonical!r} partitions by K: with a mask, use tvo-part<P>-beta<b>")


def _at_least(spec: EstimatorId) -> int:
    """Smallest number of particles of a row."""
    return 2 if spec.facts.needs_two_particles and spec.family != "tvo" else 1


def _masked(factors: Factors, mask: Tensor, at_least: int) -> Factors:
    """0 where no particle is, NaN in rows with fewer than ``at_least``."""
    count = mask.sum(-1, keepdim=True)
    value, log_p, log_q = (
        torch.where(count >= at_least, item, math.nan)
        for item in (factors.value.unsqueeze(-1), factors.log_p, factors.log_q)
    )
    value = torch.where(count > 0, value, 0.0).squeeze(-1)
    return Factors(value, torch.where(mask, log_p, 0.0), torch.where(mask, log_q, 0.0))


def doubly_reparameterized_loss(
    log_p: Tensor, log_q: Tensor, z: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None
) -> Tensor:
    """DReG: the pathwise gradient of the bound without its high-variance term (Tucker et al. 2019, eq. 8).

    See https://arxiv.org/abs/1810.04152.

    The gradient through z_k has the factor v_k^2, tempered: alpha v_k + (1 - alpha) v_k^2; that of the parameters of
    log p has the factor v_k. Sets a hook on z: build only one loss on each z.

    Args:
        log_p: log p(x, z_k), shape [..., K].
        log_q: log q(z_k | x) with the parameters of q detached, shape [..., K].
        z: reparameterized samples that both were computed from, shape [..., K] or [..., K, *event].
        alpha: order of the Renyi bound, below 1.
        mask: as for :func:`multisample_loss`. The gradient of the other samples is 0, too.

    Returns:
        shape [...], in nats, at least in single precision; 0 where a row of the mask has no particle.

    Raises:
        ValueError: samples without a graph, shapes that differ, or alpha >= 1.
        TypeError: a mask that is not bool.
    """
    check_log_weights(log_p, name="log_p")
    if not z.requires_grad:
        raise ValueError("z must be a reparameterized sample (rsample) that carries a graph")
    if log_p.shape != log_q.shape or z.shape[: log_p.dim()] != log_p.shape:
        shapes = f"{tuple(log_p.shape)}, {tuple(log_q.shape)}, {tuple(z.shape)}"
        raise ValueError(f"log_p, log_q [..., K] and z [..., K, *event] must agree, got {shapes}")
    log_p, log_q = at_least_single(log_p), at_least_single(log_q)
    if mask is not None:
        mask = check_mask(log_p, mask, 1)
        log_p, log_q = torch.where(mask, log_p, 0.0), torch.where(mask, log_q, 0.0)
    factors = pathwise_factors((log_p - log_q).detach(), check_alpha(alpha), mask)
    scale_gradient(z, alpha + (1 - alpha) * factors.log_p, mask)
    if mask is not None:
        factors = _masked(factors, mask, 1)
    return attach(-factors.value, (-factors.log_p, log_p), (-factors.log_q, log_q))


def scale_gradient(z: Tensor, factor: Tensor, mask: Tensor | None = None) -> None:
    """Multiply the gradient that will flow into z by a factor, by a hook on z.

    Args:
        z: samples that carry a graph, shape [..., K, *event].
        factor: shape [..., K].
        mask: shape [..., K], False where the gradient is 0 whatever flows in; None: nowhere.
    """
    ones = (1,) * (z.dim() - factor.dim())
    factor = factor.reshape(factor.shape + ones)
    there = None if mask is None else mask.reshape(mask.shape + ones)

    def scaled(grad: Tensor) -> Tensor:
        result = (grad * factor).to(grad.dtype)
        return result if there is None else torch.where(there, result, 0.0)

    z.register_hook(scaled)


def score_factors(log_w: Tensor, signal: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Factors:
    """Factors of a score-function gradient: v_k of grad log p(x, z_k), the learning signal of grad log q(z_k|x).

    Use it in the ``estimate`` of an estimator whose samples need no reparameterization: OVIS, VIMCO, REINFORCE, RWS.
    The gradient of theta is sum_k v_k grad log p(x, z_k); that of phi is sum_k (d_k - c_k) grad log q(z_k|x), or
    sum_k v_k grad log q(z_k|x) in the wake-phi update. v_k are the normalized weights.

    Args:
        log_w: log-weights, shape [..., K], detached.
        signal: the learning signal, shape [..., K]; see :func:`ovis.functional.learning_signal`.
        alpha: order of the Renyi bound, below 1; a float or a tensor without dimensions.
        mask: bool [..., K], which particles there are; None: all.

    Returns:
        value [...], the bound in nats; log_p and log_q [..., K].

    Raises:
        ValueError: a wrong shape, or alpha >= 1.

    See also:
        :func:`pathwise_factors` for reparameterized samples; :func:`attach` makes a loss of the factors.
    """
    return Factors(iw_bound(log_w, alpha, mask), normalized_weights(log_w, alpha, mask), signal)


def pathwise_factors(log_w: Tensor, alpha: Alpha = 0.0, mask: Tensor | None = None) -> Factors:
    """Factors of the reparameterized gradient of the bound, sum_k v_k grad log w_k (IWAE; STL where q is detached).

    See Burda et al. (2016), https://arxiv.org/abs/1509.00519, and for STL, Roeder et al. (2017),
    https://arxiv.org/abs/1703.09194. Both log-densities must carry the graph through the samples z_k.

    Args:
        log_w: log-weights log p(x, z_k) - log q(z_k|x), shape [..., K], detached.
        alpha: order of the Renyi bound, below 1; a float or a tensor without dimensions.
        mask: bool [..., K], which particles there are; None: all.

    Returns:
        value [...], the bound in nats; log_p = v_k and log_q = -v_k [..., K].

    Raises:
        ValueError: a wrong shape, or alpha >= 1.

    See also:
        :func:`elbo_factors`; :func:`doubly_reparameterized_loss` for DReG.
    """
    weights = normalized_weights(log_w, alpha, mask)
    return Factors(iw_bound(log_w, alpha, mask), weights, -weights)


def elbo_factors(log_w: Tensor, mask: Tensor | None = None) -> Factors:
    """Factors of the reparameterized gradient of the ELBO, averaged over K samples: (1/K) sum_k grad log w_k.

    See Kingma & Welling (2014), https://arxiv.org/abs/1312.6114. Both log-densities must carry the graph through the
    samples z_k.

    Args:
        log_w: log-weights log p(x, z_k) - log q(z_k|x), shape [..., K], detached.
        mask: bool [..., K], which particles there are; None: all.

    Returns:
        value [...], the mean log-weight in nats; log_p = 1/K and log_q = -1/K [..., K].

    See also:
        :func:`pathwise_factors` for the importance-weighted bound.
    """
    weights = _equal_weights(log_w, mask)
    return Factors(particle_mean(log_w, mask).squeeze(-1), weights, -weights, constant=True)


def _equal_weights(log_w: Tensor, mask: Tensor | None) -> Tensor:
    """1/K."""
    if mask is None:
        return torch.full_like(log_w, 1 / log_w.shape[-1])
    return mask / particle_count(log_w, mask)


def rloo_factors(log_w: Tensor, mask: Tensor | None = None) -> Factors:
    """Factors of the leave-one-out REINFORCE gradient of the ELBO: (f_k - mean f)/(K - 1) of grad log q(z_k|x).

    See Kool et al. (2019), https://openreview.net/forum?id=r1lgTGL5DE. The samples need no graph.

    Args:
        log_w: log-weights f_k, shape [..., K], K >= 2, detached.
        mask: bool [..., K], which particles there are; None: all.

    Returns:
        value [...], the mean log-weight in nats; log_p = 1/K and log_q [..., K].

    See also:
        :func:`score_factors` for the importance-weighted bound.
    """
    top = centre(log_w, mask=mask).top
    depths = log_w - top.nan_to_num(0.0, 0.0, 0.0)  # so that a common offset costs the differences no digits
    mean = particle_mean(depths, mask)
    signal = torch.where(depths == mean, 0.0, depths - mean) / (particle_count(log_w, mask) - 1)
    return Factors(particle_mean(log_w, mask).squeeze(-1), _equal_weights(log_w, mask), signal)


def ciwae_factors(log_w: Tensor, elbo_weight: float, mask: Tensor | None = None) -> Factors:
    """Factors of the reparameterized gradient of b ELBO + (1 - b) L_K (CIWAE): b/K + (1 - b) v_k of grad log w_k.

    See Rainforth et al. (2018), https://arxiv.org/abs/1802.04537. Both log-densities must carry the graph through the
    samples z_k.

    Args:
        log_w: log-weights log p(x, z_k) - log q(z_k|x), shape [..., K], detached.
        elbo_weight: b, in [0, 1].
        mask: bool [..., K], which particles there are; None: all.

    Returns:
        value [...], the mixture of the two bounds in nats; log_p and log_q [..., K].

    See also:
        :func:`elbo_factors` (b = 1) and :func:`pathwise_factors` (b = 0).
    """
    elbo, bound = elbo_factors(log_w, mask), pathwise_factors(log_w, 0.0, mask)
    if elbo_weight in (0, 1):  # the other one may be infinite
        return elbo if elbo_weight else bound
    value = elbo_weight * elbo.value + (1 - elbo_weight) * bound.value
    weights = elbo_weight * elbo.log_p + (1 - elbo_weight) * bound.log_p
    return Factors(value, weights, -weights)


def tvo_factors(
    log_w: Tensor, knots: list[float], integration: str = "left", mask: Tensor | None = None, centred: bool = False
) -> Factors:
    """Covariance gradient of the thermodynamic variational objective (Masrani et al. 2019, eq. 13).

    See https://arxiv.org/abs/1907.00031. With widths D_b of the Riemann sum:

    sum_b D_b [ sum_k w_k^b grad log w_k + K/(K - 1) sum_k w_k^b (log w_k - E_b) grad log pi_b(z_k) ], where w^b are the
    normalized weights of b log w, E_b = sum_k w_k^b log w_k, and log pi_b = b log p + (1 - b) log q. The covariance's
    second centring drops out, since its factors sum to 0.

    Args:
        log_w: log-weights, shape [..., K], detached.
        knots: the partition, 0 = b_0 < ... < b_P = 1; see :func:`ovis.functional.partitions.tvo_partition`.
        integration: left, right or trapz.
        mask: bool [..., K], which particles there are; None: all.
        centred: leave out the term -D_0/K grad log q(z_k|x) of the node 0, whose samples are unweighted draws of q, so
            that its mean is 0.

    Returns:
        value [...], the Riemann sum in nats; log_p and log_q [..., K].

    Raises:
        ValueError: an unknown integration rule.
    """
    count = particle_count(log_w, mask)
    correction = count / ((count - 1).clamp(min=1) if isinstance(count, Tensor) else max(count - 1, 1))
    top, depths = centre(log_w, mask=mask)  # so that a common offset costs the differences no digits
    value = torch.zeros_like(log_w[..., 0])
    log_p, log_q = torch.zeros_like(log_w), torch.zeros_like(log_w)
    for power, width in tvo_nodes(knots, integration):
        tempered = normalized_weights(log_w, 1 - power, mask) if power else _equal_weights(log_w, mask)
        mean = torch.where(tempered == 0, 0.0, tempered * depths).sum(-1, keepdim=True)
        deviation = torch.where(depths == mean, 0.0, depths - mean)
        covariance = width * correction * torch.where(tempered == 0, 0.0, tempered * deviation)
        value = value + width * torch.where(top.isinf(), top, top + mean).squeeze(-1)
        log_p = log_p + width * tempered
        if power > 0 or not centred:
            log_q = log_q - width * tempered
        if power > 0:  # the covariance may be infinite
            log_p = log_p + power * covariance
        if power < 1:
            log_q = log_q + (1 - power) * covariance
    return Factors(value, log_p, log_q)


def _factors(
    log_w: Tensor, spec: EstimatorId, alpha: Alpha, log_w_aux: Tensor | None, mask: Tensor | None = None
) -> Factors:
    family, config, particles = spec.family, spec.config, log_w.shape[-1]
    if log_w_aux is not None and family != "ovis-S":
        raise ValueError(f"method {spec.canonical!r} takes no log_w_aux")
    if family in ("pathwise-iwae", "stl"):
        return pathwise_factors(log_w, alpha, mask)
    if family == "pathwise-vae":
        return elbo_factors(log_w, mask)
    if family == "ciwae":
        return ciwae_factors(log_w, float(config["elbo_weight"]), mask)
    if family == "rloo":
        return rloo_factors(log_w, mask)
    if family == "tvo":
        knots = tvo_partition(int(config["partitions"]), config["first"], particles)
        return tvo_factors(log_w, knots, str(config["integration"]), mask, bool(config.get("centred")))
    if family == "ovis-S" and log_w_aux is None:
        auxiliary = auxiliary_count(config["auxiliary"], particles)  # type: ignore[arg-type]
        if config["exclusive"] or auxiliary >= particles:
            fraction = config["auxiliary"] if isinstance(config["auxiliary"], float) else 0.0
            enough = not config["exclusive"] and fraction < 1  # a larger K would be
            remedy = f"give log_w_aux [..., {auxiliary}]" + (f", or more than {auxiliary} particles" if enough else "")
            raise ValueError(f"method {spec.canonical!r} with {particles} particles: {remedy}")
        return inclusive_factors(log_w, auxiliary, alpha)
    return score_factors(log_w, learning_signal(log_w, spec.canonical, alpha, log_w_aux, mask), alpha, mask)


def inclusive_factors(log_w: Tensor, auxiliary: int, alpha: Alpha = 0.0) -> Factors:
    """Factors of OVIS_MC within a budget of K particles, the last S of which are the auxiliary samples.

    The bound of theta uses all K particles, that of phi the first K - S; so the last S entries of ``log_q`` are 0. See
    Lievin et al. (2020), eq. 12, https://arxiv.org/abs/2008.01998.

    Args:
        log_w: log-weights, shape [..., K], detached.
        auxiliary: S, from 1 to K - 1.
        alpha: order of the Renyi bound, below 1; a float or a tensor without dimensions.

    Returns:
        value [...], the bound of all K particles in nats; log_p and log_q [..., K].

    Raises:
        ValueError: a wrong shape, or alpha >= 1.
    """
    split = log_w.shape[-1] - auxiliary
    signal = learning_signal(log_w[..., :split], "ovis-S1", alpha, log_w[..., split:])
    return score_factors(log_w, torch.nn.functional.pad(signal, (0, auxiliary)), alpha)
