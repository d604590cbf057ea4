"""Variance, signal-to-noise ratios and direction of an estimator's gradient, measured from many draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ovis.analysis.gaussian_location import LocationGradientSampler, LocationModel, has_plain_factors
from ovis.analysis.gradient_samples import ParameterGradientSampler, TensorGradientSampler, select_parameters
from ovis.analysis.progress_bar import progress_bar
from ovis.diagnostics import Diagnostic
from ovis.estimators.base import GradientEstimator
from ovis.estimators.sampling import unwrapped
from ovis.functional.statistics import RunningMoments, cosine, directional_ratios, directional_snr, signal_to_noise
from ovis.nests import Nest

__all__ = [
    "GradientMeta",
    "compare_gradients",
    "get_gradients_statistics",
    "gradient_statistics",
    "select_parameters",
    "summary",
]

PERCENTILES = (5, 25, 50, 75, 95)

#: Up to this size (512 MB) all draws are kept for the directional SNR; beyond it they are drawn twice.
MAX_KEPT_BYTES = 2**29

TENSOR = "tensor:"


@dataclass(frozen=True)
class GradientMeta:
    """The moments that statistics were computed from. D is the number of selected entries of the gradient.

    Attributes:
        names: selected parameters, or ``tensor:...``.
        mean: mean gradient, shape [D], float64.
        variance: unbiased variance of each entry, shape [D], float64.
        grads: all draws, shape [M, D], with ``return_grads``; otherwise None.
    """

    names: tuple[str, ...]
    mean: Tensor
    variance: Tensor
    grads: Tensor | None


class GradientSampler(Protocol):
    """Numbered draws of the gradients of E estimators."""

    def __call__(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the draws with numbers start, ..., stop - 1 in order, a few at a time: [n, E, D]."""


def get_gradients_statistics(
    estimator: GradientEstimator,
    model: nn.Module,
    x: Nest,
    mc_samples: int = 100,
    key_filter: str = "inference_network",
    oracle_grad: Tensor | None = None,
    return_grads: bool = False,
    compute_dsnr: bool = True,
    samples_per_batch: int | None = None,
    eps: float = 1e-15,
    progress: bool = False,
    seed: int | None = None,
    **config: Any,
) -> tuple[Diagnostic, GradientMeta]:
    """Statistics of the gradient of the mini-batch's mean loss over independent draws of the particles.

    Use it to compare estimators, or to follow the quality of a gradient while a model trains. For each entry g of the
    gradient, SNR = |E g| / sd(g); DSNR = E |g_par| / |g_perp|, where par and perp are the parts of the whole gradient
    parallel and orthogonal to its mean (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537). Moments are taken
    entry by entry over the draws, then averaged over the entries with variance above eps. The model's mode and its
    ``.grad`` are left as they are. Draw number i depends on (seed, i, datum) alone, so the results do not depend on
    ``samples_per_batch``, but for rounding.

    Args:
        estimator: the estimator whose gradient is analysed.
        model: its model.
        x: the mini-batch, shape [B, *event], or a nest of such tensors.
        mc_samples: M, number of draws, at least 2.
        key_filter: selects the parameters whose name contains it; several, separated by commas: any of them. Or
            ``tensor:qlogits``: the gradient with respect to the logits of q in the model's output, of every datum and
            layer (or qloc, qscale, or an entry of the output by its name). A model written to ``Template`` has a row
            for each particle of a datum, a ``Model`` one for each datum.
        oracle_grad: the true gradient, shape [D], for ``direction``.
        return_grads: return all draws, too.
        compute_dsnr: compute the directional SNR. It needs the direction of the mean first, so the draws (M D numbers
            per estimator) are kept in memory, or, beyond 512 MB, drawn twice.
        samples_per_batch: largest number of particles whose graph is in memory at once, at least those of one datum;
            None: 8,192.
        eps: entries with less variance are excluded from the averages.
        progress: show a progress bar, which needs tqdm.
        seed: seed of the draws; None: taken from torch's global random state.
        config: settings of the estimator for these draws, e.g. ``alpha``.

    Returns:
        ``grads/`` variance, magnitude (of the mean), snr, dsnr, snr_p5 ... snr_p95, keep_ratio (share of the entries
        kept), and direction (cosine of mean and oracle gradient); and what they were computed from.

    Raises:
        ValueError: no parameter has such a name; fewer than two draws; an ``oracle_grad`` of another shape; a model
            whose random numbers can't be numbered, see :mod:`ovis.analysis.random_inputs`.
        ImportError: ``progress`` without tqdm.

    See also:
        :func:`compare_gradients` for several estimators on common random numbers,
        :func:`ovis.analysis.oracle.check_estimator` for bias.
    """
    results = compare_gradients(
        {"": estimator}, model, x, mc_samples, key_filter, oracle_grad, return_grads, compute_dsnr, samples_per_batch,
        eps, progress, seed, **config,
    )  # fmt: skip
    return results[""]


