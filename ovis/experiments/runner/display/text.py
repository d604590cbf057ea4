"""Counts and durations as text, and the terminals that show it. Imports rich for a console only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from ovis.experiments.runs.status import State

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["clock", "counts_text", "is_drawable", "make_console", "printable", "runs_text"]


def runs_text(count: int) -> str:
    """``1 run`` or ``2 runs``."""
    return f"{count} run" if count == 1 else f"{count} runs"


def counts_text(counts: Mapping[State, int]) -> str:
    """``2 queued, 1 running``: states without runs are left out."""
    return ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)


def clock(seconds: float) -> str:
    """``1:02:03`` or ``02:03``."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def is_drawable(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that can be redrawn: not a dumb one, nor one without a size (a container's)."""
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    return min(os.get_terminal_size(stream.fileno())) > 0


def make_console(stream: TextIO, width: int | None = None) -> Console:
    """A console that prints text as it is: brackets are no markup, numbers get no colours.

    Args:
        stream: where to.
        width: columns; None: those of the terminal.
    """
    from rich.console import Console  # not needed where lines are plain

    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
