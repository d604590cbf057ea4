"""The status of an experiment drawn by rich, for terminals."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from ovis.experiments.runner.display.status_table import RowLimits, RunTable, status_blocks
from ovis.experiments.runner.display.text import printable
from ovis.experiments.runner.overview import Overview

__all__ = ["draw_status", "draw_table"]

#: Smallest width of a name, even on a narrow terminal.
NAME_WIDTH = 12

#: Colours of states in tables.
STYLES = {"running": "cyan", "done": "green", "cancelled": "yellow"}


def draw_status(overview: Overview, limits: RowLimits) -> Group:
    """The title, the counts and the tables."""
    blocks = status_blocks(overview, limits)
    return Group(*(draw_table(block) if isinstance(block, RunTable) else _line(*block) for block in blocks))


def draw_table(table: RunTable) -> Table:
    """A table of runs whose names are cut to the terminal's width."""
    *heads, name = table.head
    columns = [*(Column(head, no_wrap=True) for head in heads), name]
    drawn = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for *cells, name in table.rows:
        drawn.add_row(*(_line(cell, STYLES.get(cell.partition(" ")[0], "")) for cell in cells), RunName(name))
    return drawn


class RunName:
    """A run's name. Where it does not fit, its hash and then its beginning are cut: runs differ in the end."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, width = self._name, options.max_width
        if len(name) > width:
            name = name.rpartition("-")[0] or name
        yield _line(name if len(name) <= width else f"...{name[3 - width :]}")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(len(self._name), NAME_WIDTH), len(self._name))


def _line(text: str, style: str = "") -> Text:
    """A line that is never wrapped."""
    return Text(printable(text), style, no_wrap=True, overflow="ignore")
