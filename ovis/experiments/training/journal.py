"""The files that a run writes while it trains: progress, metrics, images and checkpoints."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ovis.experiments.runs.atomic import append, write_bytes, write_json, write_text
from ovis.experiments.runs.context import RunContext
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.checkpoint import (
    CheckpointError,
    Position,
    check_best,
    load_best,
    save_best,
    save_checkpoint,
)
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.sample_images import prior_samples, reconstructions
from ovis.experiments.training.schedule import scheduled_config
from ovis.experiments.training.tensorboard_events import EventFile

__all__ = ["PULSE", "Diverged", "Journal", "MetricsWriter", "describe_non_finite", "diverged"]

log = logging.getLogger(__name__)


#: Largest magnitude of a bound, in nats. Beyond it float32 does not resolve single nats: the run has diverged.
MAX_BOUND = 2.0**24

#: Seconds between two renewals of progress.json.
PULSE = 1.0


class Diverged(RuntimeError):
    """The loss, the bound, a parameter or the optimizer's state is not finite: the training can't go on from it."""


class Journal:
    """Writes the evaluations and checkpoints of one run.

    Args:
        run: the parts of the run.
        context: the run's files, and whether this attempt may still write them.
        position: position of the run, whose step the trainer advances.
    """

    def __init__(self, run: TrainingRun, context: RunContext, position: Position):
        self.run, self.context, self.paths, self.position = run, context, context.paths, position
        self.total = run.total_steps
        self.every = run.settings.eval_freq * run.steps_per_epoch
        evaluated = [*range(self.every, position.step + 1, self.every), *[position.step] * self.is_due]
        _check_metrics(context.paths, evaluated if position.step else [])
        self.writer = MetricsWriter(context.paths, position.step)
        self.measure = Measurements(run, context.show_progress, self.pulse)
        self.started = time.monotonic() - position.seconds
        self.loss, self.pulsed = math.nan, time.monotonic()  # the last loss, and when it was written

    @property
    def is_due(self) -> bool:
        """Whether an evaluation takes place at this step."""
        return self.position.step % self.every == 0 or self.position.step == self.total

    def check(self, loss: float, thorough: bool = False) -> None:
        """Check that the run is finite, and write progress.json.

        Args:
            loss: loss of the last step.
            thorough: also check the parameters and the optimizer; required before anything is saved.

        Raises:
            Diverged: something is not finite.
        """
        finite = math.isfinite(loss)
        reason = describe_non_finite(self.run) if thorough or not finite else ""
        if reason or not finite:
            raise diverged(self.position.step, f"the loss is {loss}{' and ' * bool(reason)}{reason}")
        self.loss = loss
        self._write_progress()

    def pulse(self) -> None:
        """Renew progress.json if it is a second old: a long evaluation goes on."""
        if time.monotonic() - self.pulsed > PULSE:
            self._write_progress()

    def _write_progress(self) -> None:
        self.writer.progress(self.position.step, self.total, self.loss)
        self.pulsed = time.monotonic()

    def record(self, values: dict[str, float], random: dict[str, Any]) -> None:
        """Write an evaluation: first the numbers, then a checkpoint that includes them, then the best parameters.

        This order makes a kill at any point safe: the next attempt removes or rewrites whatever is incomplete. The last
        evaluation also measures the split that was held out until then, before anything is written: its single line of
        metrics.jsonl is complete or missing, and if it is missing, all is measured again with the same parameters.

        Args:
            values: the measurements by name.
            random: the random states to resume with.

        Raises:
            Diverged: the bound of the training set is not finite, or too large for float32; nothing is written.
        """
        position, last = self.position, self.position.step == self.total
        bound = values["train:loss/L_k"]
        if not abs(bound) < MAX_BOUND:  # a NaN, too
            raise diverged(position.step, f"the bound of the training set is {bound:.3g} nats")
        values["train:schedule/lr"] = float(self.run.optimizer.param_groups[0]["lr"])
        if last:
            check_best(self.paths, position)  # best.pt may have been damaged since it was written
        if self.run.settings.warmup:
            values["train:schedule/alpha"] = float(scheduled_config(self.run.settings, position.step)["alpha"])
        score = values[self.measure.selection]
        better = score > position.best
        if last:
            current = better or position.best_step < 0  # the latter: every score was NaN
            values.update(self.measure.measure_held_out(self.run.model if current else load_best(self.paths, self.run)))
        images = self._images()
        seconds = time.monotonic() - self.started
        self.context.check_ownership()
        self.writer.evaluation(position.step, position.step / self.run.steps_per_epoch, seconds, values, images)
        failpoint("evaluation.recorded")
        if better:
            position.best, position.best_step = score, position.step
        self.save(random)
        if better:
            self.context.check_ownership()
            save_best(self.paths, self.run, position.step)
        shown = "  ".join(f"{name} {values[name]:.3f}" for name in values if name.endswith("loss/L_k"))
        log.info("step %d/%d  %s  %.0f s", position.step, self.total, shown, seconds)

    def save(self, random: dict[str, Any]) -> None:
        """Write a checkpoint from which the run resumes with these random states."""
        self.context.check_ownership()
        self.position.seconds = time.monotonic() - self.started
        save_checkpoint(self.paths, self.run, self.position, random)

    def _images(self) -> dict[str, Tensor]:
        """Images by TensorBoard tag; empty unless the data are images."""
        if len(self.run.splits.x_shape) != 3:
            return {}
        seen = self.measure.splits["train"].points
        return {"prior/samples": prior_samples(self.run), "reconstructions/train": reconstructions(self.run, seen)}


class MetricsWriter:
    """Writes the numbers of a run to metrics.jsonl, TensorBoard and progress.json, and its images.

    Args:
        paths: the run's files.
        step: steps already taken; what an interrupted attempt wrote about later steps is removed.

    Raises:
        OSError: a file can't be written; its name is the error's ``filename``.
    """

    def __init__(self, paths: RunPaths, step: int = 0):
        self.paths, self.begin = paths, step
        _cut_after(paths.metrics, step)
        self.events = EventFile(paths.folder, step)

    def evaluation(
        self,
        step: int,
        epoch: float,
        seconds: float,
        values: dict[str, float],
        images: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write an evaluation durably.

        Args:
            step: optimizer steps so far.
            epoch: the same in epochs.
            seconds: spent on training so far.
            values: one line of metrics.jsonl and as many scalars in TensorBoard; what is not finite becomes null.
            images: grey levels, uint8 [H, W], by TensorBoard tag: ``prior/samples`` and ``reconstructions/train``,
                which are also written to separate files.

        Raises:
            OSError: the disk is full; metrics.jsonl is unchanged.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "epoch": round(epoch, 4), "time": round(seconds, 3), **finite}
        append(self.paths.metrics, f"{json.dumps(line)}\n".encode())
        files = {"prior/samples": self.paths.samples, "reconstructions/train": self.paths.reconstructions}
        pngs = {tag: _png(grid) for tag, grid in (images or {}).items()}
        for tag, png in pngs.items():
            write_bytes(files[tag], png)
        self.events.add(step, values, pngs)

    def progress(self, step: int, nsteps: int, loss: float) -> None:
        """Write progress.json. An error, e.g. a full disk, is ignored."""
        shown = loss if math.isfinite(loss) else None
        try:
            write_json(
                self.paths.progress,
                {"step": step, "nsteps": nsteps, "loss": shown, "t": time.time(), "begin": self.begin},
                durable=False,
                indent=None,
            )
        except OSError:
            return


def diverged(step: int, reason: str) -> Diverged:
    """The error of a run that diverged, in one line.

    Args:
        step: optimizer steps taken when the divergence was noticed.
        reason: what is not finite; if it names the baseline, a smaller learning rate of the baseline is suggested.
    """
    option = "--baseline_lr" if "parameter baseline." in reason else "--lr"
    return Diverged(f"noticed at step {step}: {reason}; a smaller {option} may help")


def describe_non_finite(run: TrainingRun) -> str:
    """Describe the first parameter that is not finite, or whose optimizer state is not; empty if all are finite.

    The estimator's parameters come first, because a baseline that diverges spoils the model one step later. An infinity
    in the optimizer's state (Adam's second moment after one huge gradient) would freeze its parameter for ever.
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


def _png(grid: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grid.numpy()).save(buffer, format="png")
    return buffer.getvalue()


def _check_metrics(paths: RunPaths, steps: Sequence[int]) -> None:
    """Check that the evaluations before the checkpoint are in metrics.jsonl, which is written first.

    Raises:
        CheckpointError: one is missing, as the file was removed or damaged. The best and the last of those that are
            left would be those of another run.
    """
    there = {step for step, _ in _lines(_text(paths.metrics))}
    missing = next((step for step in steps if step not in there), None)
    if missing is not None:
        raise CheckpointError(
            f"{paths.metrics} has no evaluation at step {missing}, but the checkpoint is of step {steps[-1]} or later: "
            f"put the file back, or start from the first step (dbutils.py --requeue KEY --fresh; by hand, "
            f"remove {paths.checkpoint.name} and {paths.previous_checkpoint.name})"
        )


def _cut_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to this step; incomplete lines are removed, too."""
    text = _text(path)
    kept = "".join(f"{line}\n" for at, line in _lines(text) if at <= step)
    if kept != text:
        write_text(path, kept)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _lines(text: str) -> Iterator[tuple[float, str]]:
    """The complete lines of metrics.jsonl, and their steps."""
    for line in text.splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(step, int | float):
            yield step, line
