"""An experiment seen over time: a table that is redrawn, or a line now and then where no terminal is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

from ovis.experiments.runner.display.progress import clock, is_drawable
from ovis.experiments.runner.display.status_table import RowLimits, draw_table, fit, usual_limits
from ovis.experiments.runner.overview import Overview

__all__ = ["watch"]

HOME, CLEAR = "\x1b[H", "\x1b[2J"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"

#: Lines that a failed run takes.
FAILED_LINES = 3


def watch(look: Callable[[], Overview], stream: TextIO, interval: float = 2.0, pause: float = 60.0) -> Overview:
    """Show how the runs stand until all of them are settled, or until Ctrl-C. The screen is left empty.

    Args:
        look: takes an overview.
        stream: where to. On a terminal the table is redrawn in place; elsewhere a line says each change.
        interval: seconds between two looks.
        pause: least seconds between two lines.

    Returns:
        the last overview.

    Raises:
        KeyboardInterrupt: somebody has seen enough.
        LedgerError: the queue can't be read.
    """
    show = _Screen(stream) if is_drawable(stream) else _Lines(stream, pause)
    try:
        while True:
            overview = look()
            show(overview)
            if overview.settled:
                return overview
            time.sleep(interval)
    finally:
        show.close()


class _Screen:
    """The table, redrawn from the screen's first line on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        stream.write(HOME + CLEAR)

    def __call__(self, overview: Overview) -> None:
        width, height = os.get_terminal_size(self._stream.fileno())
        height = max(height - 1, 1)  # the last line stays free, as a line break there would scroll
        failed = max(height // 3 // FAILED_LINES, 1)
        limits = RowLimits(max(height // 2, 1), failed, usual_limits(overview).others)
        lines = draw_table(overview, width, limits)
        text = "".join(f"{line}{CLEAR_LINE}\n" for line in fit(lines, width, height))
        self._stream.write(HOME + text + CLEAR_BELOW)
        self._stream.flush()

    def close(self) -> None:
        self._stream.write(HOME + CLEAR)
        self._stream.flush()


class _Lines:
    """The counts in one line: at once, then when they change, but not often, and when all is settled."""

    def __init__(self, stream: TextIO, pause: float) -> None:
        self._stream, self._pause = stream, pause
        self._begin = time.monotonic()
        self._said, self._due = "", 0.0

    def __call__(self, overview: Overview) -> None:
        elapsed = time.monotonic() - self._begin
        text = ": ".join(filter(None, (overview.title, overview.summary)))
        if text != self._said and (elapsed >= self._due or overview.settled):
            self._said, self._due = text, elapsed + self._pause
            print(f"[{clock(elapsed)}] {text}", file=self._stream, flush=True)

    def close(self) -> None:
        pass
