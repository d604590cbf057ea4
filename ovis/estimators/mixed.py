"""Models with both kinds of latents: some layers are scored, the others are reparameterized, in one bound."""

from __future__ import annotations

from dataclasses import dataclass

from ovis.estimators.base import GradientEstimator
from ovis.estimators.config import get_config
from ovis.estimators.estimator_settings import EstimatorSettings

__all__ = ["Mixed", "MixedSettings"]


@dataclass(frozen=True)
class MixedSettings(EstimatorSettings):
    """Settings of :class:`Mixed`.

    Attributes:
        scored: id of the score-function estimator.
        pathwise: id of the pathwise estimator: iwae, vae or stl.
    """

    scored: str = "vimco"
    pathwise: str = "iwae"

    @property
    def estimator(self) -> GradientEstimator:
        """The score-function estimator with these settings."""
        Scored, config = get_config(self.scored)
        shared = {name: getattr(self, name) for name in ("mc", "iw", "beta", "freebits", "alpha")}
        lacking = {name: shared.pop(name) for name in Scored.facts.lacks if name in shared}
        defaults = EstimatorSettings()
        for name, value in lacking.items():
            if value != getattr(defaults, name):
                raise ValueError(f"{self.scored}+{self.pathwise} has no {name}: {Scored.facts.lacks[name]}")
        return Scored(**shared, **config)
