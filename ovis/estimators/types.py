"""Data that the stages of an estimator exchange. B data, M = mc bounds, K = iw particles, L stochastic layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovis.functional.log_weights import Alpha
from ovis.functional.surrogates import Factors

__all__ = ["Estimate", "Particles"]


@dataclass(frozen=True)
class Particles:
    """Scored samples, with the graph that an estimator differentiates. N = M K."""

    log_px: Tensor  # [B, N], log p(x | z)
    log_pz: Tensor  # [B, N, L], log p(z_l | ...)
    log_qz: Tensor  # [B, N, L], log q(z_l | ...)
    output: dict[str, Any]  # as the model returned it: px, z, qz, pz

    @classmethod
    def without_samples(cls, log_px: Tensor, gap: Tensor) -> Particles:
        """Particles for diagnostics, from log p(x|z) and the sum of log q - log p over the layers, [B, N] each."""
        return cls(log_px, torch.zeros_like(gap[:1, :1]).expand_as(gap).unsqueeze(-1), gap.unsqueeze(-1), {})

    @property
    def gap(self) -> Tensor:
        """log q(z|x) - log p(z), summed over the layers, shape [B, N]."""
        return (self.log_qz - self.log_pz).sum(-1)

    @property
    def z(self) -> list[Tensor]:
        """The samples of each layer."""
        samples: list[Tensor] = self.output["z"]
        return samples

    def log_w(self, beta: Alpha = 1.0, freebits: float | None = None) -> Tensor:
        """Log-weights log p(x|z) - beta sum_l max(log q_l - log p_l, freebits), detached, shape [B, N]."""
        gaps = self.log_qz.detach() - self.log_pz.detach()
        if freebits is not None:
            gaps = gaps.clamp(min=freebits)
        return self.log_px.detach() - beta * gaps.sum(-1)


@dataclass(frozen=True)
class Estimate:
    """The factors of an estimator's gradient, and additional terms of its loss."""

    factors: Factors  # value [B, M], log_p and log_q [B, M, K]
    extra: Tensor | None = None  # [B], a loss whose gradient is added (a baseline's)
    extra_share: Callable[[int], Tensor] | None = None  # n -> [B], the share of n of the M K (the sleep phase)
    phi_weights: Tensor | None = None  # [B, M, K], v_k of phi's bound; None: those of theta's, factors.log_p
    path: Tensor | None = None  # [B, M, K], multiplies the gradient that flows into z_k; None: 1
