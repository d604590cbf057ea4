"""The training loop: steps, evaluations, checkpoints, until the end or until asked to stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ovis.runner.paths import RunPaths
from ovis.training.build import Run
from ovis.training.checkpoint import Position, load_checkpoint, save_checkpoint, save_model
from ovis.training.measure import Measurements, own_random_state
from ovis.training.sinks import Sinks
from ovis.training.step import TrainingStep

__all__ = ["Diverged", "train"]

log = logging.getLogger(__name__)

#: Seconds between two looks at the loss: each makes the device wait once.
PULSE = 1.0

#: Samples from the prior that are drawn at an evaluation.
PRIOR_SAMPLES = 64


class Diverged(RuntimeError):
    """The loss or a parameter is no longer a finite number."""


def train(run: Run, paths: RunPaths, stop: Callable[[], bool] = lambda: False, bar: bool = False) -> bool:
    """Train from the last checkpoint, or from the first step, to the end.

    Args:
        run: the parts of the run.
        paths: its files; the folder exists.
        stop: asked between steps; once true, a checkpoint is written and the loop left.
        bar: show a progress bar.

    Returns:
        whether the run is complete.

    Raises:
        Diverged: the loss is not finite; the last checkpoint is kept.
        ValueError: the checkpoint can't be read.
    """
    position = load_checkpoint(paths.checkpoint, run) if paths.checkpoint.exists() else Position()
    sinks = Sinks(paths, position.step)
    try:
        return _Loop(run, paths, sinks, position, stop, bar).go()
    finally:
        sinks.close()


class _Loop:
    def __init__(
        self, run: Run, paths: RunPaths, sinks: Sinks, position: Position, stop: Callable[[], bool], bar: bool
    ):
        settings = run.settings
        self.run, self.paths, self.sinks, self.position, self.stop = run, paths, sinks, position, stop
        self.per_epoch = run.splits.train.batches_per_epoch(settings.bs)
        self.total = settings.nsteps if settings.epochs < 0 else settings.epochs * self.per_epoch
        self.every = settings.eval_freq * self.per_epoch
        self.take = TrainingStep(run, self.total)
        self.measure = Measurements(run)
        self.started = time.monotonic() - position.seconds
        self.pulse = time.monotonic()
        self.bar = tqdm(total=self.total, initial=position.step, unit="step", disable=not bar, desc="train")

    def go(self) -> bool:
        self.run.model.train()
        position, loss = self.position, torch.zeros(())
        with self.bar:
            for x in self._batches(position.step):
                loss = self.take(x, position.step)
                position.step += 1
                self.bar.update()
                if position.step % self.every == 0 or position.step == self.total:
                    self._look(loss)
                    self._evaluate()
                elif time.monotonic() - self.pulse > PULSE:
                    self._look(loss)
                if self.stop():
                    self._save()
                    return position.step >= self.total
        return True

    def _batches(self, step: int) -> Iterator[Tensor]:
        """The batches from this step to the last; the order of an epoch depends on the seed and its number only."""
        settings, train = self.run.settings, self.run.splits.train
        while step < self.total:
            epoch, skip = divmod(step, self.per_epoch)
            generator = torch.Generator(self.run.device).manual_seed(settings.seed * 1_000_003 + epoch)
            for number, x in enumerate(train.batches(settings.bs, generator)):
                if number >= skip and step < self.total:
                    yield x
                    step += 1

    def _look(self, loss: Tensor) -> None:
        """Read the loss, which waits for the device; tell how far we are."""
        self.pulse, value = time.monotonic(), float(loss)
        if not math.isfinite(value):
            raise Diverged(f"step {self.position.step}: the loss is {value}{self._culprit()}; a smaller --lr may help")
        self.bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        self.sinks.progress(self.position.step, self.total, value)

    def _culprit(self) -> str:
        for name, parameter in self.run.model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                return f" and parameter {name} is not finite"
        return ""

    def _evaluate(self) -> None:
        position = self.position
        values = self.measure(position.step)
        seconds = time.monotonic() - self.started
        values["train:schedule/lr"] = float(self.run.optimizer.param_groups[0]["lr"])
        self.sinks.evaluation(position.step, position.step / self.per_epoch, seconds, values)
        self._draw_prior()
        score = values[self.measure.selection]
        if score > position.best:
            position.best, position.best_step = score, position.step
            save_model(self.paths.best, self.run)
        self._save()
        shown = "  ".join(f"{name} {values[name]:.3f}" for name in values if name.endswith("loss/L_k"))
        log.info("step %d/%d  %s  %.0f s", position.step, self.total, shown, seconds)

    @torch.no_grad()
    def _draw_prior(self) -> None:
        """Samples from the prior, where the data are pictures [C, H, W]."""
        if len(self.run.splits.x_shape) == 3:
            model = self.run.model
            training = model.training
            with own_random_state(self.run.settings.seed, self.run.device):
                images = model.eval().sample_from_prior(PRIOR_SAMPLES)["px"].mean
            model.train(training)
            self.sinks.images(images, self.position.step)

    def _save(self) -> None:
        self.position.seconds = time.monotonic() - self.started
        save_checkpoint(self.paths.checkpoint, self.run, self.position)
