"""The training loop, for one run or for several runs that differ only in the seed: see :class:`Trainer`."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ovis.experiments.datasets.splits import Splits
from ovis.experiments.runs.context import RunContext, WorkResult, current_run
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import TrainingRun, build_run
from ovis.experiments.training.checkpoint import resume
from ovis.experiments.training.ensemble.stacked_state import EnsembleUnsupported
from ovis.experiments.training.ensemble.vmapped_step import VmappedStep
from ovis.experiments.training.journal import PULSE, Journal, describe_non_finite, diverged
from ovis.experiments.training.random_state import random_states, set_random_states
from ovis.experiments.training.step import TrainingStep

__all__ = ["Stepper", "Trainer"]

log = logging.getLogger(__name__)

#: Largest time between two checkpoints in seconds, which a kill may cost. Evaluations always write one.
CHECKPOINT_SECONDS = 120.0


class Trainer:
    """Trains runs from their last checkpoints, or from the first step, to the end or until asked to stop.

    On the CPU, and with the same number of threads, a single run ends with the same bits however often it was
    interrupted and resumed. The runs of an ensemble are trained at once, as one batched model: each equals the run that
    it would be alone, to rounding, with the same initial parameters, batches and random numbers, and has its own files.
    (Where a discrete sample depends on the last bit of a probability, rounding may change the sample, and the run
    continues with another sample of the same distribution.) Runs at different steps, e.g. after a kill, are brought to
    the same step first. Runs that can't be batched are trained one after the other.

    Args:
        settings: settings of each run; they differ in the seed only.
        contexts: contexts of the runs. ``should_stop`` is called between steps; any of them stops all runs.
        on_built: called with the index and the parts of each run before anything is written.
    """

    def __init__(
        self,
        settings: Sequence[TrainSettings],
        contexts: Sequence[RunContext],
        on_built: Callable[[int, TrainingRun], None] | None = None,
    ):
        self.members = [_TrainedRun(*pair) for pair in zip(settings, contexts, strict=True)]
        self.on_built = on_built
        self.stop_requests = list(dict.fromkeys(context.should_stop for context in contexts))
        self.show_progress = any(context.show_progress for context in contexts)

    def run(self) -> list[WorkResult]:
        """Train, and return the result of each run. An error ends one run, and the others only if it affects them, too.

        The ``error`` of a result is SettingsError (options that exclude each other), Superseded (another attempt has
        taken the run over), CheckpointError (the run can't resume from its checkpoints), Diverged (a number is not
        finite; the last checkpoint is kept) or OSError (e.g. a full disk; its ``filename`` names the file).
        """
        splits: Splits | None = None
        for index, member in enumerate(self.members):
            with member.active():
                splits = self._build(index, splits)
        stopped = False
        while not stopped and (unfinished := [member for member in self.members if member.is_unfinished]):
            start = min(member.step for member in unfinished)
            group = [member for member in unfinished if member.step == start]
            end = min([m.step for m in unfinished if m.step > start], default=group[0].journal.total)
            try:
                stopped = self._train(group, end)
            except Exception as error:
                for member in group:
                    member.error = member.error or error
        return [WorkResult(member.is_complete, member.error) for member in self.members]

    def _build(self, index: int, splits: Splits | None) -> Splits:
        member = self.members[index]
        run = build_run(member.settings, splits)
        member.context.check_ownership()
        if self.on_built is not None:
            self.on_built(index, run)
        member.journal = Journal(run, member.context, resume(member.context.paths, run))
        member.random = random_states(run.device)
        return run.splits

    def _train(self, group: Sequence[_TrainedRun], end: int) -> bool:
        """Train runs from the same step to step ``end``; return whether a stop was requested."""
        if len(group) == 1:
            return self._loop(group, SingleStep(group[0]), end)
        stepper = None
        try:
            runs, measurements = [m.journal.run for m in group], [m.journal.measure for m in group]
            stepper = VmappedStep(runs, measurements, [m.random for m in group], end - group[0].step)
            return self._loop(group, stepper, end)
        except EnsembleUnsupported as error:
            log.warning("%s; the runs are trained one after the other", error)
        for row, member in enumerate(group):
            if stepper is not None:
                member.random = stepper.sync(row)
        stepper = None  # free its copies of the parameters
        for member in group:
            with member.active():
                if self._loop([member], SingleStep(member), member.journal.total):
                    return True
        return False

    def _loop(self, group: Sequence[_TrainedRun], stepper: Stepper, end: int) -> bool:
        """The training loop."""
        first, total = group[0].journal, group[0].journal.total
        pulse = saved = time.monotonic()
        with self._progress_bar(group) as bar:
            for x in stepper.batches(first.position.step, end):
                losses = stepper.step(x, first.position.step)
                for member in group:
                    member.journal.position.step += 1
                bar.update()
                if first.is_due:
                    self._check(group, stepper, losses, bar, thorough=True)
                    self._evaluate(group, stepper)
                    pulse = saved = time.monotonic()
                    stopped = self._should_stop()
                else:
                    stopped, now = self._should_stop(), time.monotonic()
                    if stopped or now - saved > CHECKPOINT_SECONDS:
                        self._check(group, stepper, losses, bar, thorough=True)
                        for _, member in _unfailed(group):
                            with member.active():
                                member.journal.save(member.random)
                        pulse = saved = time.monotonic()
                    elif now - pulse > PULSE:  # reading the loss synchronizes with the device
                        self._check(group, stepper, losses, bar)
                        pulse = now
                if stopped or not _unfailed(group):
                    return stopped
        if end < total:  # other runs are at this step: they may be trained together from here
            for row, member in _unfailed(group):
                member.random = stepper.sync(row)
        return False

    def _should_stop(self) -> bool:
        return any(should_stop() for should_stop in self.stop_requests)

    def _check(
        self, group: Sequence[_TrainedRun], stepper: Stepper, losses: Tensor, bar: tqdm[Any], thorough: bool = False
    ) -> None:
        """Read the losses, which synchronizes with the device; thorough: also sync the runs and check their state."""
        values = torch.atleast_1d(losses).tolist()
        bar.set_postfix(loss=f"{sum(values) / len(values):.3f}", refresh=False)
        for row, member in _unfailed(group):
            if thorough or not math.isfinite(values[row]):
                member.random = stepper.sync(row)
            with member.active():
                member.journal.check(values[row], thorough)

    def _evaluate(self, group: Sequence[_TrainedRun], stepper: Stepper) -> None:
        """Measure and record; the runs are in sync."""
        if not (unfailed := _unfailed(group)):
            return
        values = stepper.measure(group[0].step)
        for row, member in unfailed:
            with member.active():
                journal = member.journal
                measured = journal.measure(member.step) if values is None else values[row]
                journal.record(measured, member.random)

    def _progress_bar(self, group: Sequence[_TrainedRun]) -> tqdm[Any]:
        description = "train" if len(group) == 1 else f"train {len(group)} runs"
        return tqdm(
            total=group[0].journal.total,
            initial=group[0].step,
            unit="step",
            disable=not self.show_progress,
            desc=description,
        )


class Stepper(Protocol):
    """Takes the steps of the loop, for one run or for several at once."""

    def batches(self, start: int, end: int) -> Iterator[Tensor]:
        """The batches for :meth:`step`, for each step from ``start`` up to ``end``."""

    def step(self, x: Tensor, step: int) -> Tensor:
        """Take step number ``step`` without host-device synchronization and return the loss of each run."""

    def sync(self, row: int) -> dict[str, Any]:
        """Bring a run's model, estimator and optimizer up to date and return its random states."""

    def measure(self, step: int) -> Sequence[dict[str, float]] | None:
        """Measure the runs, which are in sync; None: each has to be measured by itself."""


