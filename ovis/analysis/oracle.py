"""Test of an estimator: its mean gradient against the true one, exactly or from draws (:func:`check_estimator`)."""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ovis.analysis.closed_form import LocationMoments, location_moments
from ovis.analysis.enumeration import ExactMoments, NotEnumerableError, exact_gradient, exact_moments
from ovis.analysis.gradients import TENSOR, GradientMeta, get_gradients_statistics, summary
from ovis.analysis.module_state import restored_buffers
from ovis.estimators.base import GradientEstimator
from ovis.estimators.mixed import Mixed
from ovis.estimators.ovis import OvisAsymptotic
from ovis.estimators.sampling import unwrapped
from ovis.estimators.tvo import Tvo
from ovis.functional.precision import autocasts
from ovis.models.model import Model
from ovis.nests import Nest, first_tensor

__all__ = [
    "EstimatorCheck",
    "ExactMoments",
    "LocationMoments",
    "check_estimator",
    "exact_gradient",
    "exact_moments",
    "location_moments",
]

#: The values of an estimator's ``unbiased_for`` that can be checked.
BOUNDS = ("L_K", "L_{K-S}", "ELBO")

#: Probability that normal draws of an unbiased estimator look biased.
FALSE_ALARM = 1e-3

#: Least number of draws.
FEWEST = 10

#: A bias is confirmed by this many times as many draws.
CONFIRMING = 4

#: Relative bias that draws are to exclude.
SETTLED = 0.05

#: More draws than the estimated standard errors call for, because those of few skewed gradients are often too small.
MARGIN = 1.3

#: Normal noise exceeds the first of these standard deviations in a given direction, and the second in either direction,
#: with a probability of 2.5 % each.
ONE_SIDED, TWO_SIDED = 1.96, 2.2414

#: Largest rounding error of an exact mean, in units of the precision and of the root mean square of the gradient, and
#: what a bound of order alpha adds to it, in units of 1/|1 - alpha|.
ROUNDING, ROUNDING_NEAR_1 = 200, 10

#: Largest rounding error, relative to the true gradient, with which a mean is called exact.
EXACT = 0.01

#: Particles in each draw of the reference gradient of the ELBO.
ELBO_PARTICLES = 8

Verdict = Literal["unbiased", "biased", "no bias above 5 %", "undecided"]


@dataclass(frozen=True)
class _Comparison:
    """A mean gradient compared with the true one; see :class:`EstimatorCheck`."""

    bias_norm: float
    standard_error: float
    largest_t: float
    threshold: float
    bias_limit: float
    draws_needed: int | None
    verdict: Verdict


@dataclass(frozen=True)
class EstimatorCheck(_Comparison):
    """The result of :func:`check_estimator`; ``print`` it for a table.

    Attributes:
        estimator: id of the estimator, or the name of its class if that is not in the table.
        bound: the bound of the true gradient: the one that the estimator claims to be unbiased for, or else L_K.
        claim: the bound that the estimator claims to be unbiased for, or None.
        reference: how the true gradient was computed.
        draws: number of gradients that the mean is from; 0 where it was computed by enumeration.
        entries: D, entries of the gradient.
        gradient_norm: norm of the true gradient.
        variance: variance of an entry of one draw, averaged over the entries.
        seconds: median time of a call with its backward pass.
        bias_norm: norm of the difference between the mean gradient and the true one.
        standard_error: norm of the standard errors of that difference; 0 without draws.
        largest_t: the largest difference of an entry, in units of its standard error; 0 without draws.
        threshold: value that the largest of D unbiased entries exceeds once in 1000 times; 0 without draws.
        bias_limit: largest norm of the bias, relative to that of the true gradient: exact without draws (plus the
            largest rounding error if the verdict is ``undecided``), otherwise at 95 % confidence, and infinite where
            the true gradient can't be distinguished from 0.
        draws_needed: number of draws that would show that an unbiased estimator has no bias above 5 %; None without
            draws, or where the true gradient can't be distinguished from 0.
        dtype: the lowest precision in which the gradients were computed.
        verdict: ``unbiased`` (from enumeration only); ``biased``; ``no bias above 5 %`` at 95 % confidence; or
            ``undecided``, where a bias above 5 % is neither evident nor excluded, or where rounding errors may be more
            than 1 % of the true gradient.
    """

    estimator: str
    bound: str
    claim: str | None
    reference: str
    draws: int
    entries: int
    gradient_norm: float
    variance: float
    seconds: float
    dtype: torch.dtype

    def __str__(self) -> str:
        truth = f"of {self.bound}, norm {self.gradient_norm:.4g} in {self.entries} entries, from {self.reference}"
        rows = {"true gradient": truth}
        if self.draws:
            rows["bias"] = f"{self.bias_norm:.3g} +- {self.standard_error:.2g}, of {self.draws} draws"
            rows["largest entry"] = f"{self.largest_t:.1f} standard errors (chance: {self.threshold:.1f})"
        else:
            rows["bias"] = f"{self.bias_norm:.3g}, {_percent(self.bias_limit)} of the true gradient, from enumeration"
        rows["variance"] = f"{self.variance:.4g} of an entry of one draw, on average"
        rows["cost"] = f"{1e3 * self.seconds:.2f} ms a call with its backward pass"
        rows["claims"] = f"unbiased for {self.claim}" if self.claim else "no unbiasedness"
        rows["verdict"] = self._conclusion()
        return "\n".join([self.estimator, *(f"  {name:<14}  {text}" for name, text in rows.items())])

    def _conclusion(self) -> str:
        if self.verdict == "biased" and self.claim is None:
            return f"biased for {self.bound}, and it does not claim to be unbiased"
        if self.verdict in ("unbiased", "biased"):
            return f"{self.verdict} for {self.bound}"
        if not self.draws and (self.bias_limit < 1 or self.dtype != torch.float64):
            name = str(self.dtype).removeprefix("torch.")
            remedy = "" if self.dtype == torch.float64 else "; check model.double() with x.double()"
            hidden = f"rounding errors in {name} may hide a bias of {_percent(self.bias_limit)}"
            return f"undecided for {self.bound}: {hidden}{remedy}"
        limit = f"no bias above {_percent(self.bias_limit)} at 95 %"
        if self.verdict == "undecided" and self.draws_needed is None:
            return f"undecided for {self.bound}: the true gradient can't be distinguished from 0"
        if self.verdict == "undecided":
            return f"undecided for {self.bound}: {limit}; {self.draws_needed:,} draws would settle 5 %"
        return f"{limit} for {self.bound}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"


