"""The manager's display: live by rich on a terminal, elsewhere one plain line a minute."""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO

from ovis.experiments.runner.display.progress import Pace, ProgressDisplay, ProgressView
from ovis.experiments.runner.display.text import clock, is_drawable

__all__ = ["make_display"]

#: Seconds between two plain lines.
LINE_INTERVAL = 60.0

#: Running runs that a plain line lists.
LINE_RUNS = 3


class _PlainProgress:
    """One plain line a minute. A stream that can't be written to is ignored: the runs go on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pace = Pace()
        self._due = 0.0

    def show(self, view: ProgressView) -> None:
        text, elapsed = self._pace.text(view), self._pace.elapsed
        if elapsed < self._due:
            return
        self._due = elapsed + LINE_INTERVAL
        line = f"[{clock(elapsed)}] {text}: {view.summary()}"
        running = "; ".join(str(run) for run in view.running[:LINE_RUNS])
        self.print(f"{line} | {running}" if running else line)

    def print(self, line: str) -> None:
        with suppress(OSError):
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        pass


def make_display(stream: TextIO) -> ProgressDisplay:
    """A live display where ``stream`` is a terminal, plain lines elsewhere; no error of the stream is raised."""
    if not is_drawable(stream):
        return _PlainProgress(stream)
    from ovis.experiments.runner.display.live_progress import LiveProgress

    return LiveProgress(stream)
