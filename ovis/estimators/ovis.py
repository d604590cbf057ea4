"""OVIS, optimal variance importance sampling: the control variates of Lievin et al. (2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS, auxiliary_count
from ovis.estimators.types import Estimate
from ovis.functional.control_variates import ovis_asymptotic_signal, ovis_monte_carlo_signal
from ovis.functional.log_weights import normalized_weights
from ovis.functional.surrogates import inclusive_factors, score_factors

__all__ = ["OvisAsymptotic", "OvisAsymptoticSettings", "OvisMonteCarlo", "OvisMonteCarloSettings"]


@dataclass(frozen=True)
class OvisAsymptoticSettings(EstimatorSettings):
    """Settings of :class:`OvisAsymptotic`.

    Attributes:
        gamma: in [0, 1]: 0 for the limit ESS >> 1, 1 for ESS ~ 1.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {self.gamma}")


class OvisAsymptotic(GradientEstimator):
    """OVIS~, the limits of the optimal control variate (Lievin et al. 2020, eq. 17, https://arxiv.org/abs/2008.01998).

    c_k = 1/(1 - alpha) log 1/(K - 1) sum_{l != k} w_l^(1 - alpha) - gamma v_k + (1 - gamma) log(1 - 1/K), without
    auxiliary samples. For any q, discrete too; K >= 2. The signal d_k - c_k is computed by
    :func:`ovis.functional.control_variates.ovis_asymptotic_signal`.

    Unbiased for L_K where gamma = 0, the limit of a large effective sample size. For gamma > 0 biased towards wake-phi:
    at alpha = 0 and gamma = 1 the bias is exactly the wake-phi gradient of Reweighted Wake-Sleep, a good direction if
    the effective sample size is near 1.

    Args:
        settings: see :class:`OvisAsymptoticSettings`.

    See also:
        :class:`OvisMonteCarlo`; :class:`ovis.estimators.wake_sleep.WakeWake`.
    """

    facts: ClassVar = ESTIMATORS["ovis-gamma"]
    Settings: ClassVar = OvisAsymptoticSettings

    @property
    def unbiased_for(self) -> str | None:
        return "L_K" if self.settings.gamma == 0 else None

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        settings = inputs.settings
        signal = ovis_asymptotic_signal(inputs.log_w, settings.gamma, settings.alpha)
        return Estimate(score_factors(inputs.log_w, signal, settings.alpha))


@dataclass(frozen=True)
class OvisMonteCarloSettings(EstimatorSettings):
    """Settings of :class:`OvisMonteCarlo`.

    Attributes:
        auxiliary: S: an int is a count, a float a fraction of iw (rounded down, at least 1).
        exclusive: draw the S samples in addition to the iw particles; otherwise they are the last S of the particles,
            and theta's bound uses iw particles, phi's iw - S.
    """

    auxiliary: int | float = 1
    exclusive: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.auxiliary > 0:
            raise ValueError(f"auxiliary must be above 0, got {self.auxiliary}")
        if not self.exclusive and isinstance(self.auxiliary, float) and self.auxiliary >= 1:
            raise ValueError(f"auxiliary must be a fraction below 1 unless exclusive, got {self.auxiliary}")
        if not self.exclusive and self.count >= self.iw:
            raise ValueError(f"{self.count} of the particles are auxiliary: iw must be above that, got {self.iw}")

    @property
    def count(self) -> int:
        """S."""
        return auxiliary_count(self.auxiliary, self.iw)


class OvisMonteCarlo(GradientEstimator):
    """OVIS_MC, from auxiliary samples (Lievin et al. 2020, eq. 12, https://arxiv.org/abs/2008.01998).

    c_k is the mean of the prefactor with z_k replaced by each of S auxiliary samples of q:

        c_k = 1/S sum_s [1/(1 - alpha) log (T_k + u_s)/K - u_s/(T_k + u_s)],   T_k = sum_{l != k} w_l^(1 - alpha),

    with u_s the tempered weight of the auxiliary sample. The signal d_k - c_k is computed by
    :func:`ovis.functional.control_variates.ovis_monte_carlo_signal`. For any q, discrete too.

    Exclusive: unbiased for L_K. Inclusive: phi's gradient is unbiased for the bound of iw - S particles.

    Args:
        settings: see :class:`OvisMonteCarloSettings`.

    See also:
        :class:`OvisAsymptotic`, without auxiliary samples.
    """

    facts: ClassVar = ESTIMATORS["ovis-S"]
    Settings: ClassVar = OvisMonteCarloSettings

    @property
    def unbiased_for(self) -> str | None:
        return "L_K" if self.settings.exclusive else "L_{K-S}"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        settings = cast(OvisMonteCarloSettings, inputs.settings)
        if not settings.exclusive:
            weights = normalized_weights(inputs.log_w[..., : -settings.count], settings.alpha)
            factors = inclusive_factors(inputs.log_w, settings.count, settings.alpha)
            return Estimate(factors, phi_weights=torch.nn.functional.pad(weights, (0, settings.count)))
        auxiliary: Tensor = inputs.auxiliary_log_w(settings.count)
        signal = ovis_monte_carlo_signal(inputs.log_w, auxiliary, settings.alpha)
        return Estimate(score_factors(inputs.log_w, signal, settings.alpha))
