"""Models with both kinds of latents: some layers are scored, the others are reparameterized, in one bound."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.config import estimator_class
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS, parse_estimator
from ovis.estimators.types import Estimate

__all__ = ["Composed", "Mixed", "MixedSettings"]


#: Settings of the bound, which an estimator and the one that it contains have.
SHARED = ("iw", "alpha", "beta", "freebits")


class Composed(GradientEstimator):
    """An estimator that contains the score-function estimator ``settings.scored``, with its own other settings.

    Raises:
        ValueError: too few particles for the score-function estimator.
        TypeError: a setting that this does not have.
    """

    scored: GradientEstimator

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        # no submodule: it has no parameters, and no settings but these
        object.__setattr__(self, "scored", self._scored(self.settings))

    def scored_estimate(self, inputs: EstimatorInput) -> Estimate:
        """The estimate of the score-function estimator, with the settings of this call."""
        settings = inputs.settings
        scored = self.scored if settings is self.settings else self._scored(settings)
        return scored.estimate(dataclasses.replace(inputs, settings=scored.settings))

    @staticmethod
    def _scored(settings: Any) -> GradientEstimator:
        spec = parse_estimator(settings.scored)
        shared = {"mc": settings.mc, **{k: v for k, v in settings.changed().items() if k in SHARED}}
        return estimator_class(spec.facts)(**shared, **spec.config)


@dataclass(frozen=True)
class MixedSettings(EstimatorSettings):
    """Settings of :class:`Mixed`, both fixed by its id.

    Attributes:
        scored: id of the estimator of the layers that are not reparameterized.
        pathwise: id of the estimator of the others.
    """

    scored: str = "vimco-arithmetic"
    pathwise: str = "pathwise-iwae"


class Mixed(Composed):
    """A score-function estimator for some layers and a pathwise one for the others, e.g. ``vimco+iwae``.

    Use it for models with discrete and continuous latents, such as a mixture of VAEs. A layer is pathwise where its
    sample carries a graph, otherwise it is scored; the layers may depend on each other in any order. With the factors
    a_k of theta and b_k of phi of the score-function estimator, the gradient is

        sum_k a_k grad log p(x, z_k) + sum_k b_k grad log q(z_k) of scored layers - sum_k a_k grad log q(z_k) of
        pathwise layers,

    where each grad is total: it also flows through the pathwise samples. For any function f of both kinds of latents
    it is the gradient of E[f] by the score-function identity for the scored layers and the reparameterization of the
    others (Schulman et al. 2015, https://arxiv.org/abs/1506.05254). Unbiased for the bound for which the score-function
    estimator is. ``+stl`` detaches the parameters of the pathwise q, and is biased where K > 1. A model without
    pathwise layers gets the gradient of the score-function estimator, one without scored layers that of the pathwise
    one.

    Args:
        settings: see :class:`MixedSettings`; tau is missing.

    Raises:
        ValueError: ids that can't be combined; at the call, ``+stl`` for a model with several pathwise layers.

    See also:
        :func:`ovis.functional.multisample_loss`, where ``multisample_loss(log_p - log_q_pathwise, log_q_scored,
        method)`` is the same for log-densities.
    """

    facts: ClassVar = ESTIMATORS["mixed"]
    Settings: ClassVar = MixedSettings
    mixed: ClassVar = True

    @property
    def detached_q(self) -> bool:  # type: ignore[override]
        return bool(self.settings.pathwise == "stl")

    @property
    def unbiased_for(self) -> str | None:
        return None if self.detached_q else self.scored.unbiased_for

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        estimate = self.scored_estimate(inputs)
        return dataclasses.replace(estimate, pathwise_log_q=-estimate.factors.log_p)
