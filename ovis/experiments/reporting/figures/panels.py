"""Parts shared by the figures of a report: lines with bands in a panel, limits of axes, and notes on cut lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from ovis.experiments.reporting.figures.series import Series
from ovis.experiments.reporting.figures.ticks import label_decades
from ovis.experiments.reporting.metrics import Metric

__all__ = [
    "NARROWEST",
    "AxisLimits",
    "count_columns",
    "cut_text",
    "draw_lines",
    "draw_row",
    "join_notes",
    "label_steps",
    "new_figure",
    "unseen_text",
    "use_scale",
    "values_of",
]

#: Largest number of panels side by side, if they are all for one data set.
ROW = 4

#: Smallest width of a figure in inches: the legend needs this width beside a single panel too.
NARROWEST = 3.6

#: Approximate number of markers on a line with many points.
MARKS = 6

#: Fraction of the training after which all values of a bound lie within the axis.
SETTLED = 0.2

#: Largest number of cut curves that the caption names.
NAMED = 2

AxisLimits = Mapping[str, tuple[float, float]]


def new_figure(width: float, height: float, w_pad: float = 0.08, h_pad: float = 0.05) -> Figure:
    """An empty figure that is not registered with pyplot; panels do not overlap labels or the legend.

    Args:
        width, height: in inches; a narrower figure is widened to :data:`NARROWEST`.
        w_pad, h_pad: inches around each panel.
    """
    engine = ConstrainedLayoutEngine(w_pad=w_pad, h_pad=h_pad)
    figure = Figure(figsize=(max(width, NARROWEST), height), layout=engine)
    FigureCanvasAgg(figure)
    return figure


def count_columns(panels: int) -> int:
    """Number of columns of a grid of panels for one data set: as few rows as possible, filled evenly."""
    return math.ceil(panels / math.ceil(panels / ROW))


def values_of(table: pd.DataFrame, key: str) -> list[str]:
    """The values of a key that get a row or a column each; one empty text if there is only one value."""
    names = list(map(str, table[key].unique())) if key in table else []
    return names if len(names) > 1 else [""]


def use_scale(axis: Axes, table: pd.DataFrame, metric: Metric) -> None:
    """Make the axis logarithmic if the metric is drawn so and has positive values."""
    if metric.kind.log and (table["mean"] > 0).any():
        axis.set_yscale("log")


def draw_lines(
    axis: Axes, table: pd.DataFrame, keys: Sequence[str], series: Sequence[Series], x: str, marks: int = MARKS
) -> None:
    """All lines of one panel with their bands; the first series lie on top.

    Args:
        axis: the panel.
        table: columns ``*keys, x, mean, low, high``; low and high are NaN where there is no band.
        keys: settings that distinguish the series.
        series: what to draw; one without rows is left out.
        x: the column of the horizontal axis.
        marks: markers on a line of many points, about.
    """
    for index, item in enumerate(series):
        rows = _rows_of(table, keys, item).sort_values(x)
        if rows.empty:
            continue
        axis.plot(
            rows[x],
            rows["mean"],
            label=item.look.label,
            zorder=3 - index / len(series),
            markevery=_marked(rows["mean"].to_numpy(np.float64), index, marks),
            **item.look.line,
        )
        if rows["low"].notna().any():
            axis.fill_between(
                rows[x], rows["low"], rows["high"], color=item.look.color, alpha=0.2, linewidth=0, zorder=1
            )


def draw_row(
    axes: Sequence[Axes],
    parts: Sequence[pd.DataFrame],
    keys: Sequence[str],
    series: Sequence[Series],
    metric: Metric,
    limits: AxisLimits,
    marks: int = MARKS,
) -> set[str]:
    """Curves of one metric in panels that share their vertical axis, its scale and limits.

    Args:
        axes: the panels.
        parts: the rows of a table of curves that each of them shows.
        keys, series, marks: see :func:`draw_lines`.
        metric: that is drawn.
        limits: that were asked for, by metric.

    Returns:
        the labels of the lines that the limits cut.
    """
    table = pd.concat(parts)
    use_scale(axes[0], table, metric)
    for axis, part in zip(axes, parts, strict=True):
        draw_lines(axis, part, keys, series, "step", marks)
    held = fitting_limits(table, metric, limits) or settled_limits(table, metric)
    if held:
        axes[0].set_ylim(*held)
    if axes[0].get_yscale() == "log":
        label_decades(axes[0])
    return {label for axis in axes for label in cut_lines(axis)} if held else set()


def _marked(values: NDArray[np.float64], offset: int, marks: int) -> list[int]:
    """The points of a line that have markers: the last one, and a few at other steps than those of other lines."""
    every = max(1, round(len(values) / marks))
    drawn = np.flatnonzero(np.isfinite(values))
    return sorted({*range(offset % every, len(values), every), *drawn[-1:].tolist()})


def _rows_of(table: pd.DataFrame, keys: Sequence[str], item: Series) -> pd.DataFrame:
    """The rows of one series; NaN, a setting that some runs do not have, equals itself."""
    mask = np.ones(len(table), dtype=bool)
    for key in keys:
        value = item.keys[key]
        mask &= (table[key].isna() if pd.isna(value) else table[key] == value).to_numpy(bool)
    return table.loc[mask]


def label_steps(axis: Axes) -> None:
    """Ticks of a horizontal axis of training steps: 0, 50k, 100k."""
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def join_notes(*notes: str) -> str:
    """The notes of a caption in one line, without those that are empty."""
    return "; ".join(note for note in notes if note)


def cut_lines(axis: Axes) -> set[str]:
    """The labels of the lines with points outside the axis."""
    low, high = axis.get_ylim()
    values = {str(line.get_label()): np.asarray(line.get_ydata(), np.float64) for line in axis.lines}
    return {label for label, y in values.items() if ((y < low) | (y > high)).any()}


def cut_text(cut: Iterable[str], series: Sequence[Series]) -> str:
    """A note on the lines that the axis cuts: they do not start where they enter the panel."""
    missing = set(cut)
    names = [item.look.label for item in series if item.look.label in missing]
    if not names:
        return ""
    return "y axis cut: " + (", ".join(names) if len(names) <= NAMED else f"{len(names)} of {len(series)} curves")


def unseen_text(axes: Iterable[Axes], series: Sequence[Series]) -> str:
    """A note on series that no panel shows, and on those with zeros on a logarithmic axis."""
    drawn = [(axis, line) for axis in axes for line in axis.lines]
    values = {(axis, str(line.get_label())): np.asarray(line.get_ydata(), np.float64) for axis, line in drawn}
    seen = {label for (_, label), y in values.items() if np.isfinite(y).any()}
    zero = {label for (axis, label), y in values.items() if axis.get_yscale() == "log" and (y <= 0).any()}
    labels = [item.look.label for item in series]
    noted = {
        "no finite value": [label for label in labels if label not in seen],
        "zero is not on a logarithmic axis": [label for label in labels if label in zero],
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in noted.items() if names)


def fitting_limits(table: pd.DataFrame, metric: Metric, limits: AxisLimits) -> tuple[float, float] | None:
    """The requested limits, if they contain any value: limits for one data set may leave the panel of another empty."""
    if metric.name not in limits:
        return None
    low, high = limits[metric.name]
    return (low, high) if table["mean"].between(low, high).any() else None


def settled_limits(table: pd.DataFrame, metric: Metric) -> tuple[float, float] | None:
    """Limits that leave out the steep beginning of a bound, which would hide the differences between estimators.

    Every line is whole from :data:`SETTLED` of the training on; lines enter from below. None: nothing to leave out.
    """
    values = table.assign(low=table["low"].fillna(table["mean"]), high=table["high"].fillna(table["mean"]))
    values = values.loc[np.isfinite(values[["low", "high"]].to_numpy()).all(axis=1)]
    if metric.kind.sign != 1 or metric.kind.unit != "nats" or values.empty:
        return None
    settled = values[values["step"] >= SETTLED * values["step"].max()]
    low, high = float(settled["low"].min()), float(values["high"].max())
    if not low < high or low <= float(values["low"].min()):
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin
