"""What a run leaves on the disk while it trains: its progress, numbers, checkpoints and best parameters."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ovis.runner.failpoints import failpoint
from ovis.runner.paths import RunPaths
from ovis.training.best import best_model, is_best, save_best
from ovis.training.build import Run
from ovis.training.checkpoint import Position, save_checkpoint
from ovis.training.measure import Measurements
from ovis.training.pictures import prior_samples, reconstructions
from ovis.training.sinks import Sinks

__all__ = ["Diverged", "Journal", "check_best", "culprit"]

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """The loss or a parameter is no longer a finite number."""


class Journal:
    """The files of one run in training.

    Args:
        run: the parts of the run.
        paths: its files.
        position: where it stands; the training counts its steps there.
        guard: called before anything is published; what it raises ends the run.
        bar: show the progress of what takes long.
    """

    def __init__(
        self, run: Run, paths: RunPaths, position: Position, guard: Callable[[], None] = lambda: None, bar: bool = False
    ):
        settings = run.settings
        self.run, self.paths, self.position, self.guard = run, paths, position, guard
        self.sinks = Sinks(paths, position.step)
        self.measure = Measurements(run, bar)
        self.per_epoch = run.splits.train.batches_per_epoch(settings.bs)
        self.total = settings.nsteps if settings.epochs < 0 else settings.epochs * self.per_epoch
        self.every = settings.eval_freq * self.per_epoch
        self.started = time.monotonic() - position.seconds

    @property
    def is_due(self) -> bool:
        """Whether an evaluation takes place at this step."""
        return self.position.step % self.every == 0 or self.position.step == self.total

    def look(self, loss: float, thorough: bool = False) -> None:
        """Tell how far the run is.

        Args:
            loss: of the last step.
            thorough: look at the parameters, too. What is saved has to be worth going on from.

        Raises:
            Diverged: something is not finite.
        """
        finite = math.isfinite(loss)
        name = culprit(self.run) if thorough or not finite else ""
        if name or not finite:
            found = f"the loss is {loss}{' and ' * bool(name)}{name}"
            raise Diverged(f"step {self.position.step}: {found}; a smaller --lr may help")
        self.sinks.progress(self.position.step, self.total, loss)

    def record(self, values: dict[str, float]) -> None:
        """Publish an evaluation: the numbers, the checkpoint that knows of them, the best parameters.

        In this order a kill leaves nothing of the future that the next start would not cut off or write again. The last
        evaluation measures the split that was kept for the end, too, before anything is published: its one line has all
        numbers or is not there, and then they are measured again, from the same parameters.

        Args:
            values: what was measured, by name.
        """
        position, last = self.position, self.position.step == self.total
        values["train:schedule/lr"] = float(self.run.optimizer.param_groups[0]["lr"])
        if last:
            check_best(self.paths, position)  # it was written long ago
        score = values[self.measure.selection]
        better = score > position.best
        if last:
            current = better or position.best_step < 0  # the latter: no score was a number
            values.update(self.measure.at_the_end(self.run.model if current else best_model(self.paths, self.run)))
        pictures = self._pictures()
        seconds = time.monotonic() - self.started
        self.guard()
        self.sinks.evaluation(position.step, position.step / self.per_epoch, seconds, values, pictures)
        failpoint("evaluation.recorded")
        if better:
            position.best, position.best_step = score, position.step
        self.save()
        if better:
            self.guard()
            save_best(self.paths, self.run, position.step)
        shown = "  ".join(f"{name} {values[name]:.3f}" for name in values if name.endswith("loss/L_k"))
        log.info("step %d/%d  %s  %.0f s", position.step, self.total, shown, seconds)

    def save(self) -> None:
        """Write a checkpoint."""
        self.guard()
        self.position.seconds = time.monotonic() - self.started
        save_checkpoint(self.paths, self.run, self.position)

    def _pictures(self) -> dict[str, Tensor]:
        """By TensorBoard tag, where the data are pictures."""
        if len(self.run.splits.x_shape) != 3:
            return {}
        seen = self.measure.splits["train"].points
        return {"prior/samples": prior_samples(self.run), "reconstructions/train": reconstructions(self.run, seen)}


def culprit(run: Run) -> str:
    """What is said of the first parameter that is not finite; empty where all are."""
    for name, parameter in run.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"parameter {name} is not finite"
    return ""


def check_best(paths: RunPaths, position: Position) -> None:
    """Forget a best evaluation whose parameters are gone: after a corrupt checkpoint they may be of its future."""
    if position.best_step >= 0 and not is_best(paths, position.best_step):
        log.warning("%s is not whole, or not of step %d: the best is chosen anew", paths.best, position.best_step)
        position.best, position.best_step = float("-inf"), -1
