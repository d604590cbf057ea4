"""``get_config``: from the id of an estimator to its class and settings, which the table in ``ids.py`` holds."""

from __future__ import annotations

import pkgutil
from typing import Any

from ovis.estimators.base import GradientEstimator
from ovis.estimators.ids import EstimatorFacts, parse_estimator

__all__ = ["estimator_class", "get_config"]


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