def check_estimator(
    estimator: GradientEstimator,
    model: nn.Module,
    x: Nest,
    mc_samples: int = 1000,
    key_filter: str = "inference_network",
    seed: int = 0,
    **config: Any,
) -> EstimatorCheck:
    """Test whether the mean of an estimator's gradient is the gradient of the bound it claims.

    Use it on every new estimator. The claimed bound is the estimator's ``unbiased_for`` with its alpha, beta and free
    bits: L_K, L_{K-S} or the ELBO; L_K where it claims none.

    Where the latents are discrete and few, both gradients are computed exactly, by enumeration: nothing is drawn, and
    the verdict is ``unbiased``, up to rounding, ``biased``, or, if rounding errors may be more than 1 % of the true
    gradient, as in half precision, ``undecided``. Elsewhere the mean of many draws is compared with the true gradient,
    entry by entry: the estimator is called ``biased`` if the largest t = |mean - truth| / standard error
    exceeds what D unbiased entries exceed once in 1000 times, and does so again in four times as many new draws (the
    means of few skewed gradients exceed it more often). If not, the result is an upper limit of the bias: with a
    probability of 95 % or more, its norm is at most the fraction

        (|mean - truth| + 1.96 e) / (|truth| - 2.24 e_truth)

    of that of the true gradient, where e and e_truth are the norms of the standard errors of mean - truth and of truth.
    The verdict is ``no bias above 5 %`` if that limit is at most 5 %, and otherwise ``undecided``, with the number of
    draws that would settle it. Without enumeration the true gradient comes from ten times as many draws of an unbiased
    estimator: OVIS~ with gamma = 0 (Lievin et al. 2020, https://arxiv.org/abs/2008.01998) or, for one particle, the
    ELBO's score function with a leave-one-out baseline (TVO with one partition).

    Args:
        estimator: any estimator, also one that is not part of ovis.
        model: a model with few latents, preferably in float64.
        x: a few data, shape [B, *event], or a nest of such tensors.
        mc_samples: number of draws, if any, at least 10.
        key_filter: selects parameters by name.
        seed: seed of the draws.
        config: settings of the estimator, e.g. ``alpha``.

    Returns:
        the verdict with the numbers that it rests on.

    Raises:
        ValueError: the estimator claims a bound that can't be checked; the estimator and the model can't be combined;
            the bound is infinite; too few draws; or an error of
            :func:`ovis.analysis.gradients.get_gradients_statistics`.

    See also:
        :func:`ovis.analysis.enumeration.exact_moments` for exact bias and variance,
        :func:`ovis.analysis.gradients.get_gradients_statistics` for signal-to-noise ratios.
    """
    model = unwrapped(model)
    bound = _claimed_bound(estimator, estimator.configured(**config))
    seconds = _cost(estimator, model, x, config)  # before the rest: a call initializes lazy parameters
    truth = _exact_truth(model, x, bound, key_filter)
    exact = None if truth is None else _exact_moments(estimator, model, x, key_filter, config)
    moments: ExactMoments | GradientMeta
    dtype = _least_precise(model, x)
    if truth is None or exact is None:
        moments, truth, draws, comparison = _draw(
            estimator, model, x, bound, truth, mc_samples, key_filter, seed, config
        )
    else:
        comparison = _from_enumeration(exact, truth, torch.finfo(dtype).eps, bound.alpha)
        moments, draws = exact, 0
    return EstimatorCheck(
        **vars(comparison),
        estimator=_name(estimator),
        bound=bound.name,
        claim=bound.claim,
        reference=truth.source,
        draws=draws,
        entries=len(moments.mean),
        gradient_norm=truth.mean.norm().item(),
        variance=float(summary(moments.mean, moments.variance)["variance"]),
        seconds=seconds,
        dtype=dtype,
    )


