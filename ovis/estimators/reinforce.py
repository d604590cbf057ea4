"""REINFORCE: the score-function gradient without control variate, or with a neural baseline."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.ids import ESTIMATORS
from ovis.estimators.types import Estimate
from ovis.functional.control_variates import prefactor
from ovis.functional.surrogates import rloo_factors, score_factors
from ovis.models.baseline import Baseline

__all__ = ["Reinforce", "ReinforceBaseline", "Rloo"]


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


class Rloo(GradientEstimator):
    """Leave-one-out REINFORCE of the ELBO (Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE).

    phi follows 1/(K - 1) sum_k (f_k - mean f) grad log q(z_k|x) with f_k = log w_k, and theta 1/K sum_k grad log p.
    Unbiased for the ELBO. It is the gradient of half the sample variance of f with respect to q (Richter et al. 2020,
    https://arxiv.org/abs/2010.10436, the log-variance loss, VarGrad): its variance is 0 where q is the posterior. For
    any q, discrete too; K >= 2. With ``beta`` the KL term of f is weighted.

    Args:
        settings: see :class:`ovis.estimators.estimator_settings.EstimatorSettings`; alpha and freebits are missing.

    See also:
        :class:`ovis.estimators.vimco.VimcoArithmetic`, for the bound L_K; ``tvo-part1``, which has the same mean and
        more variance.
    """

    facts: ClassVar = ESTIMATORS["rloo"]
    unbiased_for = "ELBO"

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        factors = rloo_factors(inputs.log_w)
        # the mean of grad log q is 0, so that beta leaves no term but those of f
        return Estimate(factors, phi_weights=torch.zeros_like(factors.log_q))


class ReinforceBaseline(GradientEstimator):
    """REINFORCE with a neural baseline of the datum (Mnih & Gregor 2014, https://arxiv.org/abs/1402.0030).

    The control variate is c_k = b(x), fitted to d_k by least squares. Unbiased for L_K. The loss also carries the
    gradient of 1/2 sum_k (d_k - b(x))^2 / K to the baseline's parameters: give those to an optimizer
    (``estimator.parameters()``) with a higher learning rate. Otherwise a warning is given once.

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
        self._check = UntrainedCheck()

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        signal = prefactor(inputs.log_w, alpha)
        baseline = self.baseline(inputs.x).view(len(signal), 1, 1)
        self._check(inputs.model, self.baseline)
        fit = (signal - baseline).square().mean((1, 2)) / 2
        return Estimate(score_factors(inputs.log_w, signal - baseline.detach(), alpha), extra=fit)


class UntrainedCheck:
    """A warning, given once, that no optimizer trains the baseline.

    A training step clears the gradients of all parameters of its optimizers. The warning is given if the model's
    gradients were cleared between two calls and the gradient of the baseline was accumulated. So accumulation over
    batches, evaluation and gradient analysis give none. Only identities and versions of tensors are compared, which
    needs no host-device synchronization.
    """

    def __init__(self) -> None:
        self.done = False
        self.version = -1  # of the baseline's first parameter, which most optimizers increment
        self.baseline_gradient: dict[int, int] = {}
        self.model_gradients: dict[int, int] = {}

    def __call__(self, model: nn.Module, baseline: nn.Module) -> None:
        """Compare with the last call.

        Args:
            model: the model.
            baseline: the baseline, after its forward.
        """
        if self.done or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        parameter = next((item for item in baseline.parameters() if item.requires_grad), None)
        if parameter is None or not torch.is_grad_enabled():
            return
        self.done = self.version not in (-1, parameter._version)
        self.version = parameter._version
        before, self.baseline_gradient = self.baseline_gradient, _versions([parameter])
        if self.done or not self.baseline_gradient:
            return
        accumulated = all(before.get(key) == version - 1 for key, version in self.baseline_gradient.items())
        model_before, self.model_gradients = self.model_gradients, _versions(model.parameters())
        kept = any(model_before.get(key, version) < version for key, version in self.model_gradients.items())
        if accumulated and not kept:
            self.done = True
            warnings.warn(
                "reinforce-baseline: the gradient of the baseline was not cleared with that of the model, so its "
                "parameters are in no optimizer; pass estimator.parameters() to one",
                stacklevel=2,
            )


def _versions(parameters: Iterable[nn.Parameter]) -> dict[int, int]:
    """The version of each gradient, by its identity. A gradient that was accumulated in place has a higher version."""
    return {id(item.grad): item.grad._version for item in parameters if item.grad is not None}
