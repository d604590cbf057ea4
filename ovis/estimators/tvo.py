"""The thermodynamic variational objective (TVO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ovis.estimators.base import Draw, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.settings import BoundSettings
from ovis.estimators.types import Estimate
from ovis.functional.partitions import tvo_nodes, tvo_partition
from ovis.functional.surrogates import tvo_factors

__all__ = ["Tvo"]


@dataclass(frozen=True)
class TvoSettings(BoundSettings):
    """
    Attributes:
        partitions: P, the number of terms of the Riemann sum.
        first: the first inner point of the partition, or config1 / config2: by the number of particles.
        integration: left, right or trapz.
    """

    partitions: int = 2
    first: float | str = "config1"
    integration: str = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        tvo_nodes(self.knots, self.integration)  # refuses what can't be

    @property
    def knots(self) -> list[float]:
        """The partition 0 = b_0 < ... < b_P = 1."""
        return tvo_partition(self.partitions, self.first, self.iw)


class Tvo(GradientEstimator):
    """Covariance gradient of the thermodynamic integral of log p(x) (Masrani et al. 2019, eq. 13).

    The loss is minus the Riemann sum. Biased, by the self-normalized expectations, O(1/K); with one partition it is the
    ELBO with a leave-one-out REINFORCE gradient, which is unbiased.
    """

    facts: ClassVar = ESTIMATORS["tvo"]
    Settings: ClassVar = TvoSettings

    @property
    def unbiased_for(self) -> str | None:
        return "ELBO" if self.settings.partitions == 1 and self.settings.integration == "left" else None

    def estimate(self, sample: Draw) -> Estimate:
        settings = sample.settings
        return Estimate(tvo_factors(sample.log_w, settings.knots, settings.integration))