def _name(estimator: GradientEstimator) -> str:
    name = type(estimator).__name__
    return estimator.id if estimator.facts.implementation.endswith(f":{name}") else name


def _least_precise(model: nn.Module, x: Nest) -> torch.dtype:
    """The type of the parameters, or that of autocast, with the lowest precision."""
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    if autocasts(first_tensor(x).device):
        dtypes.append(torch.get_autocast_dtype(first_tensor(x).device.type))
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


class _Truth(NamedTuple):
    """The true gradient."""

    mean: Tensor  # [D], float64
    variance: Tensor  # [D], of its error
    source: str


def _draw(
    estimator: GradientEstimator,
    model: nn.Module,
    x: Nest,
    bound: _Bound,
    exact: _Truth | None,
    draws: int,
    key_filter: str,
    seed: int,
    config: dict[str, Any],
) -> tuple[GradientMeta, _Truth, int, _Comparison]:
    """Moments from draws, the true gradient (from draws, too, unless it is known exactly), the number of draws, and the
    comparison. A bias is confirmed by a second, larger set, because means of few skewed gradients are not normal.
    """
    if draws < FEWEST:
        raise ValueError(f"a standard error needs mc_samples of at least {FEWEST}, got {draws}")
    for count, first in ((draws, seed), (CONFIRMING * draws, seed + 2)):
        _, moments = get_gradients_statistics(
            estimator, model, x, count, key_filter, compute_dsnr=False, seed=first, **config
        )
        truth = exact or _sampled_truth(model, x, bound, estimator.mixed, key_filter, count, first)
        comparison = _from_draws(moments, count, truth, torch.finfo(_least_precise(model, x)).eps)
        if comparison.verdict != "biased":
            break
    return moments, truth, count, comparison


def _from_enumeration(moments: ExactMoments, truth: _Truth, precision: float, alpha: float) -> _Comparison:
    size, norm = (moments.mean - truth.mean).norm().item(), truth.mean.norm().item()
    units = ROUNDING + (ROUNDING_NEAR_1 / abs(1 - alpha) if alpha != 1 else 0)
    rounding = units * precision * _root_mean_square(moments)
    verdict: Verdict = "biased" if size > rounding else "unbiased" if rounding <= EXACT * norm else "undecided"
    largest = size + rounding if verdict == "undecided" else size
    limit = largest / norm if norm > 0 else 0.0 if largest == 0 else math.inf
    return _Comparison(size, 0.0, 0.0, 0.0, limit, None, verdict)


def _from_draws(moments: GradientMeta, draws: int, truth: _Truth, precision: float) -> _Comparison:
    """Compare entries with their standard errors, and norms with the norms of those.

    For a bias b and noise e with the covariance matrix C, |b| <= |b + e| - e b/|b|, and the standard deviation of the
    last term is at most the root of the trace of C. The noise in |truth| is at most |e| for the noise e of the truth,
    and |e| exceeds c roots of the trace most often if all noise has one direction (Szekely & Bakirov 2003, c > 1.24).
    """
    bias = moments.mean - truth.mean
    errors = (moments.variance / draws + truth.variance).sqrt()
    t = torch.where(bias == 0, 0.0, bias.abs() / errors.clamp(min=precision * _root_mean_square(moments)))
    threshold = Normal(0.0, 1.0).icdf(torch.tensor(1 - FALSE_ALARM / (2 * len(t)), dtype=torch.float64)).item()
    largest, size, error = t.max().item(), bias.norm().item(), errors.norm().item()
    norm, norm_error = truth.mean.norm().item(), truth.variance.sum().sqrt().item()
    certain = norm - TWO_SIDED * norm_error
    limit = (size + ONE_SIDED * error) / certain if certain > 0 else math.inf
    verdict: Verdict = "biased" if largest > threshold else "no bias above 5 %" if limit <= SETTLED else "undecided"
    needed = None
    if certain > 0:  # the noise falls with the root of the draws, and is below TWO_SIDED * error with 97.5 %
        noise = (TWO_SIDED + ONE_SIDED) * error + SETTLED * TWO_SIDED * norm_error
        needed = _round_up(MARGIN * draws * (noise / (SETTLED * norm)) ** 2)
    return _Comparison(size, error, largest, threshold, limit, needed, verdict)


