"""One legend for a whole figure, above its panels: it never covers data, and the figure grows to make room for it."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import TypeVar

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ovis.experiments.reporting.figures.style import Look

__all__ = ["add_grouped_legend", "add_legend", "add_stacked_legend", "reading_order"]

Item = TypeVar("Item")

#: The legend's share of the figure's width, at most.
WIDEST = 0.98

#: Letters of the title to an inch, of the broader ones.
LETTERS = 16

#: Entries of a column, at most, where a legend has one for each group: a higher one would dwarf the panels.
TALLEST = 8


def add_legend(figure: Figure, looks: Sequence[Look], title: str = "") -> Legend:
    """Add the legend above the panels, in as few rows as fit into the figure's width, read row by row.

    Args:
        figure: with ``layout="constrained"``, which keeps the panels clear of it.
        looks: the entries, in the order in which they are to be read.
        title: above them, in lines that fit.

    Returns:
        the legend; the figure is higher by its height.
    """
    title = _fill(figure, title)
    for rows in range(1, len(looks) + 1):
        columns = math.ceil(len(looks) / rows)
        legend = _place(figure, reading_order(looks, columns), title, columns)
        if _inches(figure, legend)[0] <= WIDEST * figure.get_figwidth() or rows == len(looks):
            break
        legend.remove()
    return _made_room(figure, legend)


def add_grouped_legend(figure: Figure, groups: Sequence[Sequence[Look]], title: str = "") -> Legend:
    """Add the legend above the panels, a column for each group; the figure is higher by its height.

    Where the columns are too wide for the figure, or one is too high, the groups follow each other as in
    :func:`add_legend`.

    Args:
        figure: with ``layout="constrained"``, which keeps the panels clear of it.
        groups: the columns, each from top to bottom.
        title: above them, in lines that fit.
    """
    legend = None
    if max(map(len, groups), default=0) <= TALLEST:
        legend = _place_columns(figure, groups, _fill(figure, title))
    return _made_room(figure, legend) if legend else add_legend(figure, [look for of in groups for look in of], title)


def add_stacked_legend(figure: Figure, groups: Sequence[Sequence[Look]], title: str = "") -> Legend:
    """Add the legend above the panels, each group in one piece from top to bottom, in as many columns as fit.

    Args:
        figure: with ``layout="constrained"``, which keeps the panels clear of it.
        groups: what belongs together, an estimator at each K; stacked in order where there are more than columns.
        title: above them, in lines that fit.
    """
    for columns in range(len(groups), 1, -1):
        height = math.ceil(len(groups) / columns)
        stacks = [groups[i : i + height] for i in range(0, len(groups), height)]
        legend = _place_columns(
            figure, [[look for of in stack for look in of] for stack in stacks], _fill(figure, title)
        )
        if legend:
            return _made_room(figure, legend)
    return add_legend(figure, [look for of in groups for look in of], title)


def _fill(figure: Figure, title: str) -> str:
    """The title in lines that fit, broken between its parts where they are short enough."""
    width = round(LETTERS * figure.get_figwidth())
    lines = [""]
    for part in title.split("; "):
        joined = f"{lines[-1]}; {part}" if lines[-1] else part
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines[-1] += ";" if lines[-1] else ""
            lines += textwrap.wrap(part, width)
    return "\n".join(filter(None, lines))


def _place_columns(figure: Figure, groups: Sequence[Sequence[Look]], title: str) -> Legend | None:
    """A legend of these columns; None, and no legend, where they are too wide for the figure."""
    height = max(map(len, groups), default=0)
    # A legend's columns are filled evenly: short ones end in entries that can't be seen.
    padded = [[*group, *[None] * (height - len(group))] for group in groups]
    legend = _place(figure, [look for group in padded for look in group], title, columns=len(groups))
    if _inches(figure, legend)[0] <= WIDEST * figure.get_figwidth():
        return legend
    legend.remove()
    return None


def _made_room(figure: Figure, legend: Legend) -> Legend:
    """The legend, with the figure higher by its height."""
    figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + _inches(figure, legend)[1])
    return legend


def _inches(figure: Figure, legend: Legend) -> tuple[float, float]:
    """Width and height of the legend."""
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())  # type: ignore[no-untyped-call]
    return box.width / figure.dpi, box.height / figure.dpi


def _place(figure: Figure, looks: Sequence[Look | None], title: str, columns: int) -> Legend:
    empty = Line2D([], [], label=" ", linestyle="none")
    return figure.legend(
        handles=[Line2D([], [], label=look.label, **look.line) if look else empty for look in looks],
        loc="outside upper center",
        ncols=columns,
        title=re.sub(r"(?<![\w/])L_(\w+)", r"$L_{\1}$", title) or None,  # captions are plain text, L_100
        frameon=False,
        handlelength=4.6,  # twice the longest dashes, beside the marker
        columnspacing=1.6,
    )


def reading_order(items: Sequence[Item], columns: int) -> list[Item]:
    """The order that makes a legend, which is filled column by column, read row by row."""
    return [item for column in range(columns) for item in items[column::columns]]