def _check_arguments(
    estimators: Mapping[str, GradientEstimator], mc_samples: int, samples_per_batch: int | None
) -> None:
    if not estimators:
        raise ValueError("there is no estimator to analyse")
    if not isinstance(mc_samples, int) or mc_samples < 2:
        raise ValueError(f"the variance of a gradient needs mc_samples of at least 2, a whole number, got {mc_samples}")
    if samples_per_batch is not None and (not isinstance(samples_per_batch, int) or samples_per_batch < 1):
        raise ValueError(f"samples_per_batch must be None or a whole number of at least 1, got {samples_per_batch}")


def compare_gradients(
    estimators: Mapping[str, GradientEstimator],
    model: nn.Module,
    x: Nest,
    mc_samples: int = 100,
    key_filter: str = "inference_network",
    oracle_grad: Tensor | None = None,
    return_grads: bool = False,
    compute_dsnr: bool = True,
    samples_per_batch: int | None = None,
    eps: float = 1e-15,
    progress: bool = False,
    seed: int | None = None,
    **config: Any,
) -> dict[str, tuple[Diagnostic, GradientMeta]]:
    """Statistics of the gradients of several estimators on common random numbers.

    Use it rather than separate calls of :func:`get_gradients_statistics`, which give the same results for the same
    seed: estimators that draw their particles in the same way share them and their log-weights, so only the learning
    signals differ, and auxiliary samples come from separate generators.

    Args:
        estimators: estimators by name; the other arguments are those of :func:`get_gradients_statistics`.

    Returns:
        for each estimator what :func:`get_gradients_statistics` returns.

    Raises:
        ValueError: there is no estimator, or an error of :func:`get_gradients_statistics`.
    """
    _check_arguments(estimators, mc_samples, samples_per_batch)
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    draws = make_sampler(estimators, model, x, key_filter, seed, samples_per_batch, **config)
    kept: list[Tensor] = []
    moments: list[RunningMoments] = []
    keep = return_grads
    with progress_bar("gradients", mc_samples, progress) as advance:
        for grads in draws(0, mc_samples):
            if not moments:
                if oracle_grad is not None and oracle_grad.shape != grads.shape[2:]:
                    expected, got = list(grads.shape[2:]), list(oracle_grad.shape)
                    raise ValueError(f"oracle_grad must have shape {expected}, as the gradient has, got {got}")
                moments = [RunningMoments(grads.shape[2], grads.device) for _ in estimators]
                keep = return_grads or (compute_dsnr and mc_samples * grads[0].nbytes <= MAX_KEPT_BYTES)
            for moment, part in zip(moments, grads.unbind(1), strict=True):
                moment.update(part)
            if keep:
                kept.append(grads)
            advance(len(grads))
    names = draws.names if isinstance(draws, ParameterGradientSampler | TensorGradientSampler) else (key_filter,)
    if return_grads:
        kept = [torch.cat(kept)]
    dsnr = _dsnr(kept or draws(0, mc_samples), moments, eps) / mc_samples if compute_dsnr else None
    results = {}
    for index, name in enumerate(estimators):
        grads_of = kept[0][:, index] if return_grads else None
        meta = GradientMeta(names, moments[index].mean, moments[index].variance, grads_of)
        stats = summary(meta.mean, meta.variance, eps)
        if dsnr is not None:
            stats["dsnr"] = dsnr[index]
        if oracle_grad is not None:
            stats["direction"] = cosine(meta.mean, oracle_grad.flatten())
        results[name] = Diagnostic({"grads": stats}), meta
    return results


