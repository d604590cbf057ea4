"""Statistics of a random vector from its draws: moments, signal-to-noise ratios, directions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["RunningMoments", "cosine", "directional_ratios", "directional_snr", "signal_to_noise"]


class RunningMoments:
    """Mean and variance of draws that are added batch by batch, in float64 (Chan, Golub & LeVeque 1983).

    Args:
        size: D, entries of a draw.
        device: device of the draws.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)

    def update(self, draws: Tensor) -> None:
        """Add draws, shape [n, D]."""
        draws = draws.to(self.mean)
        n = len(draws)
        total = self.count + n
        mean = draws.mean(0)
        shift = mean - self.mean
        self._squares += (draws - mean).square().sum(0) + shift.square() * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Unbiased variance of each entry, shape [D]; NaN for fewer than two draws."""
        return self._squares / (self.count - 1) if self.count > 1 else torch.full_like(self.mean, torch.nan)


def signal_to_noise(mean: Tensor, variance: Tensor, eps: float = 1e-15) -> Tensor:
    """Signal-to-noise ratio of each entry, |mean| / max(sd, eps) (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537).

    Args:
        mean: shape [D].
        variance: shape [D].
        eps: smallest standard deviation.

    Returns:
        shape [D].
    """
    return mean.abs() / variance.sqrt().clamp(min=eps)


def directional_snr(draws: Tensor, mean: Tensor, eps: float = 1e-15) -> Tensor:
    """Directional SNR: mean over draws of |g_par| / (eps + |g_perp|), parallel and normal to the mean.

    Rainforth et al. (2018), https://arxiv.org/abs/1802.04537. Arguments as for :func:`directional_ratios`.

    Returns:
        a tensor without dimensions.
    """
    return directional_ratios(draws, mean, eps).mean()


def directional_ratios(draws: Tensor, mean: Tensor, eps: float = 1e-15) -> Tensor:
    """|g_par| / (eps + |g_perp|) of each draw, whose mean is the directional SNR.

    Args:
        draws: shape [M, D].
        mean: shape [D]; only its direction matters.
        eps: keeps the ratio of a draw without a normal part finite.

    Returns:
        shape [M].
    """
    draws = draws.to(mean)
    unit = mean / mean.norm().clamp(min=torch.finfo(mean.dtype).tiny)
    parallel = draws @ unit
    normal = (draws - parallel.unsqueeze(1) * unit).norm(dim=1)
    ratios: Tensor = parallel.abs() / (eps + normal)
    return ratios


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two vectors, shape [D] each; 0 where one is zero."""
    norms = (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny)
    ratio: Tensor = (a @ b.to(a)) / norms
    return ratio
