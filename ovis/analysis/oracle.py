"""Is an estimator right? Its gradient against the exact one, with errors: ``check_estimator(estimator, model, x)``."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ovis.analysis.closed_form import LocationMoments, location_moments
from ovis.analysis.enumeration import ExactMoments, exact_gradient, exact_moments
from ovis.analysis.gradients import compare_gradients, get_gradients_statistics
from ovis.estimators.base import GradientEstimator
from ovis.estimators.score_function import OvisAsymptotic
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

#: Chance that an unbiased estimator is called biased.
FALSE_ALARM = 1e-3

#: A bias is looked for only where its standard error is below this fraction of the gradient's norm.
RESOLUTION = 0.25


@dataclass(frozen=True)
class EstimatorCheck:
    """What :func:`check_estimator` found. ``print`` it for a table.

    Attributes:
        estimator: its class.
        reference: what the truth was taken from.
        draws: how many gradients were drawn.
        entries: D, entries of the gradient.
        gradient_norm: norm of the true gradient.
        bias_norm: norm of the mean gradient's distance to it.
        standard_error: of that distance: its norm where there is no bias, at most.
        largest_t: the largest distance of an entry, in its standard errors.
        threshold: what the largest of D unbiased entries exceeds once in 1000 times.
        variance: of an entry of one draw, on average.
        seconds: of a call with its backward pass, median.
        claim: what the estimator says it is unbiased for, or None.
        verdict: unbiased, biased, or undecided (the noise would hide a bias: more draws).
    """

    estimator: str
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
        rows = {
            "true gradient": f"norm {self.gradient_norm:.4g} in {self.entries} entries, from {self.reference}",
            "bias": f"{self.bias_norm:.3g} +- {self.standard_error:.2g}, of {self.draws} draws",
            "largest entry": f"{self.largest_t:.1f} standard errors (chance: {self.threshold:.1f})",
            "variance": f"{self.variance:.4g} of an entry of one draw, on average",
            "cost": f"{1e3 * self.seconds:.2f} ms a call with its backward pass",
            "claims": f"unbiased for {self.claim}" if self.claim else "no unbiasedness",
            "verdict": self.verdict,
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
    """Draw gradients of an estimator and compare their mean with the gradient of L_K^alpha.

    The truth comes from enumeration where the latents are discrete and few; elsewhere from ten times as many draws of
    OVIS~ with gamma = 0, which is unbiased, and its own error is taken into account.

    Args:
        estimator: any estimator, your own too.
        model: a model with few latents, best in float64.
        x: a few data, shape [B, *event].
        mc_samples: draws.
        key_filter: selects parameters by name.
        seed: of the draws.
        config: settings of the estimator, e.g. ``alpha``.

    Raises:
        ValueError: an estimator or a model that don't go together.
    """
    settings = estimator.configured(**config)
    alpha = float(getattr(settings, "alpha", 0.0))
    stats, meta = get_gradients_statistics(
        estimator, model, x, mc_samples, key_filter, compute_dsnr=False, seed=seed, **config
    )
    truth, truth_variance, reference = _truth(model, x, settings.iw, alpha, key_filter, mc_samples, seed)
    error = (meta.variance / mc_samples + truth_variance).sqrt()
    bias = meta.mean - truth
    t = torch.where(bias == 0, 0.0, bias.abs() / error.clamp(min=torch.finfo(error.dtype).eps * truth.norm()))
    threshold = Normal(0.0, 1.0).icdf(torch.tensor(1 - FALSE_ALARM / (2 * len(t)), dtype=torch.float64)).item()
    largest, norm, noise = t.max().item(), truth.norm().item(), error.norm().item()
    verdict = "biased" if largest > threshold else "unbiased" if noise < RESOLUTION * norm else "undecided"
    return EstimatorCheck(
        type(estimator).__name__, reference, mc_samples, len(t), norm, bias.norm().item(), noise, largest, threshold,
        float(stats["grads"]["variance"]), _cost(estimator, model, x, config), estimator.unbiased_for, verdict,
    )  # fmt: skip


def _truth(
    model: nn.Module, x: Tensor, iw: int, alpha: float, key_filter: str, mc_samples: int, seed: int
) -> tuple[Tensor, Tensor, str]:
    """The gradient [D], the variance of each of its entries, and where it is from."""
    if isinstance(model, ParticleModel):
        try:
            exact = exact_gradient(model, x, iw, alpha, key_filter).double()
            return exact, torch.zeros_like(exact), "enumeration"
        except ValueError:  # continuous, or too many values
            pass
    if iw < 2:
        raise ValueError("the latents can't be enumerated, and the reference, ovis-gamma0, needs iw of at least 2")
    unbiased = OvisAsymptotic(iw=iw, gamma=0.0, alpha=alpha)
    draws = 10 * mc_samples
    found = compare_gradients({"": unbiased}, model, x, draws, key_filter, compute_dsnr=False, seed=seed + 1)
    meta = found[""][1]
    return meta.mean, meta.variance / draws, f"{draws} draws of ovis-gamma0"


def _cost(estimator: GradientEstimator, model: nn.Module, x: Tensor, config: dict[str, Any], calls: int = 9) -> float:
    """Median seconds of a call and its backward pass; gradients and random state are left as found."""
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