def gradient_statistics(grads: Tensor, eps: float = 1e-15) -> Diagnostic:
    """Statistics of given draws of a gradient, such as draws from another library.

    Args:
        grads: draws, shape [M, D], M >= 2.
        eps: entries with less variance are excluded from the averages.

    Returns:
        ``grads/`` as :func:`get_gradients_statistics` returns it, without direction.
    """
    moments = RunningMoments(grads.shape[1], grads.device)
    moments.update(grads)
    stats = summary(moments.mean, moments.variance, eps)
    stats["dsnr"] = directional_snr(grads, moments.mean, eps)
    return Diagnostic({"grads": stats})


def make_sampler(
    estimators: Mapping[str, GradientEstimator],
    model: nn.Module,
    x: Nest,
    key_filter: str,
    seed: int,
    samples_per_batch: int | None = None,
    **config: Any,
) -> GradientSampler:
    """The fastest sampler for this model and these entries of its gradient.

    Args:
        estimators: estimators by name.
        model: the model.
        x: data, shape [B, *event].
        key_filter: text in the names of the parameters, or ``tensor:NAME`` for an output tensor of the model.
        seed: seed of the random numbers.
        samples_per_batch: largest number of particles in memory at once; None: what suits the device.
        config: settings of all estimators for these draws.

    Raises:
        ValueError: no such parameter or tensor, or an estimator that the sampler does not support.
    """
    model = unwrapped(model)
    if key_filter.startswith(TENSOR):
        return TensorGradientSampler(estimators, model, x, key_filter[len(TENSOR) :], seed, samples_per_batch, **config)
    if isinstance(model, LocationModel) and key_filter == model.location and has_plain_factors(estimators, **config):
        return LocationGradientSampler(estimators, model, x, seed, samples_per_batch, **config)
    return ParameterGradientSampler(estimators, model, x, key_filter, seed, samples_per_batch, **config)


def summary(mean: Tensor, variance: Tensor, eps: float = 1e-15) -> dict[str, Tensor]:
    """Statistics that need only the mean and variance of each entry of a gradient.

    Averages are taken over the entries with variance above eps. An entry whose variance is NaN counts among them and
    makes the averages NaN.

    Args:
        mean: shape [D].
        variance: shape [D].
        eps: entries with less variance are excluded from the averages.

    Returns:
        variance, magnitude, snr, its percentiles snr_p5 ... snr_p95 (absent where no entry is kept), and keep_ratio.
    """
    snr = signal_to_noise(mean, variance, eps)
    keep = ~(variance <= eps)
    count = keep.sum()

    def average(values: Tensor) -> Tensor:
        return torch.where(keep, values, 0.0).sum() / count.clamp(min=1)

    stats = {"variance": average(variance), "magnitude": average(mean.abs()), "snr": average(snr)}
    if bool(count):
        levels = torch.tensor(PERCENTILES, dtype=snr.dtype, device=snr.device) / 100
        kept = snr[keep].sort().values
        positions = levels * (len(kept) - 1)  # torch.quantile refuses more than 16 million entries
        low = positions.floor().long()
        high = positions.ceil().long()
        values = kept[low] + (kept[high] - kept[low]) * (positions - low)
        values = torch.where(kept.isnan().any(), torch.nan, values)
        stats.update({f"snr_p{p}": value for p, value in zip(PERCENTILES, values, strict=True)})
    stats["keep_ratio"] = count / len(snr)
    return stats


def _dsnr(draws: Any, moments: list[RunningMoments], eps: float) -> Tensor:
    """Sum over the draws of |g_par| / (eps + |g_perp|): [E]."""
    total = torch.zeros(len(moments), dtype=torch.float64, device=moments[0].mean.device)
    for grads in draws:
        ratios = [directional_ratios(part, m.mean, eps).sum() for part, m in zip(grads.unbind(1), moments, strict=True)]
        total += torch.stack(ratios)
    return total
