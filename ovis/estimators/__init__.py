"""Gradient estimators: ``estimator(id, iw=...)`` builds one by its id; the classes can be imported by their names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ovis.estimators.ids import ESTIMATORS

if TYPE_CHECKING:
    from ovis.estimators.base import GradientEstimator as GradientEstimator
    from ovis.estimators.config import estimator as estimator
    from ovis.estimators.config import get_config as get_config
    from ovis.estimators.mixed import Mixed as Mixed
    from ovis.estimators.ovis import OvisAsymptotic as OvisAsymptotic
    from ovis.estimators.ovis import OvisMonteCarlo as OvisMonteCarlo
    from ovis.estimators.pathwise import Ciwae as Ciwae
    from ovis.estimators.pathwise import PathwiseDreg as PathwiseDreg
    from ovis.estimators.pathwise import PathwiseIwae as PathwiseIwae
    from ovis.estimators.pathwise import PathwiseStl as PathwiseStl
    from ovis.estimators.pathwise import PathwiseVae as PathwiseVae
    from ovis.estimators.piwae import Piwae as Piwae
    from ovis.estimators.reinforce import Reinforce as Reinforce
    from ovis.estimators.reinforce import ReinforceBaseline as ReinforceBaseline
    from ovis.estimators.reinforce import Rloo as Rloo
    from ovis.estimators.tvo import Tvo as Tvo
    from ovis.estimators.vimco import VimcoArithmetic as VimcoArithmetic
    from ovis.estimators.vimco import VimcoGeometric as VimcoGeometric
    from ovis.estimators.wake_sleep import WakeMix as WakeMix
    from ovis.estimators.wake_sleep import WakeSleep as WakeSleep
    from ovis.estimators.wake_sleep import WakeWake as WakeWake

#: Public name -> module; imported at first use: ``ovis.estimators.ids`` has to be importable without torch.
_LAZY = {
    "GradientEstimator": "ovis.estimators.base",
    "estimator": "ovis.estimators.config",
    "get_config": "ovis.estimators.config",
    **{name: module for module, _, name in (row.implementation.partition(":") for row in ESTIMATORS.values())},
}

__all__ = ["ESTIMATORS", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
