"""REINFORCE: the score-function gradient without control variate, or with a neural baseline."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.types import Estimate
from ovis.functional.control_variates import prefactor
from ovis.functional.surrogates import score_factors
from ovis.models.baseline import Baseline

__all__ = ["Reinforce", "ReinforceBaseline"]


class Reinforce(GradientEstimator):
    """REINFORCE, the score-function gradient without control variate (Williams 1992, https://doi.org/10.1007/BF00992696).

    phi follows sum_k d_k grad log q(z_k|x) with d_k = L - v_k: c_k = 0. Unbiased for L_K. For any q, discrete too. Its
    variance grows with K, so it serves as a reference.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`.

    See also:
        :class:`ovis.estimators.vimco.VimcoArithmetic`, with a control variate at no cost.
    """

    facts: ClassVar = ESTIMATORS["reinforce"]
    unbiased_for = "L_K"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        return Estimate(score_factors(inputs.log_w, prefactor(inputs.log_w, alpha), alpha))


class ReinforceBaseline(GradientEstimator):
    """REINFORCE with a neural baseline of the datum (Mnih & Gregor 2014, https://arxiv.org/abs/1402.0030).

    The control variate is c_k = b(x), fitted to d_k by least squares. Unbiased for L_K. The loss also carries the
    gradient of 1/2 sum_k (d_k - b(x))^2 / K to the baseline's parameters: give those to an optimizer
    (``estimator.parameters()``) with a higher learning rate.

    Args:
        baseline: a module [B, *event] -> [B]; None: a :class:`ovis.models.baseline.Baseline` that learns the shape of x
            from the first batch.
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`.
    """

    facts: ClassVar = ESTIMATORS["reinforce-baseline"]
    unbiased_for = "L_K"

    def __init__(self, baseline: nn.Module | None = None, **settings: Any):
        super().__init__(**settings)
        self.baseline = Baseline() if baseline is None else baseline

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        signal = prefactor(inputs.log_w, alpha)
        baseline = self.baseline(inputs.x).view(len(inputs.x), 1, 1)
        fit = (signal - baseline).square().mean((1, 2)) / 2
        return Estimate(score_factors(inputs.log_w, signal - baseline.detach(), alpha), extra=fit)
