"""How good is a gradient? Variance, signal-to-noise ratio and direction of an estimator's gradient, from many draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import trange

from ovis.diagnostics import Diagnostic
from ovis.estimators.base import GradientEstimator
from ovis.functional.statistics import RunningMoments, cosine, directional_snr, signal_to_noise

__all__ = ["GradientMeta", "get_gradients_statistics", "select_parameters"]

PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class GradientMeta:
    """What the statistics were computed from. D is the number of selected parameters.

    Attributes:
        names: selected parameters.
        mean: mean gradient, shape [D], float64.
        variance: unbiased variance of each entry, shape [D], float64.
        grads: all draws, shape [M, D], where they were asked for.
    """

    names: tuple[str, ...]
    mean: Tensor
    variance: Tensor
    grads: Tensor | None


def get_gradients_statistics(
    estimator: GradientEstimator,
    model: nn.Module,
    x: Tensor,
    mc_samples: int = 100,
    key_filter: str = "inference_network",
    oracle_grad: Tensor | None = None,
    return_grads: bool = False,
    compute_dsnr: bool = True,
    samples_per_batch: int | None = None,
    eps: float = 1e-15,
    progress: bool = False,
    **config: Any,
) -> tuple[Diagnostic, GradientMeta]:
    """Statistics of the gradient of the mini-batch's mean loss over independent draws of the particles.

    Moments are taken entry by entry over the draws, then averaged over the entries with variance above eps. The model's
    mode and its ``.grad`` are left as they are.

    Args:
        estimator: of which the gradient is analysed.
        model: its model.
        x: the mini-batch, shape [B, *event].
        mc_samples: M, number of draws, at least 2.
        key_filter: selects the parameters whose name contains it; several, separated by commas: any of them.
        oracle_grad: the true gradient, shape [D], for ``direction``.
        return_grads: keep all draws.
        compute_dsnr: compute the directional SNR, which keeps the draws while it runs (M D numbers).
        samples_per_batch: particles held at once: x is split to stay below; None: all at once.
        eps: entries with less variance are left out of the averages.
        progress: show a bar.
        config: settings of the estimator for these draws, e.g. ``alpha``.

    Returns:
        ``grads/`` variance, magnitude (of the mean), snr, dsnr, snr_p5 ... snr_p95, keep_ratio (share of the entries
        kept), and direction (cosine of mean and oracle gradient); and what they were computed from.

    Raises:
        ValueError: no parameter has such a name; fewer than two draws.
    """
    if mc_samples < 2:
        raise ValueError(f"the variance of a gradient needs mc_samples of at least 2, got {mc_samples}")
    named = select_parameters(model, key_filter)
    parameters = list(named.values())
    moments = RunningMoments(sum(p.numel() for p in parameters), x.device)
    pieces = _split(estimator, x, samples_per_batch, config)
    kept: list[Tensor] = []
    for _ in trange(mc_samples, desc="gradients", leave=False, disable=not progress):
        grad = _draw_gradient(estimator, model, pieces, parameters, config)
        moments.update(grad.unsqueeze(0))
        if compute_dsnr or return_grads:
            kept.append(grad)
    grads = torch.stack(kept) if kept else None
    meta = GradientMeta(tuple(named), moments.mean, moments.variance, grads if return_grads else None)
    stats = _summary(meta, eps)
    if compute_dsnr and grads is not None:
        stats["dsnr"] = directional_snr(grads, meta.mean, eps)
    if oracle_grad is not None:
        stats["direction"] = cosine(meta.mean, oracle_grad.flatten())
    return Diagnostic({"grads": stats}), meta


def select_parameters(model: nn.Module, key_filter: str) -> dict[str, nn.Parameter]:
    """The trainable parameters whose name contains one of the comma-separated keys.

    Raises:
        ValueError: there is none.
    """
    keys = [key.strip() for key in key_filter.split(",") if key.strip()]
    named = {n: p for n, p in model.named_parameters() if p.requires_grad and any(key in n for key in keys)}
    if not named:
        valid = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
        raise ValueError(f"no parameter of {type(model).__name__} has {key_filter!r} in its name; it has: {valid}")
    return named


def _split(estimator: GradientEstimator, x: Tensor, samples: int | None, config: dict[str, Any]) -> list[Tensor]:
    if samples is None:
        return [x]
    per_datum = config.get("mc", estimator.settings.mc) * config.get("iw", estimator.settings.iw)
    return list(x.split(max(1, samples // per_datum)))


def _draw_gradient(
    estimator: GradientEstimator,
    model: nn.Module,
    pieces: list[Tensor],
    parameters: list[nn.Parameter],
    config: dict[str, Any],
) -> Tensor:
    """One draw of the gradient of the mean loss, flattened, shape [D]."""
    size = sum(len(piece) for piece in pieces)
    total: Tensor | None = None
    for piece in pieces:
        loss, _, _ = estimator(model, piece, return_diagnostics=False, **config)
        grads = torch.autograd.grad(loss.sum() / size, parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
        part = torch.cat([g.flatten() for g in flat])
        total = part if total is None else total + part
    assert total is not None
    return total


def _summary(meta: GradientMeta, eps: float) -> dict[str, Tensor]:
    snr = signal_to_noise(meta.mean, meta.variance, eps)
    keep = meta.variance > eps
    count = keep.sum()

    def average(values: Tensor) -> Tensor:
        return torch.where(keep, values, 0.0).sum() / count.clamp(min=1)

    stats = {"variance": average(meta.variance), "magnitude": average(meta.mean.abs()), "snr": average(snr)}
    if bool(count):
        levels = torch.tensor(PERCENTILES, dtype=snr.dtype, device=snr.device) / 100
        kept = snr[keep].sort().values
        positions = levels * (len(kept) - 1)  # torch.quantile refuses more than 16 million entries
        low = positions.floor().long()
        high = positions.ceil().long()
        values = kept[low] + (kept[high] - kept[low]) * (positions - low)
        stats.update({f"snr_p{p}": value for p, value in zip(PERCENTILES, values, strict=True)})
    stats["keep_ratio"] = count / len(snr)
    return stats
