"""Pivot plots (Figures 2 and 4): one number per run against K, one panel per number, one line per series."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ovis.experiments.reporting.figures.legend import add_grouped_legend
from ovis.experiments.reporting.figures.panels import (
    count_columns,
    draw_lines,
    join_notes,
    new_figure,
    unseen_text,
    use_scale,
    values_of,
)
from ovis.experiments.reporting.figures.series import by_family, make_series, panel_title
from ovis.experiments.reporting.figures.style import house_style, is_budgeted
from ovis.experiments.reporting.figures.ticks import label_counts, label_decades
from ovis.experiments.reporting.metrics import Evaluated, parse_pivot

__all__ = ["draw_pivots"]

#: Inches of one panel, of a row and of a grid.
PANEL = (2.6, 2.5)
GRID_PANEL = (2.6, 1.9)

#: The key on the horizontal axis, and its labels; in the budget figures K' includes the auxiliary particles.
X = "iw"
PARTICLES, BUDGET = "particles, $K$", "budget of particles, $K'$"


def draw_pivots(
    table: pd.DataFrame, keys: Sequence[str], caption: str = "", evaluated: Evaluated | None = None
) -> Figure:
    """Draw a pivot table against K.

    Args:
        table: of :func:`ovis.experiments.reporting.data.aggregate.pivot_table`.
        keys: settings that distinguish its rows, ``iw`` among them. Of several data sets each has a column of panels,
            and a panel has limits of its own, as their values don't compare.
        caption: text above the legend.
        evaluated: how the metrics were evaluated, for the labels.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    pivots = [parse_pivot(str(name), evaluated) for name in table["pivot"].unique()]
    sets = values_of(table, "dataset") if "dataset" in keys else [""]
    shown = [key for key in keys if key != X and not (key == "dataset" and len(sets) > 1)]
    families = by_family(make_series(table, shown))
    series = [item for family in families for item in family]
    columns = count_columns(len(pivots)) if len(sets) == 1 else len(sets)
    rows = math.ceil(len(pivots) / columns) if len(sets) == 1 else len(pivots)
    width, height = PANEL if rows == 1 else GRID_PANEL
    label = BUDGET if "estimator" in keys and is_budgeted(map(str, table["estimator"].unique())) else PARTICLES
    with house_style():
        figure = new_figure(width * columns, height * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        panels = [(pivot, name) for pivot in pivots for name in sets]
        for index, (axis, (pivot, name)) in enumerate(zip(axes.flat, panels, strict=False)):
            part = table.loc[table["pivot"] == pivot.name]
            part = part.loc[part["dataset"].astype(str) == name] if name else part
            use_scale(axis, part, pivot.metric)
            draw_lines(axis, part, shown, series, X)
            if axis.get_yscale() == "log":
                label_decades(axis)
            label_counts(axis, sorted(table[X].unique()))
            axis.set_xlabel(label if index >= len(panels) - columns else "")
            if not name or name == sets[0]:
                axis.set_ylabel(pivot.label)
            if pivot == pivots[0] or not name:
                axis.set_title(panel_title("dataset", name), fontsize="medium")
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        add_grouped_legend(figure, families, join_notes(caption, unseen_text(figure.axes, series)))
    return figure
