"""The thermodynamic variational objective (TVO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.types import Estimate
from ovis.functional.partitions import tvo_nodes, tvo_partition
from ovis.functional.surrogates import tvo_factors

__all__ = ["Tvo", "TvoSettings"]


@dataclass(frozen=True)
class TvoSettings(EstimatorSettings):
    """Settings of :class:`Tvo`.

    Attributes:
        partitions: P, the number of terms of the Riemann sum.
        first: the first inner point of the partition; config1 / config2: chosen by the number of particles.
        integration: left, right or trapz.
        centred: leave out the part of the phi-gradient whose mean is 0.
    """

    partitions: int = 2
    first: float | str = "config1"
    integration: str = "left"
    centred: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        tvo_nodes(self.knots, self.integration)  # raises an error for invalid values
        if self.centred and self.integration == "right":
            raise ValueError("centred leaves out a term of the node 0, which integration='right' does not use")
        if self.centred and self.freebits is not None:
            raise ValueError("centred has no freebits: the term that it leaves out would not have the mean 0")

    @property
    def knots(self) -> list[float]:
        """The partition 0 = b_0 < ... < b_P = 1."""
        return tvo_partition(self.partitions, self.first, self.iw)


class Tvo(GradientEstimator):
    """The covariance gradient of the thermodynamic integral (Masrani et al. 2019, https://arxiv.org/abs/1907.00031).

    log p(x) is the integral over b from 0 to 1 of E_b[log w], the mean log-weight under pi_b ~ p^b q^(1 - b); the loss
    is minus a Riemann sum of it, and its gradient that of eq. 13, see :func:`ovis.functional.surrogates.tvo_factors`.
    For any q, discrete too; K >= 2.

    The self-normalized expectations make it biased, O(1/K). With one partition it is the leave-one-out REINFORCE
    gradient of the ELBO, which is unbiased.

    ``centred`` leaves out -D_0/K sum_k grad log q(z_k|x), with D_0 the width of the node b = 0: the z_k are unweighted
    draws of q, so that its mean is 0. The mean of the gradient is the same, and its variance lower where q is close to
    the posterior. With one partition that is :class:`ovis.estimators.reinforce.Rloo`. The paper has no such variant.

    Args:
        settings: see :class:`TvoSettings`; alpha is missing.

    See also:
        :func:`ovis.functional.partitions.tvo_partition`.
    """

    facts: ClassVar = ESTIMATORS["tvo"]
    Settings: ClassVar = TvoSettings

    @property
    def unbiased_for(self) -> str | None:
        return "ELBO" if self.settings.partitions == 1 and self.settings.integration == "left" else None

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        settings = inputs.settings
        factors = tvo_factors(inputs.log_w, settings.knots, settings.integration, centred=settings.centred)
        if not settings.centred:
            return Estimate(factors)
        # beta weights the term of each node whose factor is the node's share of theta's; that of the node 0 is left out
        first = dict(tvo_nodes(settings.knots, settings.integration))[0]
        return Estimate(factors, phi_weights=factors.log_p - first / settings.iw)
