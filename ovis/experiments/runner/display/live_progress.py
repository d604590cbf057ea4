"""The manager's progress on a terminal: a bar, the counts, and a table of the running runs, redrawn by rich."""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO, cast

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from ovis.experiments.runner.display.progress import Pace, ProgressView
from ovis.experiments.runner.display.rich_status import draw_table
from ovis.experiments.runner.display.status_table import RunTable, running_cells
from ovis.experiments.runner.display.text import clock, make_console

__all__ = ["LiveProgress"]

#: Lines of running runs.
MAX_LINES = 8

#: Lines of the bar, the counts, the table's head, and the cursor.
OTHER_LINES = 4

#: Columns of the bar at most.
BAR_WIDTH = 40


class LiveProgress:
    """A live display on a terminal; where the terminal is gone, nothing.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = make_console(cast(TextIO, _UnfailingStream(stream)))
        # Redrawn by show() only: the manager starts processes, and must not fork beside a thread of rich's.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._pace = Pace()

    def show(self, view: ProgressView) -> None:
        self._live.start()
        self._live.update(self._draw(view), refresh=True)

    def print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()

    def _draw(self, view: ProgressView) -> RenderableType:
        head = Table.grid(Column(no_wrap=True), Column(max_width=BAR_WIDTH), Column(no_wrap=True), padding=(0, 1, 0, 0))
        bar = ProgressBar(total=max(view.total, 1), completed=view.completed)
        head.add_row(f"[{clock(self._pace.elapsed)}]", bar, self._pace.text(view))
        parts: list[RenderableType] = [head, Text(view.summary())]
        limit = min(MAX_LINES, max(self._console.height - OTHER_LINES, 1))
        shown = view.running if len(view.running) <= limit else view.running[: limit - 1]
        if shown:
            heads = ("device", "step", "loss", "time", "left", "run")
            parts.append(draw_table(RunTable(heads, [running_cells(run) for run in shown])))
        if len(shown) < len(view.running):
            parts.append(Text(f"and {len(view.running) - len(shown)} more"))
        return Group(*parts)


class _UnfailingStream:
    """A terminal that may be closed any time: the runs go on.

    rich would leave the process at a broken pipe, and keep what it could not write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()
