"""The ids that the tests of the estimators loop over."""

from __future__ import annotations

from typing import Any

from ovis.estimators import GradientEstimator, get_config

LEAVE_ONE_OUT = ["vimco-arithmetic", "vimco-geometric", "ovis-gamma0", "ovis-gamma0.3", "ovis-gamma1"]
SCORE = ["reinforce", "reinforce-baseline", *LEAVE_ONE_OUT]
EXCLUSIVE = {"ovis-S1-exclusive": 1, "ovis-S2-exclusive": 2}
INCLUSIVE = {"ovis-S1": 1, "ovis-S2": 2, "ovis-S0.4": 1}  # at iw = 3
WAKE = ["wake-wake", "wake-sleep", "wake-mix0.4"]
TVO = [
    "tvo-part1",
    "tvo-part2-config1",
    "tvo-part2-beta1-right",
    "tvo-part3-beta1-trapz",
    "tvo-part5-beta2",
    "tvo-part5-config2-left",
    "tvo-part1-centred",
    "tvo-part2-config1-centred",
    "tvo-part3-beta1-trapz-centred",
]
PIWAE = ["piwae-vimco", "piwae-ovis-gamma1"]
PATHWISE = ["pathwise-vae", "pathwise-iwae", "ciwae-beta0.3", "stl", "dreg"]
ALL = [*SCORE, *EXCLUSIVE, *INCLUSIVE, *WAKE, *TVO, *PIWAE, *PATHWISE]
#: ids whose settings include alpha
WITH_ALPHA = [name for name in ALL if name not in (*TVO, "pathwise-vae", "ciwae-beta0.3")]


def make(name: str, **settings: Any) -> GradientEstimator:
    """An estimator from its id."""
    Estimator, config = get_config(name)
    return Estimator(**{**config, **settings})
