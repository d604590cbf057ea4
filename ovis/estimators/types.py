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
    """Scored samples, with the graph that an estimator differentiates. N = M K.

    Attributes:
        log_px: log p(x|z), shape [B, N], in nats.
        log_pz: log p(z_l | ...) of each layer, shape [B, N, L].
        log_qz: log q(z_l | ...) of each layer, shape [B, N, L].
        output: what the model returned: ``px``, ``z``, ``qz``, ``pz``.
    """

    log_px: Tensor
    log_pz: Tensor
    log_qz: Tensor
    output: dict[str, Any]

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
        """Log-weights log p(x|z) - beta sum_l max(log q_l - log p_l, freebits).

        Args:
            beta: weight of the KL term; 1 for the bound itself.
            freebits: smallest KL term of a layer, in nats (Kingma et al. 2016, https://arxiv.org/abs/1606.04934); None:
                no limit.

        Returns:
            shape [B, N], in nats, detached.
        """
        gaps = self.log_qz.detach() - self.log_pz.detach()
        if freebits is not None:
            gaps = gaps.clamp(min=freebits)
        return self.log_px.detach() - beta * gaps.sum(-1)


@dataclass(frozen=True)
class Estimate:
    """The factors of an estimator's gradient, and additional terms of its loss.

    Attributes:
        factors: value [B, M], log_p and log_q [B, M, K].
        extra: a loss [B] whose gradient is added, such as a baseline's; None: none.
        extra_share: n -> [B], the share of n of the M K particles in such a loss (the sleep phase); None: none.
        phi_weights: normalized weights v_k of phi's bound, [B, M, K]; None: those of theta's, ``factors.log_p``.
        pathwise_log_q: the factors of grad log q of the layers whose samples carry a graph, [B, M, K], where other
            layers have the factors ``factors.log_q``; None: all layers have these.
        path: what multiplies the gradient that flows into z_k, [B, M, K]; None: 1.
    """

    factors: Factors
    extra: Tensor | None = None
    extra_share: Callable[[int], Tensor] | None = None
    phi_weights: Tensor | None = None
    pathwise_log_q: Tensor | None = None
    path: Tensor | None = None
