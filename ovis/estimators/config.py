"""The table of estimators, and ``get_config``, which reads ids."""

from __future__ import annotations

from typing import Any

from ovis.estimators.base import GradientEstimator
from ovis.estimators.ids import parse_estimator
from ovis.estimators.pathwise import PathwiseDreg, PathwiseIwae, PathwiseStl, PathwiseVae
from ovis.estimators.score_function import (
    OvisAsymptotic,
    OvisMonteCarlo,
    Reinforce,
    ReinforceBaseline,
    VimcoArithmetic,
    VimcoGeometric,
)
from ovis.estimators.tvo import Tvo
from ovis.estimators.wake_sleep import WakeSleep, WakeWake

__all__ = ["ESTIMATORS", "get_config"]

#: Family of ids -> class. ``ovis.estimators.ids`` holds the grammar of the ids.
ESTIMATORS: dict[str, type[GradientEstimator]] = {
    "reinforce": Reinforce,
    "reinforce-baseline": ReinforceBaseline,
    "vimco-arithmetic": VimcoArithmetic,
    "vimco-geometric": VimcoGeometric,
    "wake-wake": WakeWake,
    "wake-sleep": WakeSleep,
    "pathwise-vae": PathwiseVae,
    "pathwise-iwae": PathwiseIwae,
    "stl": PathwiseStl,
    "dreg": PathwiseDreg,
    "ovis-gamma": OvisAsymptotic,
    "ovis-S": OvisMonteCarlo,
    "tvo": Tvo,
}


def get_config(estimator: str) -> tuple[type[GradientEstimator], dict[str, Any]]:
    """The class of an estimator and the settings that its id fixes.

    >>> Estimator, config = get_config("ovis-gamma1")
    >>> estimator = Estimator(mc=1, iw=16, **config)

    Args:
        estimator: id, e.g. ``vimco``, ``ovis-gamma1``, ``ovis-S10-exclusive``, ``tvo-part2-config1``.

    Returns:
        the class, and a new dict of settings, valid at construction and at every call; change them as training goes on.

    Raises:
        ValueError: an unknown id; the message names the nearest valid one.
    """
    spec = parse_estimator(estimator)
    return ESTIMATORS[spec.family], dict(spec.config)
