"""Estimators that differentiate through reparameterized samples: VAE, IWAE, STL and DReG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ovis.estimators.base import Draw, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.settings import BoundSettings, RenyiSettings
from ovis.estimators.types import Estimate
from ovis.functional.surrogates import elbo_factors, pathwise_factors

__all__ = ["PathwiseDreg", "PathwiseIwae", "PathwiseStl", "PathwiseVae"]


class PathwiseVae(GradientEstimator):
    """The ELBO from iw reparameterized samples (Kingma & Welling 2014). Unbiased for the ELBO."""

    facts: ClassVar = ESTIMATORS["pathwise-vae"]
    Settings: ClassVar = BoundSettings
    unbiased_for = "ELBO"

    def estimate(self, sample: Draw) -> Estimate:
        return Estimate(elbo_factors(sample.log_w))


class PathwiseIwae(GradientEstimator):
    """sum_k v_k grad log w_k through reparameterized samples (Burda et al. 2016, eq. 13). Unbiased for L_K."""

    facts: ClassVar = ESTIMATORS["pathwise-iwae"]
    Settings: ClassVar = RenyiSettings
    unbiased_for = "L_K"

    def estimate(self, sample: Draw) -> Estimate:
        return Estimate(pathwise_factors(sample.log_w, sample.settings.alpha))


class PathwiseStl(GradientEstimator):
    """Sticking the landing: the pathwise gradient with phi detached in log q (Roeder et al. 2017).

    Exactly 0 at q(z|x) = p(z|x). Biased for L_K where K > 1. One stochastic layer only: in a hierarchy the parameters
    of an upper q depend on the samples below it, and detaching them would cut that path, too.

    Raises:
        ValueError: at the call, for a model with several stochastic layers.
    """

    facts: ClassVar = ESTIMATORS["stl"]
    Settings: ClassVar = RenyiSettings
    unbiased_for = None
    detached_q: ClassVar = True

    def estimate(self, sample: Draw) -> Estimate:
        return Estimate(pathwise_factors(sample.log_w, sample.settings.alpha))


@dataclass(frozen=True)
class DregSettings(RenyiSettings):
    """No free bits: where log q - log p is clamped, the second reparameterization does not hold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freebits is not None:
            raise ValueError("PathwiseDreg has no freebits: its gradient would be biased; use pathwise-iwae")


class PathwiseDreg(GradientEstimator):
    """Doubly reparameterized gradients: a factor v_k^2 of the gradient through z_k (Tucker et al. 2019).

    Unbiased for L_K. With alpha and beta the factor is v_k (1 - beta (1 - alpha)(1 - v_k)). One stochastic layer only:
    in a hierarchy, a layer's samples also carry the gradient of the layers above, whose factor would count twice.

    Raises:
        ValueError: at the call, for a model with several stochastic layers.
    """

    facts: ClassVar = ESTIMATORS["dreg"]
    Settings: ClassVar = DregSettings
    unbiased_for = "L_K"
    detached_q: ClassVar = True

    def estimate(self, sample: Draw) -> Estimate:
        settings = sample.settings
        factors = pathwise_factors(sample.log_w, settings.alpha)
        return Estimate(factors, path=1 - settings.beta * (1 - settings.alpha) * (1 - factors.log_p))
