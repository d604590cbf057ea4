"""Settings of the estimators, which may be given at construction and at every call."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ovis.functional.log_weights import Alpha, check_alpha

__all__ = ["EstimatorSettings"]


@dataclass(frozen=True)
class EstimatorSettings:
    """Settings that estimators share, except those in ``lacks`` of their row in :data:`ovis.estimators.ids.ESTIMATORS`.

    Each may be given at construction and again at any call.

    Attributes:
        mc: M, independent copies of the bound that are averaged.
        iw: K, particles per bound.
        particles_per_pass: how many of the M K particles of each datum are in memory at once; None: all; auto: as many
            as fit into the available memory. The gradient is the same; random numbers are drawn in another order.
        beta: weight of the KL term: log w = log p(x|z) - beta (log q(z|x) - log p(z)).
        tau: temperature of relaxed discrete samples; 0 for exact samples.
        freebits: floor of each layer's log q - log p, per sample, in nats; None: no floor.
        alpha: order of the Renyi bound, below 1; 0 is the importance-weighted bound.

    Raises:
        ValueError: a value out of range.
    """

    mc: int = 1
    iw: int = 1
    particles_per_pass: int | str | None = None
    beta: Alpha = 1.0
    tau: float = 0.0
    freebits: float | None = None
    alpha: Alpha = 0.0

    def __post_init__(self) -> None:
        for name in ("mc", "iw"):
            value = getattr(self, name)
            if not _is_count(value):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        size = self.particles_per_pass
        if size is not None and size != "auto" and not _is_count(size):
            raise ValueError(f"particles_per_pass must be an integer of at least 1, 'auto' or None, got {size!r}")
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, got {self.tau}")
        for name in ("beta", "freebits"):
            value = getattr(self, name)
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{name} must be a number, got {value}")
        check_alpha(self.alpha)

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults. A tensor does."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {
            name: value for name, (value, default) in values.items() if isinstance(value, Tensor) or value != default
        }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
