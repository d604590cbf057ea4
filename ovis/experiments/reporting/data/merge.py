"""Settings that make several series of one estimator: what must be told apart so that a mean is over seeds alone."""

from __future__ import annotations

from collections.abc import Sequence

from ovis.experiments.reporting.data.read import Experiment
from ovis.experiments.reporting.data.select import mixed_settings

__all__ = ["differing_settings"]

#: Settings that say more than the others about what differs, the most first.
TELLING = ("alpha", "warmup", "tau", "beta", "mc", "lr", "bs", "optimizer", "gamma", "S", "P")

#: Settings that say what others say better.
VAGUE = ("estimator", "id")


def differing_settings(experiment: Experiment, keys: Sequence[str]) -> list[str]:
    """The fewest settings that tell apart all runs which ``keys`` put together and which differ in more than the seed.

    Settings that always change together (a warm-up and the alpha it starts from) are one difference: the most telling
    one stands for all.
    """
    mixed = mixed_settings(experiment, keys)
    order = [*(name for name in TELLING if name in mixed), *(name for name in mixed if name not in (*TELLING, *VAGUE))]
    found: list[str] = []
    for name in [*order, *(name for name in VAGUE if name in mixed)]:
        if _groups(experiment, [*keys, *found, name]) > _groups(experiment, [*keys, *found]):
            found.append(name)
    return found


def _groups(experiment: Experiment, keys: Sequence[str]) -> int:
    return len(experiment.runs[list(keys)].drop_duplicates()) if keys else 1
