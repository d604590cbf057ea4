"""Training a run that is built already, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from ovis.experiments.runs.context import RunContext
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.training import trainer
from ovis.experiments.training.build import TrainingRun


def train(run: TrainingRun, paths: RunPaths, stop: Callable[[], bool] = lambda: False, bar: bool = False) -> bool:
    """Train a run, from its last checkpoint: whether it is complete. Raises what ended it."""
    context = RunContext(paths, should_stop=stop, show_progress=bar)
    with mock.patch.object(trainer, "build_run", return_value=run):
        (result,) = trainer.Trainer([run.settings], [context]).run()
    if result.error is not None:
        raise result.error
    return result.complete
