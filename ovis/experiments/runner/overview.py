"""The status of an experiment as data, read without a lock; nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ovis.experiments.runner.display.text import clock, counts_text, runs_text
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.process import owner_is_dead
from ovis.experiments.runs.status import Progress, Record, State, count_states, read_progress

__all__ = ["Overview", "RunningRun", "take_overview"]


@dataclass(frozen=True)
class RunningRun:
    """A run under way.

    Attributes:
        name: its folder's name.
        device: where it runs.
        progress: how far it is; None: not reported yet.
        elapsed: seconds since this attempt started.
    """

    name: str
    device: str
    progress: Progress | None
    elapsed: float

    @property
    def steps(self) -> str:
        """``50/200``, or ``starting``."""
        return "starting" if self.progress is None else f"{self.progress.step}/{self.progress.nsteps}"

    @property
    def loss(self) -> str:
        """Four digits; empty: not known."""
        return "" if self.progress is None or self.progress.loss is None else f"{self.progress.loss:.4g}"

    @property
    def rate(self) -> float | None:
        """Steps per second of this attempt; None: the first step is not known, or no step was made."""
        if self.progress is None or self.progress.begin is None or self.elapsed <= 0.0:
            return None
        return max(self.progress.step - self.progress.begin, 0) / self.elapsed or None

    @property
    def left(self) -> float | None:
        """Seconds to its end, at this rate; None: not known."""
        if self.progress is None or self.rate is None:
            return None
        return max(self.progress.nsteps - self.progress.step, 0) / self.rate

    def __str__(self) -> str:
        step = self.steps if self.progress is None else f"step {self.steps}"
        loss = f"loss {self.loss}" if self.loss else ""
        time = clock(self.elapsed) if self.left is None else f"{clock(self.elapsed)}<{clock(self.left)}"
        # The name comes last: it is long, and a narrow terminal cuts a line at its end.
        return "  ".join(filter(None, (self.device, step, loss, time, self.name)))


@dataclass(frozen=True)
class Overview:
    """The runs of an experiment, or a selection of them, at one moment.

    Attributes:
        paths: the experiment's files.
        records: the runs.
        total: the number of runs of the experiment.
        running: the running ones by key, with their progress.
        orphans: the keys of running ones whose manager is known to be gone, so that they have ended too. The next
            manager, or a requeue, puts them back.
        now: when, in seconds since 1970.
    """

    paths: ExperimentPaths
    records: Sequence[Record]
    total: int
    running: Mapping[str, RunningRun]
    orphans: frozenset[str]
    now: float

    @cached_property
    def counts(self) -> dict[State, int]:
        """The runs by state, all states listed."""
        return count_states(record.state for record in self.records)

    @property
    def settled(self) -> bool:
        """Whether all of these runs have ended."""
        return not (self.counts[State.QUEUED] or self.counts[State.RUNNING])

    @property
    def title(self) -> str:
        """``runs/quickstart: 7 runs``."""
        runs = runs_text(self.total)
        return f"{self.paths.folder}: {runs if len(self.records) == self.total else f'{len(self.records)} of {runs}'}"

    @property
    def summary(self) -> str:
        """``3 queued, 1 running (1 without a manager)``."""
        gone = f" ({len(self.orphans)} without a manager)" if self.orphans else ""
        return counts_text(self.counts) + gone

    def to_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        counts = {state.value: count for state, count in self.counts.items()}
        rows = [
            {**r.to_row(), "manager_gone": r.key in self.orphans, "progress": _progress_json(self.running.get(r.key))}
            for r in self.records
        ]
        return {"exp": self.paths.folder.name, "total": self.total, "counts": counts, "runs": rows}


def take_overview(paths: ExperimentPaths, records: Sequence[Record], total: int) -> Overview:
    """Read the status of runs; of the running ones also their progress files.

    Args:
        paths: the experiment's files.
        records: the runs to look at.
        total: the number of runs of the experiment.
    """
    now = time.time()
    under_way = [record for record in records if record.state is State.RUNNING]
    dead = {owner for owner in {record.owner for record in under_way} if owner_is_dead(owner)}
    running = {
        record.key: RunningRun(
            record.name,
            record.device,
            read_progress(paths.run(record.name), record.started),
            max(now - record.started, 0.0),
        )
        for record in under_way
    }
    orphans = frozenset(record.key for record in under_way if record.owner in dead)
    return Overview(paths, records, total, running, orphans, now)


def _progress_json(run: RunningRun | None) -> dict[str, Any] | None:
    if run is None or run.progress is None:
        return None
    progress, loss = run.progress, run.progress.loss
    return {
        "step": progress.step,
        "nsteps": progress.nsteps,
        "loss": loss if loss is not None and math.isfinite(loss) else None,
        "elapsed": round(run.elapsed, 1),
        "rate": run.rate,
        "left": run.left,
    }
