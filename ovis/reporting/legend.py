"""One legend for a whole figure, above its panels: it never covers data, and the figure grows to make room for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ovis.reporting.style import Look

__all__ = ["add_legend", "reading_order"]

Item = TypeVar("Item")


def add_legend(figure: Figure, looks: Sequence[Look], title: str = "") -> Legend:
    """Add the legend above the panels, in as few rows as fit into the figure's width, read row by row.

    Args:
        figure: with ``layout="constrained"``, which keeps the panels clear of it.
        looks: the entries, in the order in which they are to be read.
        title: a line above them.

    Returns:
        the legend; the figure is higher by its height.
    """
    for columns in range(len(looks), 0, -1):
        legend = _place(figure, looks, title, columns)
        box = legend.get_window_extent(figure.canvas.get_renderer()).transformed(figure.dpi_scale_trans.inverted())  # type: ignore[attr-defined]
        if box.width <= 0.98 * figure.get_figwidth() or columns == 1:
            break
        legend.remove()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + box.height)
    return legend


def _place(figure: Figure, looks: Sequence[Look], title: str, columns: int) -> Legend:
    ordered = reading_order(looks, columns)
    return figure.legend(
        handles=[Line2D([], [], label=look.label, **look.line) for look in ordered],
        loc="outside upper center",
        ncols=columns,
        title=title or None,
        frameon=False,
        handlelength=3.2,
        columnspacing=1.6,
    )


def reading_order(items: Sequence[Item], columns: int) -> list[Item]:
    """The order that makes a legend, which is filled column by column, read row by row."""
    return [item for column in range(columns) for item in items[column::columns]]
