"""Reweighted Wake-Sleep: theta follows the importance-weighted bound; phi has a separate objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.sampling import score_dreams
from ovis.estimators.types import Estimate
from ovis.functional.log_weights import normalized_weights
from ovis.functional.surrogates import score_factors

__all__ = ["WakeMix", "WakeMixSettings", "WakeSleep", "WakeWake"]


class WakeWake(GradientEstimator):
    """RWS with the wake-phi update (Bornschein & Bengio 2015, https://arxiv.org/abs/1406.2751).

    phi ascends sum_k v_k log q(z_k|x), an estimate of -KL(p(z|x) || q(z|x)). ``alpha`` is the order of theta's Renyi
    bound and tempers the weights of phi.

    The theta-gradient is unbiased for L_K. The phi-gradient is not that of L_K, and for its own objective it has a bias
    of O(1/K) from the self-normalized weights. For any q, discrete too.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`; beta, tau and freebits are missing.

    See also:
        :class:`WakeSleep`; :class:`ovis.estimators.ovis.OvisAsymptotic`, which adds this gradient at gamma = 1.
    """

    facts: ClassVar = ESTIMATORS["wake-wake"]
    unbiased_for = None

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        return Estimate(score_factors(inputs.log_w, normalized_weights(inputs.log_w, alpha), alpha))


class WakeSleep(GradientEstimator):
    """RWS with the sleep-phi update (Hinton et al. 1995, https://doi.org/10.1126/science.7761831).

    phi ascends log q(z|x) on pairs (x, z) drawn from the model, as many as there are particles. The model must be able
    to draw them: see :func:`ovis.estimators.sampling.score_dreams`.

    The theta-gradient is unbiased for L_K; the phi-gradient is unbiased for -E_p(x) KL(p(z|x) || q(z|x)), not for L_K.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`; beta, tau and freebits are missing.

    Raises:
        ValueError: at the call, for a model that can't draw from its prior or score given samples.

    See also:
        :class:`WakeWake`, whose phi is trained on data; :class:`WakeMix`, with both.
    """

    facts: ClassVar = ESTIMATORS["wake-sleep"]
    unbiased_for = None

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        factors = score_factors(inputs.log_w, torch.zeros_like(inputs.log_w), inputs.settings.alpha)
        return Estimate(factors, extra_share=_sleep(inputs, 1.0))


@dataclass(frozen=True)
class WakeMixSettings(EstimatorSettings):
    """Settings of :class:`WakeMix`.

    Attributes:
        wake: i, the weight of the wake-phi update, in [0, 1].
    """

    wake: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.wake <= 1:
            raise ValueError(f"wake must lie in [0, 1], got {self.wake}")


class WakeMix(GradientEstimator):
    """RWS with a mixture of both phi-updates, i wake-phi + (1 - i) sleep-phi.

    Le et al. (2019, https://arxiv.org/abs/1805.10469) compare the two; Pyro calls the weight ``insomnia``. i = 1 is
    :class:`WakeWake`, i = 0 :class:`WakeSleep`. The sleep phase also trains q on x that the data do not contain.

    The theta-gradient is unbiased for L_K; the phi-gradient follows no bound.

    Args:
        settings: see :class:`WakeMixSettings`; beta, tau and freebits are missing.

    Raises:
        ValueError: at the call, as :class:`WakeSleep` where i < 1.
    """

    facts: ClassVar = ESTIMATORS["wake-mix"]
    Settings: ClassVar = WakeMixSettings
    unbiased_for = None

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha, wake = inputs.settings.alpha, inputs.settings.wake
        factors = score_factors(inputs.log_w, wake * normalized_weights(inputs.log_w, alpha), alpha)
        return Estimate(factors, extra_share=None if wake == 1 else _sleep(inputs, 1 - wake))


def _sleep(inputs: EstimatorInput, weight: float) -> Callable[[int], Tensor]:
    """n -> [B], the share of n particles in the loss of the sleep phase, times a weight.

    Raises:
        ValueError: x is a nest, which no model draws.
    """
    if not isinstance(inputs.x, Tensor):
        raise ValueError(
            f"wake-sleep draws x from the model, which draws one tensor, and x is a {type(inputs.x).__name__}; use "
            "rws (wake-wake)"
        )
    model, rows, particles = inputs.model, len(inputs.x), int(inputs.settings.mc * inputs.settings.iw)

    def share(count: int) -> Tensor:
        dreams = score_dreams(model, rows * count).view(rows, count)
        return dreams.sum(1) * (-weight / particles)

    return share
