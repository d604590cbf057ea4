"""One legend for a whole figure, above its panels: it never covers data, and the figure grows by its height.

Constrained layout keeps the panels clear of it (``loc="outside upper center"``); what is decided here is how many
columns fit, and in which order matplotlib, which fills a legend column by column, is to get the entries.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from ovis.experiments.reporting.figures.series import Series
from ovis.experiments.reporting.figures.style import Look, figure_text

__all__ = ["add_grouped_legend", "add_legend", "reading_order"]

Item = TypeVar("Item")

#: Largest width of the legend, as a fraction of the figure's.
WIDEST = 0.98

#: Letters of the title per inch, for broad letters.
LETTERS = 16

#: Largest number of entries in a column of groups; more would make the legend higher than the panels.
TALLEST = 12


def add_legend(figure: Figure, looks: Sequence[Look], title: str = "") -> Legend:
    """Add the legend above the panels, in as few rows as fit into the figure's width, read row by row.

    Args:
        figure: with ``layout="constrained"``, which keeps the panels clear of it.
        looks: the entries, in the order in which they are to be read.
        title: above them, in lines that fit.

    Returns:
        the legend; the figure is higher by its height.
    """
    rows = 1
    while True:
        columns = math.ceil(len(looks) / rows)
        legend = _add_if_it_fits(figure, reading_order(looks, columns), title, columns)
        if legend:
            return legend
        rows += 1


def add_grouped_legend(figure: Figure, groups: Sequence[Sequence[Series]], title: str = "") -> Legend:
    """Add the legend above the panels, each group in one column, in as many columns as fit.

    Where a column would be too high, the entries are read row by row as in :func:`add_legend`.

    Args:
        figure: with ``layout="constrained"``, which keeps the panels clear of it.
        groups: series that belong together; stacked in order where there are more groups than columns.
        title: above them, in lines that fit.

    Returns:
        the legend; the figure is higher by its height.
    """
    looks = [[item.look for item in group] for group in groups]
    for columns in range(len(looks), 1, -1):
        height = math.ceil(len(looks) / columns)
        stacks = [list(chain(*looks[i : i + height])) for i in range(0, len(looks), height)]
        if max(map(len, stacks)) > TALLEST:
            break
        # A legend's columns are filled evenly: short ones end in entries that can't be seen.
        entries = chain(*zip(*zip_longest(*stacks), strict=True))
        if legend := _add_if_it_fits(figure, list(entries), title, len(stacks)):
            return legend
    return add_legend(figure, list(chain(*looks)), title)


def _add_if_it_fits(figure: Figure, looks: Sequence[Look | None], title: str, columns: int) -> Legend | None:
    """The legend, with the figure higher by its height; None, and no legend, where it is too wide for the figure."""
    empty = Line2D([], [], label=" ", linestyle="none")
    legend = figure.legend(
        handles=[Line2D([], [], label=figure_text(look.label), **look.line) if look else empty for look in looks],
        loc="outside upper center",
        ncols=columns,
        title=_wrapped(title, figure) or None,
        frameon=False,
        handlelength=4.6,  # twice the longest dashes, beside the marker
        columnspacing=1.6,
    )
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())  # type: ignore[no-untyped-call]
    if columns > 1 and box.width > WIDEST * figure.bbox.width:
        legend.remove()
        return None
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
    return legend


def _wrapped(title: str, figure: Figure) -> str:
    """The title in lines that fit, broken between its parts where they are short enough; ``L_100`` is typeset."""
    width = round(LETTERS * figure.get_figwidth())
    lines = [""]
    for part in title.split("; "):
        joined = f"{lines[-1]}; {part}" if lines[-1] else part
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines[-1] += ";" if lines[-1] else ""
            lines += textwrap.wrap(part, width)
    return re.sub(r"\bbound L_(\w+)", r"bound $L_{\1}$", figure_text("\n".join(filter(None, lines))))


def reading_order(items: Sequence[Item], columns: int) -> list[Item]:
    """Reorder entries so that a legend, which is filled column by column, is read row by row."""
    return [item for column in range(columns) for item in items[column::columns]]
