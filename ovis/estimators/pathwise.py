"""Estimators that differentiate through reparameterized samples: VAE, IWAE, CIWAE, STL and DReG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.types import Estimate
from ovis.functional.surrogates import ciwae_factors, elbo_factors, pathwise_factors

__all__ = ["Ciwae", "CiwaeSettings", "PathwiseDreg", "PathwiseIwae", "PathwiseStl", "PathwiseVae"]


class PathwiseVae(GradientEstimator):
    """The ELBO from iw reparameterized samples (Kingma & Welling 2014, https://arxiv.org/abs/1312.6114).

    Its gradient is 1/K sum_k grad log w_k. Unbiased for the ELBO, which more particles estimate better and do not
    tighten.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`; alpha is missing.

    See also:
        :class:`PathwiseIwae`, for a tighter bound.
    """

    facts: ClassVar = ESTIMATORS["pathwise-vae"]
    unbiased_for = "ELBO"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        return Estimate(elbo_factors(inputs.log_w))


class PathwiseIwae(GradientEstimator):
    """The importance-weighted bound, reparameterized (Burda et al. 2016, eq. 13, https://arxiv.org/abs/1509.00519).

    Its gradient is sum_k v_k grad log w_k. Unbiased for L_K. The signal-to-noise ratio of the phi-gradient falls as K
    grows.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`.

    See also:
        :class:`PathwiseDreg`, whose signal-to-noise ratio rises with K.
    """

    facts: ClassVar = ESTIMATORS["pathwise-iwae"]
    unbiased_for = "L_K"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        return Estimate(pathwise_factors(inputs.log_w, inputs.settings.alpha))


@dataclass(frozen=True)
class CiwaeSettings(EstimatorSettings):
    """Settings of :class:`Ciwae`.

    Attributes:
        elbo_weight: b, the weight of the ELBO, in [0, 1].
    """

    elbo_weight: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.elbo_weight <= 1:
            raise ValueError(f"elbo_weight must lie in [0, 1], got {self.elbo_weight}")


class Ciwae(GradientEstimator):
    """CIWAE, a mixture of the ELBO and L_K (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537).

    The objective is b ELBO + (1 - b) L_K, and its gradient sum_k (b/K + (1 - b) v_k) grad log w_k, which is unbiased
    for it. The ELBO keeps the signal-to-noise ratio of the phi-gradient from falling as K grows. b = 0 is
    :class:`PathwiseIwae`, b = 1 :class:`PathwiseVae`. ``unbiased_for`` is None between them: it names bounds, and the
    mixture is none of those.

    Args:
        settings: see :class:`CiwaeSettings`; alpha is missing.

    See also:
        :class:`PathwiseDreg`, which needs no mixture.
    """

    facts: ClassVar = ESTIMATORS["ciwae"]
    Settings: ClassVar = CiwaeSettings

    @property
    def unbiased_for(self) -> str | None:
        return {0.0: "L_K", 1.0: "ELBO"}.get(self.settings.elbo_weight)

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        return Estimate(ciwae_factors(inputs.log_w, inputs.settings.elbo_weight))


class PathwiseStl(GradientEstimator):
    """Sticking the landing (Roeder et al. 2017, https://arxiv.org/abs/1703.09194).

    The gradient of :class:`PathwiseIwae` with the parameters of q detached in log q: it is exactly 0 at
    q(z|x) = p(z|x). Biased for L_K where K > 1. One stochastic layer only: in a hierarchy the parameters of an upper q
    depend on the samples below it, and detaching them would cut that path, too.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`.

    Raises:
        ValueError: at the call, for a model with several stochastic layers.
    """

    facts: ClassVar = ESTIMATORS["stl"]
    unbiased_for = None
    detached_q: ClassVar = True

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        return Estimate(pathwise_factors(inputs.log_w, inputs.settings.alpha))


class PathwiseDreg(GradientEstimator):
    """Doubly reparameterized gradients, DReG (Tucker et al. 2019, eq. 8, https://arxiv.org/abs/1810.04152).

    The gradient through z_k has the factor v_k^2 instead of v_k, and log q has no other gradient; with alpha and
    beta the factor is v_k (1 - beta (1 - alpha)(1 - v_k)). Unbiased for L_K. One stochastic layer only: in a hierarchy,
    a layer's samples also carry the gradient of the layers above, whose factor would count twice. No free bits: where
    log q - log p is clamped, the second reparameterization does not hold.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`; freebits is missing.

    Raises:
        ValueError: at the call, for a model with several stochastic layers.
    """

    facts: ClassVar = ESTIMATORS["dreg"]
    unbiased_for = "L_K"
    detached_q: ClassVar = True

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        settings = inputs.settings
        factors = pathwise_factors(inputs.log_w, settings.alpha)
        return Estimate(factors, path=1 - settings.beta * (1 - settings.alpha) * (1 - factors.log_p))
