"""Score-function estimators: REINFORCE, VIMCO and OVIS. They differ only in the control variate c_k.

theta: sum_k v_k grad log p(x, z_k). phi: sum_k (d_k - c_k) grad log q(z_k|x), with d_k = bound - v_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ovis.estimators.base import Draw, GradientEstimator
from ovis.estimators.ids import ESTIMATORS, auxiliary_count
from ovis.estimators.settings import RenyiSettings
from ovis.estimators.types import Estimate
from ovis.functional.control_variates import (
    ovis_asymptotic_signal,
    ovis_monte_carlo_signal,
    prefactor,
    vimco_arithmetic_signal,
    vimco_geometric_signal,
)
from ovis.functional.log_weights import normalized_weights
from ovis.functional.surrogates import inclusive_factors, score_factors
from ovis.models.baseline import Baseline

__all__ = ["OvisAsymptotic", "OvisMonteCarlo", "Reinforce", "ReinforceBaseline", "VimcoArithmetic", "VimcoGeometric"]


class _ScoreFunction(GradientEstimator):
    Settings: ClassVar = RenyiSettings


class Reinforce(_ScoreFunction):
    """No control variate: c_k = 0 (Williams 1992). Unbiased for L_K, of variance that grows with K."""

    facts: ClassVar = ESTIMATORS["reinforce"]
    unbiased_for = "L_K"

    def estimate(self, sample: Draw) -> Estimate:
        alpha = sample.settings.alpha
        return Estimate(score_factors(sample.log_w, prefactor(sample.log_w, alpha), alpha))


class ReinforceBaseline(_ScoreFunction):
    """A neural baseline of the datum: c_k = b(x), fitted to d_k by least squares (Mnih & Gregor 2014).

    Unbiased for L_K.

    The loss carries the gradient of 1/2 sum_k (d_k - b(x))^2 / K to the baseline's parameters: give those to an
    optimizer (``estimator.parameters()``), of a higher learning rate.

    Args:
        baseline: a module [B, *event] -> [B]; None: a :class:`ovis.models.Baseline` that learns the shape of x from the
            first batch.
        settings: see :class:`ovis.estimators.base.RenyiSettings`.
    """

    facts: ClassVar = ESTIMATORS["reinforce-baseline"]
    unbiased_for = "L_K"

    def __init__(self, baseline: torch.nn.Module | None = None, **settings: Any):
        super().__init__(**settings)
        self.baseline = Baseline() if baseline is None else baseline

    def estimate(self, sample: Draw) -> Estimate:
        alpha = sample.settings.alpha
        signal = prefactor(sample.log_w, alpha)
        baseline = self.baseline(sample.x).view(len(sample.x), 1, 1)
        fit = (signal - baseline).square().mean((1, 2)) / 2
        return Estimate(score_factors(sample.log_w, signal - baseline.detach(), alpha), extra=fit)


class VimcoArithmetic(_ScoreFunction):
    """c_k = log-mean of the other weights (Mnih & Rezende 2016). Unbiased for L_K."""

    facts: ClassVar = ESTIMATORS["vimco-arithmetic"]
    unbiased_for = "L_K"

    def estimate(self, sample: Draw) -> Estimate:
        alpha = sample.settings.alpha
        return Estimate(score_factors(sample.log_w, vimco_arithmetic_signal(sample.log_w, alpha), alpha))


class VimcoGeometric(_ScoreFunction):
    """c_k = the bound with z_k's weight replaced by the geometric mean of the others (Mnih & Rezende 2016, eq. 8).

    Unbiased for L_K.
    """

    facts: ClassVar = ESTIMATORS["vimco-geometric"]
    unbiased_for = "L_K"

    def estimate(self, sample: Draw) -> Estimate:
        alpha = sample.settings.alpha
        return Estimate(score_factors(sample.log_w, vimco_geometric_signal(sample.log_w, alpha), alpha))


@dataclass(frozen=True)
class OvisAsymptoticSettings(RenyiSettings):
    """
    Attributes:
        gamma: in [0, 1]: 0 for the limit ESS >> 1, 1 for ESS ~ 1.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {self.gamma}")


class OvisAsymptotic(_ScoreFunction):
    """OVIS~ (Lievin et al. 2020, eq. 17). Unbiased for L_K where gamma = 0; for gamma > 0 biased towards wake-phi.

    At alpha = 0 and gamma = 1 the bias is exactly the wake-phi gradient of Reweighted Wake-Sleep, a good direction
    while ESS is near 1.
    """

    facts: ClassVar = ESTIMATORS["ovis-gamma"]
    Settings: ClassVar = OvisAsymptoticSettings

    @property
    def unbiased_for(self) -> str | None:
        return "L_K" if self.settings.gamma == 0 else None

    def estimate(self, sample: Draw) -> Estimate:
        settings = sample.settings
        signal = ovis_asymptotic_signal(sample.log_w, settings.gamma, settings.alpha)
        return Estimate(score_factors(sample.log_w, signal, settings.alpha))


@dataclass(frozen=True)
class OvisMonteCarloSettings(RenyiSettings):
    """
    Attributes:
        auxiliary: S: an int is a count, a float a fraction of iw (rounded down, at least 1).
        exclusive: draw the S samples on top of the iw particles; otherwise they are the last S of them: then theta's
            bound uses iw particles and phi's iw - S.
    """

    auxiliary: int | float = 1
    exclusive: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.auxiliary > 0:
            raise ValueError(f"auxiliary must be above 0, got {self.auxiliary}")
        if not self.exclusive and self.count >= self.iw:
            raise ValueError(f"{self.count} of the particles are auxiliary: iw must be above that, got {self.iw}")

    @property
    def count(self) -> int:
        """S."""
        return auxiliary_count(self.auxiliary, self.iw)


class OvisMonteCarlo(_ScoreFunction):
    """OVIS_MC: c_k is the mean prefactor over S auxiliary samples in the place of z_k (Lievin et al. 2020, eq. 12).

    Exclusive: unbiased for L_K. Inclusive: phi's gradient is unbiased for the bound of iw - S particles.
    """

    facts: ClassVar = ESTIMATORS["ovis-S"]
    Settings: ClassVar = OvisMonteCarloSettings

    @property
    def unbiased_for(self) -> str | None:
        return "L_K" if self.settings.exclusive else "L_{K-S}"

    def estimate(self, sample: Draw) -> Estimate:
        settings = cast(OvisMonteCarloSettings, sample.settings)
        if not settings.exclusive:
            weights = normalized_weights(sample.log_w[..., : -settings.count], settings.alpha)
            factors = inclusive_factors(sample.log_w, settings.count, settings.alpha)
            return Estimate(factors, phi_weights=torch.nn.functional.pad(weights, (0, settings.count)))
        auxiliary: Tensor = sample.auxiliary_log_w(settings.count)
        signal = ovis_monte_carlo_signal(sample.log_w, auxiliary, settings.alpha)
        return Estimate(score_factors(sample.log_w, signal, settings.alpha))
