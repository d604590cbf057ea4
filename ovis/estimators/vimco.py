"""VIMCO: a control variate from the other particles. See :mod:`ovis.functional.control_variates` for the arithmetic."""

from __future__ import annotations

from typing import ClassVar

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.types import Estimate
from ovis.functional.control_variates import vimco_arithmetic_signal, vimco_geometric_signal
from ovis.functional.surrogates import score_factors

__all__ = ["VimcoArithmetic", "VimcoGeometric"]


class VimcoArithmetic(GradientEstimator):
    """VIMCO with the arithmetic mean of the other weights (Mnih & Rezende 2016, https://arxiv.org/abs/1602.06725).

    The control variate is the bound of the other particles,

        c_k = 1/(1 - alpha) log 1/(K - 1) sum_{l != k} w_l^(1 - alpha),

    which does not depend on z_k: unbiased for L_K. For any q, discrete too; K >= 2. The signal d_k - c_k is computed by
    :func:`ovis.functional.control_variates.vimco_arithmetic_signal`.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`.

    Raises:
        TypeError, ValueError: as :class:`ovis.estimators.GradientEstimator`, e.g. iw = 1.

    See also:
        :class:`VimcoGeometric`; :class:`ovis.estimators.ovis.OvisAsymptotic`, with less variance at large K.
    """

    facts: ClassVar = ESTIMATORS["vimco-arithmetic"]
    unbiased_for = "L_K"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        return Estimate(score_factors(inputs.log_w, vimco_arithmetic_signal(inputs.log_w, alpha), alpha))


class VimcoGeometric(GradientEstimator):
    """VIMCO with the geometric mean of the other weights (Mnih & Rezende 2016, eq. 8, https://arxiv.org/abs/1602.06725).

    The control variate is the bound with the geometric mean of the other weights in place of w_k,

        c_k = 1/(1 - alpha) log 1/K (sum_{l != k} w_l^(1 - alpha) + exp((1 - alpha)/(K - 1) sum_{l != k} log w_l)),

    which does not depend on z_k: unbiased for L_K. For any q, discrete too; K >= 2. The signal d_k - c_k is computed by
    :func:`ovis.functional.control_variates.vimco_geometric_signal`.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`.

    Raises:
        TypeError, ValueError: as :class:`ovis.estimators.GradientEstimator`, e.g. iw = 1.

    See also:
        :class:`VimcoArithmetic`, whose control variate uses the arithmetic mean of the weights.
    """

    facts: ClassVar = ESTIMATORS["vimco-geometric"]
    unbiased_for = "L_K"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        return Estimate(score_factors(inputs.log_w, vimco_geometric_signal(inputs.log_w, alpha), alpha))
