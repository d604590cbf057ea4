"""The training loop: steps, evaluations, checkpoints, until the end or until asked to stop."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ovis.runner.atomic import sweep
from ovis.runner.failpoints import failpoint
from ovis.runner.paths import RunPaths
from ovis.training.best import best_model, is_best, remove_best, save_best
from ovis.training.build import Run
from ovis.training.checkpoint import Position, load_checkpoint, save_checkpoint
from ovis.training.measure import Measurements
from ovis.training.pictures import prior_samples, reconstructions
from ovis.training.sinks import Sinks
from ovis.training.step import TrainingStep

__all__ = ["Diverged", "batches", "train"]

log = logging.getLogger(__name__)

#: Seconds between two looks at the loss: each makes the device wait once.
PULSE = 1.0

#: Seconds between two checkpoints, at most: so much work a kill may cost. Evaluations write one anyway.
CHECKPOINT_SECONDS = 120.0


class Diverged(RuntimeError):
    """The loss or a parameter is no longer a finite number."""


def train(
    run: Run,
    paths: RunPaths,
    stop: Callable[[], bool] = lambda: False,
    guard: Callable[[], None] = lambda: None,
    bar: bool = False,
) -> bool:
    """Train from the last checkpoint, or from the first step, to the end; then measure the held-out split left for it.

    On the CPU, with as many threads, the result is the same to the bit wherever, and however often, the run was cut off
    and started again.

    Args:
        run: the parts of the run.
        paths: its files; the folder exists, and nobody else writes to it.
        stop: asked between steps; once true, a checkpoint is written and the loop left.
        guard: called before anything is published; what it raises ends the run (another attempt has taken over).
        bar: show a progress bar, and below it one of the gradient analysis while that takes place.

    Returns:
        whether the run is complete.

    Raises:
        CheckpointError: the run can't go on from its checkpoints.
        Diverged: the loss or a parameter is not finite; the last checkpoint is kept.
        OSError: no room on the disk; the last checkpoint is kept, and ``filename`` says what could not be written.
    """
    guard()
    sweep(paths.folder)
    position = load_checkpoint(paths, run)
    if position is None:
        position = Position()
        remove_best(paths)
    elif position.step == position.best_step:
        save_best(paths, run, position.step)  # perhaps the run was killed between the checkpoint and this
    else:
        _check_best(paths, position)
    return _Loop(run, paths, Sinks(paths, position.step), position, stop, guard, bar).go()


def batches(run: Run, start: int, end: int) -> Iterator[Tensor]:
    """The batches of the steps from ``start`` (counted from 0) up to ``end``, float, shape [B, *event].

    All randomness of an epoch is of a generator of its own, which depends on the seed and the epoch's number: a batch
    is the same wherever one begins.
    """
    settings, train = run.settings, run.splits.train
    per_epoch = train.batches_per_epoch(settings.bs)
    step = start
    while step < end:
        epoch, skip = divmod(step, per_epoch)
        generator = torch.Generator(run.device).manual_seed(settings.seed * 1_000_003 + epoch)
        for x in itertools.islice(train.batches(settings.bs, generator), skip, skip + end - step):
            yield x
            step += 1


def _check_best(paths: RunPaths, position: Position) -> None:
    """Forget a best evaluation whose parameters are gone: after a corrupt checkpoint they may be of its future."""
    if position.best_step >= 0 and not is_best(paths, position.best_step):
        log.warning("%s is not whole, or not of step %d: the best is chosen anew", paths.best, position.best_step)
        position.best, position.best_step = float("-inf"), -1


class _Loop:
    def __init__(
        self,
        run: Run,
        paths: RunPaths,
        sinks: Sinks,
        position: Position,
        stop: Callable[[], bool],
        guard: Callable[[], None],
        bar: bool,
    ):
        settings = run.settings
        self.run, self.paths, self.sinks, self.position = run, paths, sinks, position
        self.stop, self.guard = stop, guard
        self.per_epoch = run.splits.train.batches_per_epoch(settings.bs)
        self.total = settings.nsteps if settings.epochs < 0 else settings.epochs * self.per_epoch
        self.every = settings.eval_freq * self.per_epoch
        self.take = TrainingStep(run, self.total)
        self.measure = Measurements(run, bar)
        self.started = time.monotonic() - position.seconds
        self.pulse = self.saved = time.monotonic()
        self.bar = tqdm(total=self.total, initial=position.step, unit="step", disable=not bar, desc="train")

    def go(self) -> bool:
        self.run.model.train()
        position = self.position
        with self.bar:
            for x in batches(self.run, position.step, self.total):
                loss = self._step(x)
                self.bar.update()
                if position.step % self.every == 0 or position.step == self.total:
                    self._look(loss, thorough=True)
                    self._evaluate()
                    stopped = self.stop()
                else:
                    stopped, now = self.stop(), time.monotonic()
                    if stopped or now - self.saved > CHECKPOINT_SECONDS:
                        self._look(loss, thorough=True)
                        self._save()
                    elif now - self.pulse > PULSE:
                        self._look(loss)
                if stopped:
                    return position.step >= self.total
        return True

    def _step(self, x: Tensor) -> Tensor:
        try:
            loss = self.take(x, self.position.step)
        except (RuntimeError, ValueError):
            culprit = self._culprit()  # torch's own words name neither the step nor the parameter
            if not culprit:
                raise
            raise Diverged(f"step {self.position.step}: {culprit}; a smaller --lr may help") from None
        self.position.step += 1
        return loss

    def _look(self, loss: Tensor, thorough: bool = False) -> None:
        """Read the loss, which waits for the device; tell how far we are.

        Args:
            loss: of the last step.
            thorough: look at the parameters, too. What is saved has to be worth going on from.

        Raises:
            Diverged: something is not finite.
        """
        self.pulse, value = time.monotonic(), float(loss)
        finite = math.isfinite(value)
        culprit = self._culprit() if thorough or not finite else ""
        if culprit or not finite:
            found = f"the loss is {value}{' and ' * bool(culprit)}{culprit}"
            raise Diverged(f"step {self.position.step}: {found}; a smaller --lr may help")
        self.bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        self.sinks.progress(self.position.step, self.total, value)

    def _culprit(self) -> str:
        for name, parameter in self.run.model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                return f"parameter {name} is not finite"
        return ""

    def _evaluate(self) -> None:
        """Measure, then publish: the numbers, the checkpoint that knows of them, the best parameters.

        In this order a kill leaves nothing of the future that the next start would not cut off or write again. The last
        evaluation measures the split that was kept for the end, too, before anything is published: its one line has all
        numbers or is not there, and then they are measured again, from the same parameters.
        """
        position, last = self.position, self.position.step == self.total
        values = self.measure(position.step)
        values["train:schedule/lr"] = float(self.run.optimizer.param_groups[0]["lr"])
        if last:
            _check_best(self.paths, position)  # it was written long ago
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
        self._save()
        if better:
            self.guard()
            save_best(self.paths, self.run, position.step)
        shown = "  ".join(f"{name} {values[name]:.3f}" for name in values if name.endswith("loss/L_k"))
        log.info("step %d/%d  %s  %.0f s", position.step, self.total, shown, seconds)

    def _pictures(self) -> dict[str, Tensor]:
        """By TensorBoard tag, where the data are pictures."""
        if len(self.run.splits.x_shape) != 3:
            return {}
        seen = self.measure.splits["train"].points
        return {"prior/samples": prior_samples(self.run), "reconstructions/train": reconstructions(self.run, seen)}

    def _save(self) -> None:
        self.guard()
        self.position.seconds = time.monotonic() - self.started
        save_checkpoint(self.paths, self.run, self.position)
        self.saved = time.monotonic()