class SingleStep:
    """The stepper of one run, which draws from the global random states."""

    def __init__(self, member: _TrainedRun):
        self.run = member.journal.run
        self.take = TrainingStep(self.run)
        self.batches = self.run.batches
        self.run.model.train()
        set_random_states(member.random, self.run.device)

    def step(self, x: Tensor, step: int) -> Tensor:
        try:
            return self.take(x, step)
        except (RuntimeError, ValueError):
            reason = describe_non_finite(self.run)  # torch's message names neither the step nor the parameter
            if not reason:
                raise
            raise diverged(step, reason) from None

    def sync(self, row: int) -> dict[str, Any]:
        return random_states(self.run.device)

    def measure(self, step: int) -> None:
        return None


class _TrainedRun:
    """One of the runs that are trained."""

    def __init__(self, settings: TrainSettings, context: RunContext):
        self.settings, self.context = settings, context
        self.error: Exception | None = None
        self.journal: Journal  # set when the run is built
        self.random: dict[str, Any]  # all global random states, at the last sync

    @property
    def step(self) -> int:
        return self.journal.position.step

    @property
    def is_complete(self) -> bool:
        return self.error is None and self.step >= self.journal.total

    @property
    def is_unfinished(self) -> bool:
        return self.error is None and self.step < self.journal.total

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Attribute the log messages of a block to this run, and let an error in it end this run alone."""
        token = current_run.set(self.context.paths)
        try:
            yield
        except Exception as error:  # whatever it is, the other runs go on
            self.error = error
        finally:
            current_run.reset(token)


def _unfailed(group: Sequence[_TrainedRun]) -> list[tuple[int, _TrainedRun]]:
    return [(row, member) for row, member in enumerate(group) if member.error is None]
