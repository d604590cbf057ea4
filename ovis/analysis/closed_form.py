"""Closed-form moments, for large K, of each estimator's gradient on the Gaussian toy model.

With r = w / Z, h = grad_b log q(z|x) = (z - m)/s^2 and g = grad_z log p(x, z), the gradient of one bound with respect
to the location b tends to a sum over particles whose mean and variance are moments of (r, z) under q. Write z = m + y
and d = m - m*, where the posterior is N(m*, 1/2). All dimensions are independent, and normal under r^p q:

    E[r^p f(y_i)] = M_p E f(N(t_p, 1/P_p)),     P_p = (1 - p)/s^2 + 2 p,     t_p = -2 p d_i / P_p,
    log M_p = G(p) - p G(1),                     G(p) = sum_i -1/2 log(s^2 P_p) + 2 p^2 d_i^2 / P_p.

Normalizing by the K weights instead of Z is taken into account to first order (the delta method), so variances of
order K^-3 contain their whole leading term. Derived from the appendix of Lievin et al. 2020
(https://arxiv.org/abs/2008.01998) and from Rainforth et al. 2018 (https://arxiv.org/abs/1802.04537).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ovis.estimators.ids import parse_estimator
from ovis.models.gaussian_toy import GaussianToyVAE

__all__ = ["LocationMoments", "location_moments"]


class LocationMoments(NamedTuple):
    """Mean and variance of the gradient of the mini-batch's mean loss with respect to b.

    Attributes:
        mean: shape [D], float64.
        variance: variance of each entry of one draw, shape [D], float64.
    """

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def location_moments(model: GaussianToyVAE, x: Tensor, estimator: str, iw: int) -> LocationMoments:
    """Mean (to second order in 1/K) and variance (to leading order) of one draw of the gradient with respect to b.

    Use it to check measured moments, or the rate at which they change with K, without sampling noise. The formulas are
    those of the module's description.

    Args:
        model: the toy model.
        x: the mini-batch, shape [B, D]. Both moments are averaged over it; the variance is divided by B as well.
        estimator: id: reinforce, vimco[-geometric], ovis-gamma0, ovis-gamma1, ovis-S<s>-exclusive, iwae, stl, dreg.
        iw: K.

    Returns:
        the moments, shape [D] each.

    Raises:
        ValueError: the estimator has no closed form here, or the fourth moment of the weights is infinite.

    See also:
        :func:`ovis.analysis.enumeration.exact_moments` for models with few discrete latents,
        :func:`ovis.analysis.gradients.get_gradients_statistics` for measured moments.
    """
    spec = parse_estimator(estimator)
    name = spec.canonical
    moments = _Moments(model, x.double())
    if name == "reinforce":
        mean, variance = moments.unbiased(iw), iw * moments.log_evidence.square() * moments.of(0, h=2)
    elif name == "vimco-arithmetic":
        mean, variance = moments.unbiased(iw), moments.of(0, h=2) / iw
    elif name == "vimco-geometric":
        mean, variance = moments.unbiased(iw), (-2 * moments.divergence).exp() * moments.of(0, h=2) / iw
    elif name == "ovis-gamma0":
        mean, variance = moments.unbiased(iw), moments.second_order(torch.zeros(()), torch.zeros(())) / iw**3
    elif spec.family == "ovis-S" and spec.config["exclusive"] and isinstance(spec.config["auxiliary"], int):
        spread = (moments.of(4) - moments.of(2).square()) / spec.config["auxiliary"]
        mean, variance = moments.unbiased(iw), moments.second_order(moments.of(2), spread) / iw**3
    elif name == "ovis-gamma1":
        wake = moments.of(1, h=1)
        mean = wake * (1 + moments.of(2) / iw) - moments.of(2, h=1) / (2 * iw)
        variance = moments.centred_wake() / iw
    elif name in ("pathwise-iwae", "stl"):
        limit, variance = moments.pathwise(detached=name == "stl")
        mean = moments.unbiased(iw) if name == "pathwise-iwae" else limit - moments.sticking_bias(limit) / iw
        variance = variance / iw
    elif name == "dreg":
        mean, variance = moments.unbiased(iw), moments.doubly_reparameterized() / iw**3
    else:
        raise ValueError(f"{name} has no closed form here")
    return LocationMoments(-mean.mean(0), variance.mean(0) / len(x))


class _Moments:
    """Moments of (r, y) under q, for every datum and dimension [B, D], or [B, 1] where dimensions don't matter."""

    def __init__(self, model: GaussianToyVAE, x: Tensor):
        mu, A, b = (model.get_parameter(name).double() for name in ("mu", "A", "b"))
        self.variance_q = model.scale**2
        self.d = x @ A.T + b - (x + mu) / 2
        self.log_evidence = -0.25 * (x - mu).square().sum(-1, keepdim=True) - 0.5 * len(mu) * math.log(4 * math.pi)
        ratio = 2 * self.variance_q
        self.divergence = (self.d.square() + 0.5 * (ratio - 1 - math.log(ratio))).sum(-1, keepdim=True)  # KL(q || p)
        if self._precision(4) <= 0:
            raise ValueError("the fourth moment of the weights is infinite: no variance")

    def of(self, p: int, h: int = 0) -> Tensor:
        """E[r^p h_i^n] for n = 0, 1, 2."""
        return self.polynomial(p, *((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0))[h]) / self.variance_q**h

    def polynomial(self, p: int, *coefficients: Tensor | float) -> Tensor:
        """E[r^p (c_0 + c_1 y_i + c_2 y_i^2)]."""
        c = (*coefficients, 0.0, 0.0)
        shift = -2 * p * self.d / self._precision(p)
        mass = (self._log_mass(p) - p * self._log_mass(1)).exp()
        return mass * (c[0] + c[1] * shift + c[2] * (1 / self._precision(p) + shift.square()))

    def unbiased(self, iw: int) -> Tensor:
        """Gradient of L_K = log Z - V/(2 K) + (T/3 - 3 V^2/4)/K^2, V = E(r - 1)^2, T = E(r - 1)^3 (Nowozin 2018)."""
        second, third = (self.of(p) * self.d * (4 * p * p / self._precision(p) - 2 * p) for p in (2, 3))  # of E r^p
        return -second / (2 * iw) + (third / 3 - second - 1.5 * (self.of(2) - 1) * second) / iw**2

    def second_order(self, centre: Tensor, spread: Tensor) -> Tensor:
        """K^3 times the variance of sum_k (r_k^2 - R) h_k / (2 K^2); R has mean ``centre``, variance ``spread``."""
        mean = self.of(2, h=1)
        square = self.of(4, h=2) - 2 * centre * self.of(2, h=2) + (centre.square() + spread) * self.of(0, h=2)
        with_weight = self.of(3, h=1) - centre * self.of(1, h=1) - mean
        return (square - mean.square() - 4 * mean * with_weight + 4 * mean.square() * (self.of(2) - 1)) / 4

    def centred_wake(self) -> Tensor:
        """K times the variance of sum_k (v_k - 1/K) h_k: of r (h - E r h) - h."""
        mean = self.of(1, h=1)
        wake = self.of(2, h=2) - 2 * mean * self.of(2, h=1) + mean.square() * self.of(2)
        return wake - 2 * (self.of(1, h=2) - mean.square()) + self.of(0, h=2)

    def pathwise(self, detached: bool) -> tuple[Tensor, Tensor]:
        """Limit of sum_k v_k g_k and K times its variance; g = a + c y is the gradient of log w with respect to z."""
        a, c = self._slope(detached)
        mean = self.polynomial(1, a, c)
        return mean, self.polynomial(2, (a - mean).square(), 2 * c * (a - mean), c * c * torch.ones_like(a))

    def sticking_bias(self, mean: Tensor) -> Tensor:
        """E[r^2 (g - mean)] of the detached g: -K times the bias from normalizing by the K sampled weights."""
        a, c = self._slope(detached=True)
        return self.polynomial(2, a - mean, c)

    def doubly_reparameterized(self) -> Tensor:
        """K^3 times the variance of sum_k v_k^2 g_k."""
        a, c = self._slope(detached=True)
        mean = self.polynomial(2, a, c)
        square = self.polynomial(4, a.square(), 2 * a * c, c * c * torch.ones_like(a))
        with_weight = self.polynomial(3, a, c) - mean
        return square - mean.square() - 4 * mean * with_weight + 4 * mean.square() * (self.of(2) - 1)

    def _slope(self, detached: bool) -> tuple[Tensor, float]:
        """grad_z log p(x, z) = -2 (y + d); minus grad_z log q = + y/s^2, if q is detached."""
        return -2 * self.d, -2 + (1 / self.variance_q if detached else 0.0)

    def _precision(self, p: int) -> float:
        return (1 - p) / self.variance_q + 2 * p

    def _log_mass(self, p: int) -> Tensor:
        precision = self._precision(p)
        terms = -0.5 * math.log(self.variance_q * precision) + 2 * p * p * self.d.square() / precision
        return terms.sum(-1, keepdim=True)
