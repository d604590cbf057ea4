"""Curves against training steps, one line per group of runs, under one legend.

:func:`draw_curves` draws one panel per metric, and a row of panels for each data set or K. :func:`draw_detailed` draws
one row per metric and one column per K, in small panels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import pandas as pd
from matplotlib.figure import Figure

from ovis.experiments.reporting.figures.legend import add_grouped_legend, add_legend
from ovis.experiments.reporting.figures.panels import (
    AxisLimits,
    count_columns,
    cut_text,
    draw_row,
    join_notes,
    label_steps,
    new_figure,
    unseen_text,
    values_of,
)
from ovis.experiments.reporting.figures.series import (
    LONGEST_LEGEND,
    by_family,
    legend_looks,
    make_series,
    panel_title,
)
from ovis.experiments.reporting.figures.style import house_style
from ovis.experiments.reporting.metrics import Evaluated, make_metric

__all__ = ["draw_curves", "draw_detailed"]

#: Inches of one panel.
PANEL = (2.6, 2.6)
DETAILED_PANEL = (2.1, 1.6)

#: Approximate number of markers on a line in a small panel.
DETAILED_MARKS = 3


def draw_curves(
    table: pd.DataFrame,
    keys: Sequence[str],
    limits: AxisLimits | None = None,
    caption: str = "",
    evaluated: Evaluated | None = None,
    rows: str = "dataset",
) -> Figure:
    """Draw a table of curves.

    Args:
        table: of :func:`ovis.experiments.reporting.data.aggregate.curve_table`; its
            order is that of the legend for one K; for several K, the curves of an estimator are listed together.
        keys: settings that distinguish curves.
        limits: metric -> limits of its vertical axis; a panel ignores limits that contain none of its values.
        caption: text above the legend; a note on lines that the axes cut is added.
        evaluated: how the metrics were evaluated, for the labels.
        rows: the key whose values are drawn in a row each, if there are several.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    metrics = [make_metric(str(name), evaluated) for name in table["metric"].unique()]
    parts = values_of(table, rows) if rows in keys else [""]
    shown = [key for key in keys if not (key == rows and len(parts) > 1)]
    series = make_series(table, shown)
    several = "iw" in keys and table["iw"].nunique() > 1
    if several:  # the best first would be the best at one of these K
        series = [item for family in by_family(series) for item in family]
    columns = count_columns(len(metrics)) if len(parts) == 1 else len(metrics)
    height = math.ceil(len(metrics) / columns) if len(parts) == 1 else len(parts)
    with house_style():
        figure = new_figure(PANEL[0] * columns, PANEL[1] * height)
        axes = figure.subplots(height, columns, squeeze=False)
        cut: set[str] = set()
        panels = [(metric, name) for name in parts for metric in metrics]
        for axis, (metric, name) in zip(axes.flat, panels, strict=False):
            part = table.loc[table["metric"] == metric.name]
            part = part.loc[part[rows].astype(str) == name] if name else part
            cut |= draw_row([axis], [part], shown, series, metric, limits or {})
            axis.set_xlabel("training steps")
            axis.set_ylabel(metric.label)
            label_steps(axis)
            axis.set_title(panel_title(rows, name), fontsize="medium")
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        text = join_notes(caption, cut_text(cut, series), unseen_text(figure.axes, series))
        if several and "iw" in shown and len(series) <= LONGEST_LEGEND:
            add_grouped_legend(figure, [list(part) for _, part in groupby(series, lambda item: item.estimator)], text)
        else:
            add_legend(figure, legend_looks(series), text)
    return figure


def draw_detailed(
    table: pd.DataFrame,
    keys: Sequence[str],
    limits: AxisLimits | None = None,
    caption: str = "",
    evaluated: Evaluated | None = None,
) -> Figure:
    """Draw a table of curves of one data set, metrics in rows and K in columns.

    Args:
        table: of :func:`ovis.experiments.reporting.data.aggregate.curve_table`.
        keys: settings that distinguish curves; without ``iw`` there is one column.
        limits: metric -> limits of its vertical axis; a panel ignores limits that contain none of its values.
        caption: text above the legend; a note on lines that the axes cut is added.
        evaluated: how the metrics were evaluated, for the labels.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    metrics = [make_metric(str(name), evaluated) for name in table["metric"].unique()]
    counts = sorted(table["iw"].unique()) if "iw" in keys else [None]
    shown = [key for key in keys if key != "iw"]
    families = by_family(make_series(table, shown))
    series = [item for family in families for item in family]
    with house_style():
        figure = new_figure(DETAILED_PANEL[0] * len(counts), DETAILED_PANEL[1] * len(metrics))
        axes = figure.subplots(len(metrics), len(counts), squeeze=False, sharex=True, sharey="row")
        cut: set[str] = set()
        for row, metric in zip(axes, metrics, strict=True):
            whole = table.loc[table["metric"] == metric.name]
            parts = [whole if count is None else whole.loc[whole["iw"] == count] for count in counts]
            cut |= draw_row(row, parts, shown, series, metric, limits or {}, DETAILED_MARKS)
            row[0].set_ylabel(metric.wrapped_label)
        for axis, count in zip(axes[0], counts, strict=True):
            axis.set_title("" if count is None else panel_title("iw", str(count)), fontsize="medium")
        label_steps(axes[-1, 0])
        for axis in axes[-1]:
            axis.set_xlabel("training steps")
        add_grouped_legend(
            figure, families, join_notes(caption, cut_text(cut, series), unseen_text(figure.axes, series))
        )
    return figure
