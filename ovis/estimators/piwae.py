"""PIWAE: theta follows the bound of all particles, phi the mean of the bounds of fewer particles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from ovis.estimators.base import EstimatorInput
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.mixed import Composed
from ovis.estimators.types import Estimate
from ovis.functional.log_weights import iw_bound, normalized_weights

__all__ = ["Piwae", "PiwaeSettings"]


@dataclass(frozen=True)
class PiwaeSettings(EstimatorSettings):
    """Settings of :class:`Piwae`.

    Attributes:
        scored: id of the estimator of phi, fixed by the id.
    """

    scored: str = "vimco-arithmetic"


class Piwae(Composed):
    """PIWAE: theta from all M K particles, phi from M bounds of K (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537).

    phi has a score-function estimator, e.g. that of VIMCO in ``piwae-vimco``; the paper has the pathwise one.
    theta follows the gradient of L_MK, the tightest bound that the particles give, and the value of the loss is minus
    this bound. phi follows the mean over the M = ``mc`` bounds of K = ``iw`` particles: use it with estimators such as
    VIMCO, whose signal-to-noise ratio falls as K grows. With mc = 1 it is the estimator of phi itself. MIWAE, where
    theta follows the mean as well, is any estimator with mc = M. For any q, discrete too.

    The theta-gradient is unbiased for L_MK; the phi-gradient is unbiased for the bound for which the estimator of phi
    is.

    Args:
        settings: see :class:`PiwaeSettings`; tau must be 0.

    Raises:
        ValueError: an id that is no score-function estimator of L_K, or too few particles for it.
    """

    facts: ClassVar = ESTIMATORS["piwae"]
    Settings: ClassVar = PiwaeSettings

    @property
    def unbiased_for(self) -> str | None:
        return self.scored.unbiased_for

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        estimate, settings = self.scored_estimate(inputs), inputs.settings
        whole, bounds = inputs.log_w.flatten(1), estimate.factors
        factors = bounds._replace(
            value=iw_bound(whole, settings.alpha).unsqueeze(1).expand_as(bounds.value),
            # the mean over the bounds divides by M
            log_p=settings.mc * normalized_weights(whole, settings.alpha).view_as(bounds.log_p),
        )
        return dataclasses.replace(estimate, factors=factors, phi_weights=bounds.log_p)
