"""Several runs of one configuration, which differ only in the seed, trained at once as one batched model.

Each run is the one it would be alone, to rounding: it has the same initial parameters, batches and random numbers, and
keeps its own files. Rounding differs, as matrices are multiplied in batches; where a sample of a discrete variable is
decided by the last bit of its probability, a run goes on from there as another one of the same distribution.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ovis.estimators.base import GradientEstimator
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.runs.context import current_run
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training import loop
from ovis.experiments.training.build import Run, build_run
from ovis.experiments.training.checkpoint import random_states, set_random_states
from ovis.experiments.training.compiling import finisher
from ovis.experiments.training.ensemble.batches import batches_together
from ovis.experiments.training.ensemble.evaluation import MeasuredTogether
from ovis.experiments.training.ensemble.stacked_state import NotTogetherError, Stack
from ovis.experiments.training.ensemble.vmapped import Together
from ovis.experiments.training.journal import Journal
from ovis.experiments.training.step import LearningRates, estimator_config
from ovis.models.template import ParticleModel

__all__ = ["Member", "loss_of_batch", "train_together"]

log = logging.getLogger(__name__)


class Member:
    """One of the runs.

    Args:
        settings: its options.
        paths: its files; the folder exists, and nobody else writes to it.
        guard: called before anything is published; what it raises ends this run.
        begun: called with the parts of the run, when they are built.
    """

    def __init__(
        self,
        settings: TrainSettings,
        paths: RunPaths,
        guard: Callable[[], None] = lambda: None,
        begun: Callable[[Run], None] = lambda run: None,
    ):
        self.settings, self.paths, self.guard, self.begun = settings, paths, guard, begun
        self.error: Exception | None = None  # what has ended it
        self.run: Run | None = None

    def begin(self, splits: Splits | None, bar: bool) -> None:
        """Build the run and go back to its checkpoint."""
        run = build_run(self.settings, splits)
        self.guard()
        self.begun(run)
        self.journal = Journal(run, self.paths, loop.restore(run, self.paths), self.guard, bar)
        self.states = random_states(run.device)
        self.stream = torch.Generator(run.device)  # where its training draws from
        self.stream.set_state(self.states[run.device.type])
        self.run = run

    @property
    def step(self) -> int:
        return self.journal.position.step

    @property
    def complete(self) -> bool:
        """Whether all its steps are taken, and published."""
        return self.error is None and self.run is not None and self.step >= self.journal.total

    @property
    def is_open(self) -> bool:
        """Whether there is something left to do."""
        return self.error is None and not self.complete

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """For a block: what is logged is this run's, the global random states are its own, its errors end it alone."""
        token = current_run.set(self.paths)
        try:
            if self.run is not None:
                kind = self.run.device.type
                set_random_states({**self.states, kind: self.stream.get_state()}, self.run.device)
            yield
        except Exception as error:  # whatever it is, the other runs go on
            self.error = error
        finally:
            current_run.reset(token)


def train_together(members: Sequence[Member], stop: Callable[[], bool] = lambda: False, bar: bool = False) -> None:
    """Train runs that differ only in the seed to the end, or until asked to stop.

    Runs that stand at different steps, after a kill, are brought to the same one first. Runs that can't be computed at
    once are trained one after the other.

    Args:
        members: the runs; afterwards each says whether it is ``complete``, and which ``error`` has ended it.
        stop: asked between steps; once true, checkpoints are written and the loop left.
        bar: show a progress bar.
    """
    splits = None
    for member in members:
        with member.speaking():
            member.begin(splits, bar)
        splits = member.run.splits if member.run else splits
    while (unfinished := [member for member in members if member.is_open]) and not stop():
        at = min(member.step for member in unfinished)
        group = [member for member in unfinished if member.step == at]
        until = min([m.step for m in unfinished if m.step > at], default=group[0].journal.total)
        try:
            _Group(group, until, stop, bar).go()
        except NotTogetherError as error:
            log.warning("%s; the runs are trained one after the other", error)
            for member in group:
                with member.speaking():
                    assert member.run is not None
                    loop.go_on(member.run, member.journal, stop, bar)
        except Exception as error:
            for member in group:
                member.error = member.error or error


