"""What each run of an experiment counts for in its progress."""

from __future__ import annotations

from collections.abc import Sequence

from ovis.experiments.runner.experiment_file import Run
from ovis.experiments.settings import TrainSettings
from ovis.experiments.studies import AsymptoticSettings

__all__ = ["run_weights"]


def run_weights(runs: Sequence[Run]) -> dict[str, float]:
    """What each run counts for in the bar: in proportion to its steps where these are known, one on average."""
    steps = [_steps(run.settings) for run in runs]
    if not all(steps):
        return dict.fromkeys((run.key for run in runs), 1.0)
    total = sum(steps)
    return {run.key: count * len(runs) / total for run, count in zip(runs, steps, strict=True)}


def _steps(settings: TrainSettings | AsymptoticSettings) -> int:
    """The work of a run, 0: not known."""
    if isinstance(settings, AsymptoticSettings):
        return settings.work
    return settings.nsteps if settings.epochs < 0 else 0