def _root_mean_square(moments: ExactMoments | GradientMeta) -> float:
    return (moments.mean.square() + moments.variance).sum().sqrt().item()


def _round_up(count: float) -> int:
    """The next number with two significant digits."""
    unit = 10 ** max(math.floor(math.log10(count)) - 1, 0) if count > 1 else 1
    return math.ceil(count / unit) * unit


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
    claim, name = configured.unbiased_for, type(estimator).__name__
    if claim is not None and claim not in BOUNDS:
        raise ValueError(f"{name}.unbiased_for is {claim!r}, which can't be checked; valid: {', '.join(BOUNDS)}, None")
    if claim == "L_{K-S}" and not hasattr(settings, "count"):
        raise ValueError(f"{name}.unbiased_for is {claim!r}, but its settings have no count, which is S")
    particles = {"ELBO": 1, "L_{K-S}": settings.iw - getattr(settings, "count", 0)}.get(claim or "", settings.iw)
    return _Bound(claim, particles, float(settings.alpha), float(settings.beta), settings.freebits)


def _exact_truth(model: nn.Module, x: Nest, bound: _Bound, key_filter: str) -> _Truth | None:
    """The true gradient by enumeration; None where that is impossible."""
    if not isinstance(model, Model) or key_filter.startswith(TENSOR):
        return None
    try:
        mean = exact_gradient(model, x, bound.particles, bound.alpha, key_filter, bound.beta, bound.freebits).double()
    except NotEnumerableError:
        return None
    return _Truth(mean, torch.zeros_like(mean), "enumeration")


def _exact_moments(
    estimator: GradientEstimator, model: nn.Module, x: Nest, key_filter: str, config: dict[str, Any]
) -> ExactMoments | None:
    """The moments of the estimator's gradient by enumeration; None where that is impossible."""
    assert isinstance(model, Model)
    try:
        return exact_moments(estimator, model, x, None, key_filter, **config)
    except NotEnumerableError:
        return None


def _sampled_truth(
    model: nn.Module, x: Nest, bound: _Bound, mixed: bool, key_filter: str, mc_samples: int, seed: int
) -> _Truth:
    """The true gradient from ten times as many draws of an unbiased estimator."""
    K, alpha, beta, freebits = bound.particles, bound.alpha, bound.beta, bound.freebits
    unbiased: GradientEstimator
    if mixed:  # pathwise where that is possible, which has less variance
        scored, pathwise = ("rloo", "pathwise-vae") if K == 1 else ("ovis-gamma0", "pathwise-iwae")
        shared = {"iw": ELBO_PARTICLES} if K == 1 else {"iw": K, "alpha": alpha, "freebits": freebits}
        unbiased, name = Mixed(scored=scored, pathwise=pathwise, beta=beta, **shared), f"{scored}+{pathwise}"
    elif K == 1:  # the ELBO, whatever alpha
        unbiased, name = Tvo(iw=ELBO_PARTICLES, partitions=1, beta=beta, freebits=freebits), "tvo, one partition"
    else:
        unbiased, name = OvisAsymptotic(iw=K, gamma=0.0, alpha=alpha, beta=beta, freebits=freebits), "ovis-gamma0"
    draws = 10 * mc_samples
    _, meta = get_gradients_statistics(unbiased, model, x, draws, key_filter, compute_dsnr=False, seed=seed + 1)
    return _Truth(meta.mean, meta.variance / draws, f"{draws} draws of {name}")


def _cost(estimator: GradientEstimator, model: nn.Module, x: Nest, config: dict[str, Any], calls: int = 9) -> float:
    """Median seconds of a call and its backward pass; gradients, buffers and random state are left unchanged."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    times = []
    with torch.random.fork_rng(), restored_buffers(model):
        for _ in range(calls):
            begin = time.perf_counter()
            loss, _, _ = estimator(model, x, return_diagnostics=False, **config)
            grads = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
            if first_tensor(x).is_cuda:
                next(g for g in grads if g is not None).sum().item()  # wait for the device
            times.append(time.perf_counter() - begin)
    return statistics.median(times)
