"""Curves against steps: one panel per metric (and one row per data set), one line per group of runs, one legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from ovis.reporting.axes import label_decades
from ovis.reporting.legend import add_legend
from ovis.reporting.metrics import Metric, make_metric
from ovis.reporting.series import Series, legend_looks, make_series
from ovis.reporting.style import house_style

__all__ = ["draw_curves"]

#: Inches of one panel.
PANEL = (2.6, 2.6)

#: Inches of the whole figure, at least: the legend needs room beside a single panel too.
NARROWEST = 3.6

#: Panels side by side, at most.
ROW = 4

#: Markers on a line, about.
MARKS = 6

#: The share of the training whose values the axis of a bound must hold in full.
SETTLED = 0.2

#: Curves that are named in the caption where an axis cuts them, at most.
NAMED = 2

Limits = Mapping[str, tuple[float, float]]


def draw_curves(
    table: pd.DataFrame,
    keys: Sequence[str],
    limits: Limits | None = None,
    caption: str = "",
    particles: Mapping[str, int] | None = None,
) -> Figure:
    """Draw a table of curves.

    Args:
        table: columns ``*keys, metric, step, mean, low, high``, see :func:`ovis.reporting.aggregate.curve_table`; its
            order is the legend's.
        keys: settings that tell curves apart. Several data sets are drawn in rows, as their values don't compare.
        limits: metric -> limits of its vertical axis.
        caption: a line over the legend: what lines and bands are; which lines the axes cut is added.
        particles: split -> with how many its bounds are evaluated, for the labels.

    Returns:
        a figure of no backend's global state; nothing is saved.
    """
    metrics = [make_metric(str(name), particles) for name in table["metric"].unique()]
    sets = _data_sets(table, keys)
    shown = [key for key in keys if not (key == "dataset" and len(sets) > 1)]
    series = make_series(table[shown].drop_duplicates() if shown else pd.DataFrame(index=[0]))
    columns = min(ROW, len(metrics)) if len(sets) == 1 else len(metrics)
    rows = math.ceil(len(metrics) / columns) if len(sets) == 1 else len(sets)
    with house_style():
        size = (max(PANEL[0] * columns, NARROWEST), PANEL[1] * rows)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05))
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        cut: set[str] = set()
        panels = [(metric, name) for name in sets for metric in metrics]
        for axis, (metric, name) in zip(axes.flat, panels, strict=False):
            part = table.loc[table["metric"] == metric.name]
            part = part.loc[part["dataset"].astype(str) == name] if name else part
            cut |= _draw_panel(axis, part, shown, series, metric, (limits or {}).get(metric.name))
            axis.set_title(name, fontsize="medium")
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        noted = [caption, _cut_text([item.look.label for item in series if item.look.label in cut], len(series))]
        add_legend(figure, legend_looks(series), "; ".join(text for text in noted if text))
    return figure


def _data_sets(table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """The data sets that need a row each; one empty name where there is nothing to tell apart."""
    names = list(map(str, table["dataset"].unique())) if "dataset" in keys else []
    return names if len(names) > 1 else [""]


def _draw_panel(
    axis: Axes,
    table: pd.DataFrame,
    keys: Sequence[str],
    series: Sequence[Series],
    metric: Metric,
    limits: tuple[float, float] | None,
) -> set[str]:
    """One metric of one data set: all lines with their bands, scales and labels; returns the lines the axis cuts."""
    if metric.kind.log and (table["mean"] > 0).any():
        axis.set_yscale("log")
    for place, item in enumerate(series):
        rows = _rows_of(table, keys, item)
        if rows.empty:
            continue
        front = 3 - place / len(series)  # the best lie on top
        axis.plot(
            rows["step"],
            rows["mean"],
            label=item.look.label,
            zorder=front,
            markevery=_marked(rows["mean"].to_numpy(np.float64), place),
            **item.look.line,
        )
        if rows["low"].notna().any():
            axis.fill_between(
                rows["step"], rows["low"], rows["high"], color=item.look.color, alpha=0.2, linewidth=0, zorder=1
            )
    axis.set_xlabel("training steps")
    axis.set_ylabel(metric.label)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    limits = limits or _settled_limits(table, metric)
    if limits:
        axis.set_ylim(*limits)
    if axis.get_yscale() == "log":
        label_decades(axis)
    return _cut_lines(axis) if limits else set()


def _marked(values: NDArray[np.float64], place: int) -> list[int]:
    """Which points of a line have markers: the last one, and a few that are not at the steps of the other lines'."""
    every = max(1, round(len(values) / MARKS))
    drawn = np.flatnonzero(np.isfinite(values))
    return sorted({*range(place % every, len(values), every), *drawn[-1:].tolist()})


def _cut_lines(axis: Axes) -> set[str]:
    """The labels of the lines of which the axis does not hold every point."""
    low, high = axis.get_ylim()
    values = {str(line.get_label()): np.asarray(line.get_ydata(), np.float64) for line in axis.lines}
    return {label for label, y in values.items() if ((y < low) | (y > high)).any()}


def _cut_text(cut: Sequence[str], total: int) -> str:
    """Which lines are not there in full: a line that enters at the frame has not started there."""
    if not cut:
        return ""
    return "y axis cut: " + (", ".join(cut) if len(cut) <= NAMED else f"{len(cut)} of {total} curves")


def _rows_of(table: pd.DataFrame, keys: Sequence[str], item: Series) -> pd.DataFrame:
    """The rows of one series; NaN, a setting that some runs do not have, equals itself."""
    mask = np.ones(len(table), dtype=bool)
    for key in keys:
        value = item.keys[key]
        mask &= (table[key].isna() if pd.isna(value) else table[key] == value).to_numpy(bool)
    return table.loc[mask]


def _settled_limits(table: pd.DataFrame, metric: Metric) -> tuple[float, float] | None:
    """Limits that leave out the first steep climb of a bound, beside which no difference between estimators shows.

    Every line is whole from :data:`SETTLED` of the training on; lines enter from below. None: nothing to leave out.
    """
    values = table.assign(low=table["low"].fillna(table["mean"]), high=table["high"].fillna(table["mean"]))
    values = values.loc[np.isfinite(values[["low", "high"]].to_numpy()).all(axis=1)]
    if metric.kind.sign != 1 or metric.kind.log or values.empty:
        return None
    settled = values[values["step"] >= SETTLED * values["step"].max()]
    low, high = float(settled["low"].min()), float(values["high"].max())
    if not low < high or low <= float(values["low"].min()):
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin
