"""What people see while an experiment runs: a bar and one line per running run, or plain lines where no terminal is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

from ovis.experiments.runner.experiment_file import Run
from ovis.experiments.runs.status import Progress, State
from ovis.experiments.settings import TrainSettings
from ovis.experiments.studies import AsymptoticSettings

__all__ = ["Display", "RunningRun", "View", "clock", "counts_text", "is_drawable", "make_display", "runs_text"]

#: Running runs that get a line of their own on a terminal.
MAX_LINES = 8


@dataclass(frozen=True)
class RunningRun:
    """A run under way.

    Attributes:
        name: its folder's name.
        device: where it runs.
        progress: how far it is; None: it has not said.
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
        """Four digits; empty where it has none."""
        return "" if self.progress is None or self.progress.loss is None else f"{self.progress.loss:.4g}"

    @property
    def rate(self) -> float | None:
        """Steps per second of this attempt; None: it has not said where it began, or has made none."""
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
class View:
    """The experiment at one moment.

    Attributes:
        counts: runs by state.
        completed: runs completed, with a part for each running one.
        running: the runs of this manager.
        carried: what of the completed was there already when the attempts of this manager began.
        pending: how many of the running only wait for a node, in a cluster's queue.
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
        """``9 queued, 6 running (2 without a node yet)``: those that are zero left out."""
        return counts_text(self.counts) + (f" ({self.pending} without a node yet)" if self.pending else "")


class Display(Protocol):
    """Shows the progress."""

    def show(self, view: View) -> None:
        """Bring what is seen up to date; called a few times a second."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Leave the terminal in order."""


def make_display(stream: TextIO) -> Display:
    """A bar where ``stream`` is a terminal, plain lines elsewhere; where it can't be written to, nothing."""
    return _Unbreakable(_Bar(stream) if is_drawable(stream) else _Lines(stream))


def is_drawable(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal of some size: one that nobody looks at (a container's) may have none."""
    return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0


class _Unbreakable:
    """A display whose terminal may be closed, whose pipe may break, whose disk may be full: the runs go on."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def show(self, view: View) -> None:
        with suppress(OSError):
            self._display.show(view)

    def say(self, line: str) -> None:
        with suppress(OSError):
            self._display.say(line)

    def close(self) -> None:
        with suppress(OSError):
            self._display.close()


class _Bar:
    """A tqdm bar in units of runs, and below it a line for each running one."""

    FORMAT = "{l_bar}{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}, {rate_fmt}]{postfix}"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None
        self._first = 0.0
        self._lines: list[tqdm[NoReturn]] = []
        tqdm.monitor_interval = 0  # no thread of its own: the manager starts processes

    def show(self, view: View) -> None:
        if self._bar is None:
            self._bar, self._first = self._make_bar(view), view.completed - view.carried
        bar = self._bar
        bar.set_postfix_str(view.summary(), refresh=False)
        # Its rate is that of the work done here. Runs may be put back: no negative one.
        bar.initial = min(self._first + view.carried, view.completed)
        bar.update(view.completed - bar.n)
        bar.refresh()
        texts = [str(run) for run in view.running]
        if len(texts) > MAX_LINES:
            texts = [*texts[: MAX_LINES - 1], f"and {len(texts) - MAX_LINES + 1} more"]
        while len(self._lines) < len(texts):
            self._lines.append(self._make_line(len(self._lines) + 1))
        texts += [""] * (len(self._lines) - len(texts))
        for line, text in zip(self._lines, texts, strict=True):
            line.set_description_str(text)

    def _make_bar(self, view: View) -> tqdm[NoReturn]:
        return tqdm(
            total=view.total,
            initial=view.completed,
            unit="run",
            bar_format=self.FORMAT,
            file=self._stream,
            dynamic_ncols=True,
            smoothing=0,  # the rate since the beginning: runs end in groups, and tqdm's average is misled by these
            mininterval=0.0,
        )

    def _make_line(self, position: int) -> tqdm[NoReturn]:
        return tqdm(
            total=0,
            bar_format="  {desc}",
            position=position,
            leave=False,
            file=self._stream,
            dynamic_ncols=True,
        )

    def say(self, line: str) -> None:
        tqdm.write(line, file=self._stream)

    def close(self) -> None:
        for line in reversed(self._lines):
            line.close()
        if self._bar is not None:
            self._bar.close()
        self._lines, self._bar = [], None


class _Lines:
    """One plain line a minute."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin = time.monotonic()
        self._first: float | None = None
        self._due = 0.0

    def show(self, view: View) -> None:
        elapsed = time.monotonic() - self._begin
        if self._first is None:
            self._first = view.completed - view.carried
        if elapsed < self._due:
            return
        self._due = elapsed + 60.0
        gained = view.completed - self._first - view.carried
        left = f", about {clock((view.total - view.completed) * elapsed / gained)} left" if gained > 0 else ""
        percent = 100 * view.completed / max(view.total, 1)
        line = f"[{clock(elapsed)}] {percent:.0f}% of {runs_text(view.total)}{left}: {view.summary()}"
        shown = "; ".join(str(run) for run in view.running[:3])
        self.say(f"{line} | {shown}" if shown else line)

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        pass


def runs_text(count: int) -> str:
    """``1 run`` or ``2 runs``."""
    return f"{count} run" if count == 1 else f"{count} runs"


def counts_text(counts: Mapping[State, int]) -> str:
    """``2 queued, 1 running``: those that are zero left out."""
    return ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)


def clock(seconds: float) -> str:
    """``1:02:03`` or ``02:03``."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def run_weights(runs: Sequence[Run]) -> dict[str, float]:
    """What each run counts for in the bar: in proportion to its steps where these are known, one on average."""
    steps = [_steps(run.settings) for run in runs]
    if not all(steps):
        return dict.fromkeys((run.key for run in runs), 1.0)
    total = sum(steps)
    return {run.key: count * len(runs) / total for run, count in zip(runs, steps, strict=True)}


def _steps(settings: TrainSettings | AsymptoticSettings) -> int:
    """The work of a run, 0: not known."""
    if isinstance(settings, AsymptoticSettings):
        return settings.work
    return settings.nsteps if settings.epochs < 0 else 0
