"""Reweighted Wake-Sleep: theta follows the importance-weighted bound; phi has an objective of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovis.estimators.base import Draw, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.sampling import score_dreams
from ovis.estimators.settings import ParticleSettings
from ovis.estimators.types import Estimate
from ovis.functional.log_weights import Alpha, check_alpha, normalized_weights
from ovis.functional.surrogates import score_factors

__all__ = ["WakeSleep", "WakeWake"]


@dataclass(frozen=True)
class WakeSettings(ParticleSettings):
    """
    Attributes:
        alpha: order of theta's Renyi bound, and tempering of the wake-phi weights.
    """

    alpha: Alpha = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha)


class WakeWake(GradientEstimator):
    """Wake-phi: ascend sum_k v_k log q(z_k|x), an estimate of -KL(p(z|x) || q(z|x)) (Bornschein & Bengio 2015).

    The theta-gradient is unbiased for L_K. The phi-gradient is not one of L_K, and biased for its own objective by the
    self-normalized weights, O(1/K).
    """

    facts: ClassVar = ESTIMATORS["wake-wake"]
    Settings: ClassVar = WakeSettings
    unbiased_for = None

    def estimate(self, sample: Draw) -> Estimate:
        alpha = sample.settings.alpha
        return Estimate(score_factors(sample.log_w, normalized_weights(sample.log_w, alpha), alpha))


class WakeSleep(GradientEstimator):
    """Sleep-phi: ascend log q(z|x) on pairs (x, z) drawn from the model (Hinton et al. 1995).

    As many pairs as there are particles. The theta-gradient is unbiased for L_K; the phi-gradient is unbiased for
    -E_p(x) KL(p(z|x) || q(z|x)), not for L_K.
    """

    facts: ClassVar = ESTIMATORS["wake-sleep"]
    Settings: ClassVar = WakeSettings
    unbiased_for = None

    def estimate(self, sample: Draw) -> Estimate:
        alpha = sample.settings.alpha
        rows, particles = len(sample.x), int(sample.settings.mc * sample.settings.iw)

        def sleep(count: int) -> Tensor:
            dreams = score_dreams(sample.model, rows * count).view(rows, count)
            return dreams.sum(1) / -particles

        factors = score_factors(sample.log_w, torch.zeros_like(sample.log_w), alpha)
        return Estimate(factors, extra_share=sleep)
