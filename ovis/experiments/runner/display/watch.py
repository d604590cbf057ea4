"""``dbutils.py --watch``: tables redrawn on a terminal's alternate screen, elsewhere a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment

from ovis.experiments.runner.display.rich_status import draw_status
from ovis.experiments.runner.display.status_table import RowLimits, default_limits
from ovis.experiments.runner.display.text import clock, is_drawable, make_console
from ovis.experiments.runner.overview import Overview

__all__ = ["watch"]

#: Lines of a failed run.
FAILED_LINES = 3


def watch(look: Callable[[], Overview], stream: TextIO, interval: float = 2.0, pause: float = 60.0) -> Overview:
    """Show the status until all runs are settled, or until Ctrl-C. A terminal is then as it was before.

    Args:
        look: takes an overview.
        stream: where to. On a terminal the tables are redrawn in place; elsewhere a line reports each change.
        interval: seconds between two looks.
        pause: least seconds between two lines.

    Returns:
        the last overview.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        LedgerError: the queue can't be read.
    """
    display: _WatchDisplay = _WatchScreen(stream) if is_drawable(stream) else _WatchLines(stream, pause)
    try:
        while True:
            overview = look()
            display.show(overview)
            if overview.settled:
                return overview
            time.sleep(interval)
    finally:
        display.close()


class _WatchDisplay(Protocol):
    def show(self, overview: Overview) -> None: ...

    def close(self) -> None: ...


class _WatchScreen:
    """The tables on the alternate screen, redrawn at each refresh."""

    def __init__(self, stream: TextIO) -> None:
        self._console = make_console(stream)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False,
            redirect_stderr=False)  # fmt: skip
        self._live.start()

    def show(self, overview: Overview) -> None:
        height = self._console.height
        limits = RowLimits(
            running=max(height // 2, 1),
            failed=max(height // 3 // FAILED_LINES, 1),
            others=default_limits(overview).others,
        )
        self._live.update(FittedLines(draw_status(overview, limits)), refresh=True)

    def close(self) -> None:
        self._live.stop()


class FittedLines:
    """As many lines as the terminal is high; the last one counts those that are left out."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._renderable, options.update(height=None))
        height = options.height or options.max_height
        if len(lines) > height:
            lines = [*lines[: height - 1], [Segment(f"... {len(lines) - height + 1} more lines")]]
        for line in lines:
            yield from line
            yield Segment.line()


class _WatchLines:
    """The counts in one line: at once, on changes but not too often, and at the end."""

    def __init__(self, stream: TextIO, pause: float) -> None:
        self._stream, self._pause = stream, pause
        self._begin = time.monotonic()
        self._text, self._due = "", 0.0

    def show(self, overview: Overview) -> None:
        elapsed = time.monotonic() - self._begin
        text = ": ".join(filter(None, (overview.title, overview.summary)))
        if text != self._text and (elapsed >= self._due or overview.settled):
            self._text, self._due = text, elapsed + self._pause
            print(f"[{clock(elapsed)}] {text}", file=self._stream, flush=True)

    def close(self) -> None:
        pass
