"""Detailed plots: one row per metric, one column per K, against training steps, with the axes of a row shared."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ovis.experiments.reporting.figures.legend import add_grouped_legend
from ovis.experiments.reporting.figures.panels import (
    AxisLimits,
    cut_text,
    draw_row,
    join_notes,
    label_steps,
    new_figure,
    unseen_text,
)
from ovis.experiments.reporting.figures.series import by_family, make_series, panel_title
from ovis.experiments.reporting.figures.style import house_style
from ovis.experiments.reporting.metrics import Evaluated, make_metric

__all__ = ["draw_detailed"]

#: Inches of one panel.
PANEL = (2.1, 1.6)

#: Markers on a line, about: panels are small.
MARKS = 3


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
        keys: settings that tell curves apart; where ``iw`` is none of them there is one column.
        limits: metric -> limits of its vertical axis, where they hold anything.
        caption: a line over the legend: what lines and bands are; which lines the axes cut is added.
        evaluated: how the metrics came about, for the labels.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    metrics = [make_metric(str(name), evaluated) for name in table["metric"].unique()]
    counts = sorted(table["iw"].unique()) if "iw" in keys else [None]
    shown = [key for key in keys if key != "iw"]
    families = by_family(make_series(table, shown))
    series = [item for family in families for item in family]
    with house_style():
        figure = new_figure(PANEL[0] * len(counts), PANEL[1] * len(metrics))
        axes = figure.subplots(len(metrics), len(counts), squeeze=False, sharex=True, sharey="row")
        cut: set[str] = set()
        for row, metric in zip(axes, metrics, strict=True):
            whole = table.loc[table["metric"] == metric.name]
            parts = [whole if count is None else whole.loc[whole["iw"] == count] for count in counts]
            cut |= draw_row(row, parts, shown, series, metric, limits or {}, MARKS)
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
