"""From the id of an estimator, which the table in ``ids.py`` holds, to the module or to its class and settings."""

from __future__ import annotations

import pkgutil
from typing import Any

from ovis.estimators.base import GradientEstimator
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import EstimatorFacts, parse_estimator
from ovis.functional.log_weights import Alpha

__all__ = ["estimator", "estimator_class", "get_config"]


def estimator(
    name: str,
    *,
    iw: int = 1,
    mc: int = 1,
    particles_per_pass: int | str | None = None,
    alpha: Alpha = 0.0,
    beta: Alpha = 1.0,
    tau: float = 0.0,
    freebits: float | None = None,
    **settings: Any,
) -> GradientEstimator:
    """Build an estimator from its id. Then ``loss, diagnostics, output = estimator(model, x)``.

    Every setting can be changed for one call, as in ``estimator(model, x, alpha=0.5)``. The settings that an estimator
    has are also the signature of its class: ``help(ovis.estimators.OvisAsymptotic)``.

    >>> estimator("ovis-gamma1", iw=16)
    OvisAsymptotic(id='ovis-gamma1', iw=16)

    Args:
        name: id, e.g. ``vimco``, ``ovis-gamma1``, ``ovis-S10-exclusive``, ``tvo-part2-config1``; see
            :mod:`ovis.estimators.ids` for all.
        iw: K, particles per bound; at least 2 for VIMCO, OVIS~ and TVO.
        mc: M, independent copies of the bound that are averaged.
        particles_per_pass: how many of the M K particles of each datum are in memory at once; None: all; auto: as many
            as fit into the available memory. The gradient is the same.
        alpha: order of the Renyi bound, below 1; 0 is the importance-weighted bound. Not for TVO and VAE.
        beta: weight of the KL term: log w = log p(x|z) - beta (log q(z|x) - log p(z)). Not for RWS and wake-sleep.
        tau: temperature of relaxed discrete samples; 0 for exact samples. Pathwise estimators only.
        freebits: floor of each layer's log q - log p, per sample, in nats; None: no floor. Not for RWS, wake-sleep and
            DReG.
        settings: what one class alone has: ``baseline`` (a module [B, *event] -> [B]) of reinforce-baseline.

    Returns:
        a module, with parameters of its own in the case of reinforce-baseline only.

    Raises:
        TypeError: a setting that this estimator does not have; the message lists the valid ones.
        ValueError: an unknown id, an invalid value, e.g. too few particles, or another value of a setting that is part
            of the id.

    See also:
        :func:`get_config` for the class and the settings separately.
    """
    spec = parse_estimator(name)
    for key, value in spec.config.items():
        if settings.setdefault(key, value) != value:
            raise ValueError(f"estimator {name!r} has {key}={value!r}, got {key}={settings[key]!r}: change the id")
    shared = EstimatorSettings(mc, iw, particles_per_pass, beta, tau, freebits, alpha)
    return estimator_class(spec.facts)(**shared.changed(), **settings)


def get_config(estimator: str) -> tuple[type[GradientEstimator], dict[str, Any]]:
    """The class of an estimator and the settings that its id fixes.

    >>> Estimator, config = get_config("ovis-gamma1")
    >>> estimator = Estimator(mc=1, iw=16, **config)

    Args:
        estimator: id, e.g. ``vimco``, ``ovis-gamma1``, ``ovis-S10-exclusive``, ``tvo-part2-config1``; see
            :mod:`ovis.estimators.ids` for all.

    Returns:
        the class, and a new dict of settings for the constructor, which may also be given, and changed, at every call.

    Raises:
        ValueError: an unknown id; the message names the nearest valid one.
    """
    spec = parse_estimator(estimator)
    return estimator_class(spec.facts), dict(spec.config)


def estimator_class(facts: EstimatorFacts) -> type[GradientEstimator]:
    """Import the class of a row of :data:`ovis.estimators.ids.ESTIMATORS`.

    Raises:
        TypeError: the class refers to another row, or to none.
    """
    Estimator: type[GradientEstimator] = pkgutil.resolve_name(facts.implementation)
    if getattr(Estimator, "facts", None) is not facts:
        raise TypeError(f"{Estimator.__name__} must say facts = ESTIMATORS[{facts.family!r}], the row that names it")
    return Estimator
