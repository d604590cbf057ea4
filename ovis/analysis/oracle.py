"""Test of an estimator: its mean gradient against the true one, with standard errors (:func:`check_estimator`)."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ovis.analysis.closed_form import LocationMoments, location_moments
from ovis.analysis.enumeration import ExactMoments, exact_gradient, exact_moments
from ovis.analysis.gradients import get_gradients_statistics
from ovis.estimators.base import GradientEstimator
from ovis.estimators.ovis import OvisAsymptotic
from ovis.estimators.tvo import Tvo
from ovis.models.template import ParticleModel

__all__ = [
    "EstimatorCheck",
    "ExactMoments",
    "LocationMoments",
    "check_estimator",
    "exact_gradient",
    "exact_moments",
    "location_moments",
]

#: Probability that an unbiased estimator is called biased.
FALSE_ALARM = 1e-3

#: An estimator is called unbiased only if the bias's standard error is below this fraction of the gradient's norm.
RESOLUTION = 0.25

#: Particles in each draw of the reference gradient of the ELBO.
ELBO_PARTICLES = 8


@dataclass(frozen=True)
class EstimatorCheck:
    """The result of :func:`check_estimator`; ``print`` it for a table.

    Attributes:
        estimator: name of the estimator's class.
        bound: the bound of the true gradient: the one that the estimator claims to be unbiased for, or else L_K.
        reference: how the true gradient was computed.
        draws: number of gradients drawn.
        entries: D, entries of the gradient.
        gradient_norm: norm of the true gradient.
        bias_norm: norm of the difference between the mean gradient and the true one.
        standard_error: norm of the standard errors of that difference: an upper limit of its mean norm without bias.
        largest_t: the largest difference of an entry, in units of its standard error.
        threshold: value that the largest of D unbiased entries exceeds once in 1000 times.
        variance: variance of an entry of one draw, averaged over the entries.
        seconds: median time of a call with its backward pass.
        claim: the bound that the estimator claims to be unbiased for, or None.
        verdict: unbiased, biased, or undecided (the noise would hide a bias: take more draws).
    """

    estimator: str
    bound: str
    reference: str
    draws: int
    entries: int
    gradient_norm: float
    bias_norm: float
    standard_error: float
    largest_t: float
    threshold: float
    variance: float
    seconds: float
    claim: str | None
    verdict: str

    def __str__(self) -> str:
        truth = f"of {self.bound}, norm {self.gradient_norm:.4g} in {self.entries} entries, from {self.reference}"
        rows = {
            "true gradient": truth,
            "bias": f"{self.bias_norm:.3g} +- {self.standard_error:.2g}, of {self.draws} draws",
            "largest entry": f"{self.largest_t:.1f} standard errors (chance: {self.threshold:.1f})",
            "variance": f"{self.variance:.4g} of an entry of one draw, on average",
            "cost": f"{1e3 * self.seconds:.2f} ms a call with its backward pass",
            "claims": f"unbiased for {self.claim}" if self.claim else "no unbiasedness",
            "verdict": f"{self.verdict} for {self.bound}",
        }
        return "\n".join([self.estimator, *(f"  {name:<14}  {text}" for name, text in rows.items())])


def check_estimator(
    estimator: GradientEstimator,
    model: nn.Module,
    x: Tensor,
    mc_samples: int = 1000,
    key_filter: str = "inference_network",
    seed: int = 0,
    **config: Any,
) -> EstimatorCheck:
    """Test whether the mean of an estimator's gradient is the gradient of the bound it claims.

    Use it on every new estimator. The mean of many draws is compared with the true gradient, entry by entry: the
    estimator is called biased if the largest t = |mean - truth| / standard error exceeds what D unbiased entries exceed
    once in 1000 times. The claimed bound is the estimator's ``unbiased_for`` with its alpha, beta and free bits: L_K,
    L_{K-S} or the ELBO; L_K where it claims none. The true gradient comes from enumeration where the latents are
    discrete and few. Elsewhere it comes from ten times as many draws of an unbiased estimator, whose error is taken
    into account: OVIS~ with gamma = 0 (Lievin et al. 2020, https://arxiv.org/abs/2008.01998) or, for one particle, the
    ELBO's score function with a leave-one-out baseline (TVO with one partition).

    Args:
        estimator: any estimator, also one that is not part of ovis.
        model: a model with few latents, preferably in float64.
        x: a few data, shape [B, *event].
        mc_samples: number of draws.
        key_filter: selects parameters by name.
        seed: seed of the draws.
        config: settings of the estimator, e.g. ``alpha``.

    Returns:
        the verdict with the numbers that it rests on.

    Raises:
        ValueError: the estimator and the model can't be combined, or no parameter has such a name.

    See also:
        :func:`ovis.analysis.enumeration.exact_moments` for exact bias and variance,
        :func:`ovis.analysis.gradients.get_gradients_statistics` for signal-to-noise ratios.
    """
    bound = _claimed_bound(estimator, estimator.configured(**config))
    stats, meta = get_gradients_statistics(
        estimator, model, x, mc_samples, key_filter, compute_dsnr=False, seed=seed, **config
    )
    truth, truth_variance, reference = _truth(model, x, bound, key_filter, mc_samples, seed)
    error = (meta.variance / mc_samples + truth_variance).sqrt()
    bias = meta.mean - truth
    t = torch.where(bias == 0, 0.0, bias.abs() / error.clamp(min=torch.finfo(error.dtype).eps * truth.norm()))
    threshold = Normal(0.0, 1.0).icdf(torch.tensor(1 - FALSE_ALARM / (2 * len(t)), dtype=torch.float64)).item()
    largest, norm, noise = t.max().item(), truth.norm().item(), error.norm().item()
    verdict = "biased" if largest > threshold else "unbiased" if noise < RESOLUTION * norm else "undecided"
    return EstimatorCheck(
        type(estimator).__name__, bound.name, reference, mc_samples, len(t), norm, bias.norm().item(), noise, largest,
        threshold, float(stats["grads"]["variance"]), _cost(estimator, model, x, config), bound.claim, verdict,
    )  # fmt: skip


@dataclass(frozen=True)
class _Bound:
    """The bound that an estimator is checked against."""

    claim: str | None
    particles: int
    alpha: float
    beta: float
    freebits: float | None

    @property
    def name(self) -> str:
        return self.claim or "L_K"


def _claimed_bound(estimator: GradientEstimator, settings: Any) -> _Bound:
    configured = copy.copy(estimator)
    configured.settings = settings
    claim = configured.unbiased_for
    particles = {"ELBO": 1, "L_{K-S}": settings.iw - getattr(settings, "count", 0)}.get(claim or "", settings.iw)
    beta, freebits = settings.beta, settings.freebits
    return _Bound(claim, particles, float(settings.alpha), float(beta), freebits)


def _truth(
    model: nn.Module, x: Tensor, bound: _Bound, key_filter: str, mc_samples: int, seed: int
) -> tuple[Tensor, Tensor, str]:
    """The true gradient [D], the variance of each of its entries, and how it was computed."""
    K, alpha, beta, freebits = bound.particles, bound.alpha, bound.beta, bound.freebits
    if isinstance(model, ParticleModel):
        try:
            exact = exact_gradient(model, x, K, alpha, key_filter, beta, freebits).double()
            return exact, torch.zeros_like(exact), "enumeration"
        except ValueError:  # continuous, or too many values
            pass
    unbiased: GradientEstimator
    if K == 1:  # the ELBO, whatever alpha
        unbiased, name = Tvo(iw=ELBO_PARTICLES, partitions=1, beta=beta, freebits=freebits), "tvo, one partition"
    else:
        unbiased, name = OvisAsymptotic(iw=K, gamma=0.0, alpha=alpha, beta=beta, freebits=freebits), "ovis-gamma0"
    draws = 10 * mc_samples
    _, meta = get_gradients_statistics(unbiased, model, x, draws, key_filter, compute_dsnr=False, seed=seed + 1)
    return meta.mean, meta.variance / draws, f"{draws} draws of {name}"


def _cost(estimator: GradientEstimator, model: nn.Module, x: Tensor, config: dict[str, Any], calls: int = 9) -> float:
    """Median seconds of a call and its backward pass; gradients and random state are left unchanged."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    times = []
    with torch.random.fork_rng():
        for _ in range(calls):
            begin = time.perf_counter()
            loss, _, _ = estimator(model, x, return_diagnostics=False, **config)
            grads = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
            if x.is_cuda:
                next(g for g in grads if g is not None).sum().item()  # wait for the device
            times.append(time.perf_counter() - begin)
    return statistics.median(times)
