"""The manager's progress: what a display shows, and the pace of the experiment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ovis.experiments.runner.display.text import clock, counts_text, runs_text
from ovis.experiments.runner.experiment_file import ExperimentRun
from ovis.experiments.runner.overview import RunningRun
from ovis.experiments.runs.status import State

__all__ = ["Pace", "ProgressDisplay", "ProgressView", "run_weights"]

#: Progress, in runs, below which it is the rounding of a sum over runs.
ROUNDING = 1e-9


@dataclass(frozen=True)
class ProgressView:
    """The experiment at one moment.

    Attributes:
        counts: runs by state.
        completed: completed runs, a fraction for each running one included.
        running: the runs of this manager.
        carried: the part of ``completed`` that was there before this manager's attempts began.
        pending: how many of the running ones still wait for a node in a cluster's queue.
    """

    counts: Mapping[State, int]
    completed: float
    running: Sequence[RunningRun]
    carried: float = 0.0
    pending: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def summary(self) -> str:
        """``9 queued, 6 running (2 without a node yet)``: states without runs are left out."""
        return counts_text(self.counts) + (f" ({self.pending} without a node yet)" if self.pending else "")


class ProgressDisplay(Protocol):
    """Shows the progress."""

    def show(self, view: ProgressView) -> None:
        """Bring the display up to date; called a few times a second."""

    def print(self, line: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Restore the terminal."""


class Pace:
    """Time spent so far, and time left at the average rate since the start.

    The average over everything, as runs end in groups and a recent rate would mislead. What resumed runs had done
    before does not count as work of this manager.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._first: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def text(self, view: ProgressView) -> str:
        """``70% of 10 runs, about 00:25 left``; without the time where it is not known."""
        if self._first is None:
            self._first = view.completed - view.carried
        gained = view.completed - self._first - view.carried
        more = view.total - view.completed
        left = f", about {clock(more * self.elapsed / gained)} left" if gained > ROUNDING and more > 0 else ""
        return f"{100 * view.completed / max(view.total, 1):.0f}% of {runs_text(view.total)}{left}"


def run_weights(runs: Sequence[ExperimentRun]) -> dict[str, float]:
    """The weight of each run in the progress: proportional to its work where this is known, 1 on average."""
    work = [run.settings.work for run in runs]
    if not all(work):
        return dict.fromkeys((run.key for run in runs), 1.0)
    total = sum(work)
    return {run.key: amount * len(runs) / total for run, amount in zip(runs, work, strict=True)}
