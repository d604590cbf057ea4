"""Estimators that differentiate through reparameterized samples: VAE, IWAE, STL and DReG."""

from __future__ import annotations

from typing import ClassVar

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.types import Estimate
from ovis.functional.surrogates import elbo_factors, pathwise_factors

__all__ = ["PathwiseDreg", "PathwiseIwae", "PathwiseStl", "PathwiseVae"]


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
