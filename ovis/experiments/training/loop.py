"""The training loop: steps, evaluations, checkpoints, until the end or until asked to stop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ovis.experiments.runs.atomic import sweep
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.training.best import remove_best, save_best
from ovis.experiments.training.build import Run
from ovis.experiments.training.checkpoint import Position, load_checkpoint
from ovis.experiments.training.journal import Diverged, Journal, check_best, culprit, diverged
from ovis.experiments.training.step import TrainingStep

__all__ = ["Diverged", "batches", "epoch_generator", "go_on", "restore", "train"]

#: Seconds between two looks at the loss: each makes the device wait once.
PULSE = 1.0

#: Seconds between two checkpoints, at most: so much work a kill may cost. Evaluations write one anyway.
CHECKPOINT_SECONDS = 120.0


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
        Diverged: the loss, the bound or a parameter is not finite; the last checkpoint is kept.
        OSError: no room on the disk; the last checkpoint is kept, and ``filename`` says what could not be written.
    """
    guard()
    journal = Journal(run, paths, restore(run, paths), guard, bar)
    return go_on(run, journal, stop, bar)


def go_on(run: Run, journal: Journal, stop: Callable[[], bool], bar: bool = False) -> bool:
    """:func:`train` from where the run stands."""
    return _Loop(run, journal, stop, bar).go()


def restore(run: Run, paths: RunPaths) -> Position:
    """Go back to the run's last checkpoint, or to its first step, and clear away what was left behind.

    Raises:
        CheckpointError: the run can't go on from its checkpoints.
        OSError: a file can't be read or written.
    """
    sweep(paths.folder)
    position = load_checkpoint(paths, run)
    if position is None:
        remove_best(paths)
        return Position()
    if position.step == position.best_step:
        save_best(paths, run, position.step)  # perhaps the run was killed between the checkpoint and this
    else:
        check_best(paths, position)
    return position


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
        for x in itertools.islice(train.batches(settings.bs, epoch_generator(run, epoch)), skip, skip + end - step):
            yield x
            step += 1


def epoch_generator(run: Run, epoch: int) -> torch.Generator:
    """What the batches of an epoch are drawn from."""
    return torch.Generator(run.device).manual_seed(run.settings.seed * 1_000_003 + epoch)


class _Loop:
    def __init__(self, run: Run, journal: Journal, stop: Callable[[], bool], bar: bool):
        self.run, self.journal, self.position, self.stop = run, journal, journal.position, stop
        self.take = TrainingStep(run, journal.total)
        self.pulse = self.saved = time.monotonic()
        initial = self.position.step
        self.bar = tqdm(total=journal.total, initial=initial, unit="step", disable=not bar, desc="train")

    def go(self) -> bool:
        self.run.model.train()
        position, journal = self.position, self.journal
        with self.bar:
            for x in batches(self.run, position.step, journal.total):
                loss = self._step(x)
                self.bar.update()
                if journal.is_due:
                    self._look(loss, thorough=True)
                    journal.record(journal.measure(position.step))
                    self.saved = time.monotonic()
                    stopped = self.stop()
                else:
                    stopped, now = self.stop(), time.monotonic()
                    if stopped or now - self.saved > CHECKPOINT_SECONDS:
                        self._look(loss, thorough=True)
                        journal.save()
                        self.saved = time.monotonic()
                    elif now - self.pulse > PULSE:
                        self._look(loss)
                if stopped:
                    return position.step >= journal.total
        return True

    def _step(self, x: Tensor) -> Tensor:
        try:
            loss = self.take(x, self.position.step)
        except (RuntimeError, ValueError):
            name = culprit(self.run)  # torch's own words name neither the step nor the parameter
            if not name:
                raise
            raise diverged(self.position.step, name) from None
        self.position.step += 1
        return loss

    def _look(self, loss: Tensor, thorough: bool = False) -> None:
        """Read the loss, which waits for the device, and tell how far we are."""
        self.pulse, value = time.monotonic(), float(loss)
        self.bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        self.journal.look(value, thorough)