class _Group:
    """Runs at the same step."""

    def __init__(self, members: Sequence[Member], until: int, stop: Callable[[], bool], bar: bool):
        self.members, self.until, self.stop = list(members), until, stop
        runs = [member.run for member in members if member.run is not None]
        journals = [member.journal for member in members]
        self.settings, self.first = runs[0].settings, journals[0]
        self.stack = Stack(runs)
        self.finish = finish = finisher(until - members[0].step, self.settings.compile)
        self.gradients = Together(self.stack, loss_of_batch, gradients=True, finish=finish)
        self.rates = LearningRates(self.settings, self.stack.optimizer, self.first.total)
        self.measure = MeasuredTogether(self.stack, [journal.measure for journal in journals], finish)
        self.generators = [member.stream for member in members]
        self.together = True  # whether they are measured so
        self.pulse = self.saved = time.monotonic()
        initial, total = members[0].step, self.first.total
        self.bar = tqdm(total=total, initial=initial, unit="step", disable=not bar, desc=f"train {len(members)} runs")

    @property
    def open(self) -> list[tuple[int, Member]]:
        """The rows that have not failed."""
        return [(row, member) for row, member in enumerate(self.members) if member.error is None]

    def go(self) -> None:
        start = self.members[0].step
        self.stack.parts.model.train()
        with self.bar:
            for step, x in enumerate(batches_together(self.stack, start, self.until, self.finish), start):
                losses = self._step(x, step)
                self.bar.update()
                stopped, now = self.stop(), time.monotonic()
                if self.first.is_due:
                    self._look(losses, thorough=True)
                    self._evaluate()
                elif stopped or now - self.saved > loop.CHECKPOINT_SECONDS:
                    self._look(losses, thorough=True)
                    self._save()
                elif now - self.pulse > loop.PULSE:
                    self._look(losses)
                if stopped or not self.open:
                    return
        for row, _ in self.open:  # others, that are at this step, may join
            self.stack.give_back(row)

    def _step(self, x: Tensor, step: int) -> Tensor:
        """One step of all runs: their losses [S]."""
        self.rates(step)
        alpha = [torch.tensor(value, dtype=torch.float64) for value in estimator_config(self.settings, step).values()]
        losses: Tensor
        gradients, losses = self.gradients(self.generators, alpha, [x])
        self.stack.move(gradients)
        for member in self.members:
            member.journal.position.step = step + 1
        return losses

    def _look(self, losses: Tensor, thorough: bool = False) -> None:
        """Tell how far the runs are; thorough: bring each to where it stands, and look at its parameters, too."""
        self.pulse, values = time.monotonic(), losses.tolist()
        for row, member in self.open:
            if thorough or not math.isfinite(values[row]):
                self.stack.give_back(row)
            with member.speaking():
                member.journal.look(values[row], thorough)

    def _evaluate(self) -> None:
        """After a thorough look."""
        step = self.first.position.step
        values: dict[int, dict[str, float]] = {}
        if self.together and self.open:
            try:
                values = dict(enumerate(self.measure(step)))
            except NotTogetherError as error:
                log.warning("%s; the runs are evaluated one after the other", error)
                self.together = False
        for row, member in self.open:
            with member.speaking():
                member.journal.record(values[row] if self.together else member.journal.measure(step))
        self.saved = time.monotonic()

    def _save(self) -> None:
        """After a thorough look."""
        for _, member in self.open:
            with member.speaking():
                member.journal.save()
        self.saved = time.monotonic()


def loss_of_batch(model: ParticleModel, estimator: GradientEstimator, *rest: Tensor) -> Any:
    """The mean loss of a batch; ``rest``: alpha, where it changes with the step, and the batch."""
    *alpha, x = rest
    config = {"alpha": alpha[0]} if alpha else {}
    loss: Tensor = estimator(model, x, return_diagnostics=False, **config)[0]
    return loss.mean()
