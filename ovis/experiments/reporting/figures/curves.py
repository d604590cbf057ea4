"""Curves against steps: one panel per metric, one line per group of runs, one row per data set or K, one legend."""

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

__all__ = ["draw_curves"]

#: Inches of one panel.
PANEL = (2.6, 2.6)


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
            order is the legend's where it is of one K; of several K an estimator's stand below each other.
        keys: settings that tell curves apart.
        limits: metric -> limits of its vertical axis, where they hold anything.
        caption: a line over the legend: what lines and bands are; which lines the axes cut is added.
        evaluated: how the metrics came about, for the labels.
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
