"""Statistics of a random vector from its draws: moments, signal-to-noise ratios, directions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["RunningMoments", "cosine", "directional_ratios", "directional_snr", "signal_to_noise"]


class RunningMoments:
    """Mean and variance of draws that are added batch by batch, in float64.

    Use it for more draws than fit in memory. Two batches are combined by the formula of Chan, Golub & LeVeque (1983),
    https://doi.org/10.1080/00031305.1983.10483115, which does not subtract large sums from each other.

    Args:
        size: D, entries of a draw.
        device: device of the draws.

    Attributes:
        count: number of draws so far.
        mean: their mean, float64 [D]; zero before the first draw.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)

    def update(self, draws: Tensor) -> None:
        """Add draws.

        Args:
            draws: shape [n, D], n >= 1, of any floating-point type.
        """
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
    """Signal-to-noise ratio (SNR) of each entry of a gradient, |mean| / max(sd, eps).

    An estimator whose SNR falls with the number of particles trains worse with more of them (Rainforth et al. 2018,
    https://arxiv.org/abs/1802.04537).

    Args:
        mean: shape [D].
        variance: shape [D].
        eps: smallest standard deviation.

    Returns:
        shape [D], without unit.

    See also:
        :func:`directional_snr` for one number for the whole vector; :class:`RunningMoments` for mean and variance.
    """
    return mean.abs() / variance.sqrt().clamp(min=eps)


def directional_snr(draws: Tensor, mean: Tensor, eps: float = 1e-15) -> Tensor:
    """Directional signal-to-noise ratio (DSNR): mean over draws g of |g_par| / (eps + |g_perp|).

    g_par is the part of a draw that is parallel to the mean, g_perp the part normal to it. Unlike the SNR of single
    entries it does not depend on the coordinates. See Rainforth et al. (2018), https://arxiv.org/abs/1802.04537.

    Args:
        draws: draws g of the gradient, shape [M, D].
        mean: mean of the gradient, shape [D]; only its direction matters.
        eps: keeps the ratio of a draw without a normal part finite.

    Returns:
        a tensor without dimensions, without unit.

    See also:
        :func:`directional_ratios` for the ratio of each draw; :func:`signal_to_noise` for each entry.
    """
    return directional_ratios(draws, mean, eps).mean()


def directional_ratios(draws: Tensor, mean: Tensor, eps: float = 1e-15) -> Tensor:
    """|g_par| / (eps + |g_perp|) of each draw, whose mean is the directional SNR.

    Use it for the standard error of :func:`directional_snr`, or to average over batches of draws.

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
    """Cosine of the angle between two vectors, a.b / (|a| |b|).

    Use it to compare the directions of two gradients: 1 where they agree, -1 where they are opposite.

    Args:
        a: shape [D].
        b: shape [D]; converted to the type and device of ``a``.

    Returns:
        a tensor without dimensions, in [-1, 1]; 0 where one of the vectors is zero.
    """
    norms = (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny)
    ratio: Tensor = (a @ b.to(a)) / norms
    return ratio
