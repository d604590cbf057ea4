"""What a run leaves on the disk while it trains: its progress, numbers, checkpoints and best parameters."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.training.best import best_model, is_best, save_best
from ovis.experiments.training.build import Run
from ovis.experiments.training.checkpoint import Position, save_checkpoint
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.pictures import prior_samples, reconstructions
from ovis.experiments.training.sinks import Sinks
from ovis.experiments.training.step import estimator_config

__all__ = ["Diverged", "Journal", "check_best", "culprit", "diverged"]

log = logging.getLogger(__name__)


#: A bound of a datum beyond so many nats is no number any more: float32 can't tell one nat there.
BEYOND = 2.0**24


class Diverged(RuntimeError):
    """The loss, the bound, a parameter or the optimizer's memory of it is no longer a number to go on from."""


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
            raise diverged(self.position.step, f"the loss is {loss}{' and ' * bool(name)}{name}")
        self.sinks.progress(self.position.step, self.total, loss)

    def record(self, values: dict[str, float]) -> None:
        """Publish an evaluation: the numbers, the checkpoint that knows of them, the best parameters.

        In this order a kill leaves nothing of the future that the next start would not cut off or write again. The last
        evaluation measures the split that was kept for the end, too, before anything is published: its one line has all
        numbers or is not there, and then they are measured again, from the same parameters.

        Args:
            values: what was measured, by name.

        Raises:
            Diverged: the bound of the training set is no number, or none to speak of; nothing is published.
        """
        position, last = self.position, self.position.step == self.total
        bound = values["train:loss/L_k"]
        if not abs(bound) < BEYOND:  # a NaN, too
            raise diverged(position.step, f"the bound of the training set is {bound:.3g} nats")
        values["train:schedule/lr"] = float(self.run.optimizer.param_groups[0]["lr"])
        if last:
            check_best(self.paths, position)  # it was written long ago
        if self.run.settings.warmup:
            values["train:schedule/alpha"] = float(estimator_config(self.run.settings, position.step)["alpha"])
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


def diverged(step: int, found: str) -> Diverged:
    """The error that ends a run, in one line.

    Args:
        step: optimizer steps taken when it was noticed.
        found: what is wrong; where it names the baseline, that one's learning rate is the one to try.
    """
    option = "--baseline_lr" if "parameter baseline." in found else "--lr"
    return Diverged(f"noticed at step {step}: {found}; a smaller {option} may help")


def culprit(run: Run) -> str:
    """What is said of the first parameter that is not finite, or whose state in the optimizer is not; else empty.

    Those of the estimator come first: a baseline that is lost spoils the model one step later. An optimizer that holds
    an infinity (Adam's second moment after one huge gradient) moves that parameter never again.
    """
    named = [*run.estimator.named_parameters(), *run.model.named_parameters()]
    for name, parameter in named:
        if not bool(torch.isfinite(parameter).all()):
            return f"parameter {name} is not finite"
    for name, parameter in named:
        for key, value in run.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                return f"the optimizer's {key} of parameter {name} is not finite"
    return ""


def check_best(paths: RunPaths, position: Position) -> None:
    """Forget a best evaluation whose parameters are gone: after a corrupt checkpoint they may be of its future."""
    if position.best_step >= 0 and not is_best(paths, position.best_step):
        log.warning("%s is not whole, or not of step %d: the best is chosen anew", paths.best, position.best_step)
        position.best, position.best_step = float("-inf"), -1
