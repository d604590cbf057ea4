"""Draws Figure 3: one panel, colours for estimators, dashes and markers for K, the legend to the right."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.select import how_evaluated
from ovis.experiments.reporting.figures.panels import new_figure
from ovis.experiments.reporting.figures.report_figures import seeds_text
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.series import NEUTRAL
from ovis.experiments.reporting.figures.style import (
    DASHDOT,
    DASHDOTDOT,
    DASHED,
    DOTTED,
    LONG,
    SOLID,
    Dash,
    Look,
    estimator_labels,
    estimator_looks,
    figure_text,
    house_style,
    style_order,
)
from ovis.experiments.reporting.metrics import Metric, make_metric
from ovis.paper.figure3.figure3_curves import KEYS, PANELS, curve_table, select_panel, smoothing_text

__all__ = [
    "DATASET",
    "METRIC",
    "PAPER_LIMITS",
    "draw_figure3",
    "panel_figure",
    "panel_figures",
    "panel_limits",
    "particle_styles",
]

#: Inches, the legend included.
SIZE = (6.6, 3.9)

#: The vertical axis of the paper, nats.
PAPER_LIMITS = (-92.5, -86.2)

#: Number of letters in a line of the caption above the panel.
LETTERS = 70

#: K -> dashes and marker, as in the paper; other K get those of ``OTHERS`` in turn.
PARTICLES: dict[int, tuple[Dash, str]] = {5: (DOTTED, "x"), 10: (DASHED, "^"), 50: (SOLID, "o")}
OTHERS: tuple[tuple[Dash, str], ...] = ((DASHDOT, "s"), (DASHDOTDOT, "D"), (LONG, "v"), (DOTTED, "P"), (DASHED, "*"))

#: Markers on a line, at equal distances.
MARKS = 6

#: Smallest length of a line in the legend, in letters.
SHORTEST = 3.4

#: Fraction of the training after which all lines lie within the axis, unless its limits are the paper's.
SETTLED = 0.2

#: Blocks of the legend by the beginning of an id; all other estimators are baselines.
BLOCKS = {"ovis-S": "OVIS-MC", "ovis-gamma": "OVIS~"}
BASELINE, COUNTS = "Baseline", "Particles"


def draw_figure3(
    table: pd.DataFrame, ylabel: str, caption: str = "", limits: tuple[float, float] | None = None
) -> Figure:
    """Draw one panel of Figure 3.

    Lines and markers of OVIS-MC are thin and hollow, so that the blocks of the legend differ in grey print too.

    Args:
        table: see :func:`ovis.paper.figure3.figure3_curves.curve_table`.
        ylabel: of the vertical axis.
        caption: text above the panel; a note on curves below the axis is added.
        limits: of the vertical axis; None: the paper's where they fit, otherwise the data's.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    looks = estimator_looks(sorted(table["estimator"].unique(), key=style_order))
    styles = particle_styles(table["iw"])
    limits = limits or panel_limits(table)
    with house_style():
        figure = new_figure(*SIZE, h_pad=0.06)
        axis = figure.add_subplot()
        last = int(table["step"].max())
        for _, rows in table.groupby(KEYS):
            estimator, iw = str(rows["estimator"].iloc[0]), int(rows["iw"].iloc[0])
            index = list(looks).index(estimator)
            steps = rows["step"].to_numpy(np.float64)
            axis.plot(
                steps,
                rows["smoothed"],
                label=f"{looks[estimator].label}, K={iw}",
                markevery=_marked(steps, last, index / len(looks)),
                zorder=3 - index / len(looks),
                **_line(estimator, looks[estimator].color, *styles[iw]),
            )
        _scale(axis, last, limits)
        axis.set_ylabel(ylabel)
        below = _below(axis)
        noted = f"below the axis: {', '.join(below)}" if below else ""
        lines = [line for text in (*caption.splitlines(), noted) for line in textwrap.wrap(text, LETTERS)]
        axis.set_title(figure_text("\n".join(lines)), fontsize=8.0, loc="left")
        _add_legend(figure, looks, styles)
    return figure


def particle_styles(iw: Iterable[int]) -> dict[int, tuple[Dash, str]]:
    """K -> dashes and marker, for the K of a figure, the smallest first."""
    counts = sorted({int(k) for k in iw})
    free = [k for k in counts if k not in PARTICLES]
    return {k: PARTICLES.get(k) or OTHERS[free.index(k) % len(OTHERS)] for k in counts}


def panel_limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of the vertical axis: the paper's if more than half of the curves end within them, or those of the data.

    The data's leave out the first steep climb, beside which no difference between estimators shows.
    """
    final = table.groupby(KEYS)["smoothed"].last()
    if final.between(*PAPER_LIMITS).mean() > 0.5:
        return PAPER_LIMITS
    values = table.loc[np.isfinite(table["smoothed"])]
    settled = values.loc[values["step"] >= SETTLED * values["step"].max(), "smoothed"]
    if settled.empty:
        return PAPER_LIMITS
    low, high = np.floor(settled.min()) - 1.0, np.ceil(settled.max() + 0.05)  # no marker lies on the lower edge
    return float(low), float(high)


def _step_text(step: float, _: object = None) -> str:
    """``0e+00``, ``1e+06``, ``2.5e+05``: with as few digits as possible."""
    return next(
        (text for text in (f"{step:.{d}e}" for d in range(4)) if math.isclose(float(text), step)), f"{step:.4e}"
    )


def _scale(axis: Axes, last: int, limits: tuple[float, float]) -> None:
    axis.set_xlim(0, 1.01 * last)
    axis.set_ylim(*limits)
    axis.set_xlabel("training steps")
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(_step_text))
    # A label in the corner would run into that of step 0.
    axis.yaxis.set_major_locator(MaxNLocator(8, integer=True, prune="lower"))


def _line(estimator: str, color: str, dash: Dash, marker: str) -> dict[str, Any]:
    """Keyword arguments of a line: thin and hollow for OVIS-MC, thick and filled for the others."""
    hollow = _block(estimator) == BLOCKS["ovis-S"]
    return {
        "color": color,
        "linestyle": dash,
        "linewidth": 0.9 if hollow else 1.6,
        "marker": marker,
        "markersize": 5.0,
        "markerfacecolor": "white" if hollow else color,
        "markeredgecolor": color,
        "markeredgewidth": 0.9 if hollow else 1.6 if marker == "x" else 0.5,
    }


def _marked(steps: NDArray[np.float64], last: int, shift: float) -> list[int]:
    """The points with a marker, at nearly equal distances, shifted by the fraction ``shift`` of one distance."""
    wanted = last * (np.arange(1, MARKS + 1) - shift) / MARKS
    reached = wanted[wanted <= steps[-1]]
    return sorted({int(np.abs(steps - step).argmin()) for step in reached})


def _below(axis: Axes) -> list[str]:
    """The labels of the curves that lie entirely below the axis."""
    low = axis.get_ylim()[0]
    return [str(line.get_label()) for line in axis.lines if not (np.asarray(line.get_ydata(), np.float64) >= low).any()]


def _block(estimator: str) -> str:
    return next((title for start, title in BLOCKS.items() if estimator.startswith(start)), BASELINE)


def _handle_length(styles: Mapping[int, tuple[Dash, str]]) -> float:
    """The length of the legend's lines, in letters: two periods of the longest dashes, and the dash that ends them.

    So the gaps lie beside the marker in the middle; of a shorter line it would hide the only one.
    """
    width = float(_line("", NEUTRAL, SOLID, "o")["linewidth"])
    longest = max((2 * sum(dash) + dash[0] for (_, dash), _ in styles.values() if dash), default=0.0)
    return max(SHORTEST, width * longest / float(rcParams["legend.fontsize"]))


def _add_legend(figure: Figure, looks: Mapping[str, Look], styles: Mapping[int, tuple[Dash, str]]) -> None:
    """One legend beside the panel, blocks under headings: estimators by colour, K by dashes and marker."""
    blocks: dict[str, list[Line2D]] = {title: [] for title in (*BLOCKS.values(), BASELINE, COUNTS)}
    for name, look in looks.items():
        style = _line(name, look.color, SOLID, "o")
        blocks[_block(name)].append(Line2D([], [], label=figure_text(look.label), **style))
    for iw, (dash, marker) in styles.items():
        blocks[COUNTS].append(Line2D([], [], label=f"K = {iw}", **_line("", NEUTRAL, dash, marker)))
    handles = [
        handle
        for title, members in blocks.items()
        if members
        for handle in (Line2D([], [], linestyle="none", label=title), *members)
    ]
    legend = figure.legend(
        handles=handles, loc="outside right center", frameon=False, handlelength=_handle_length(styles)
    )
    for text in legend.get_texts():
        if text.get_text() in blocks:
            text.set_fontweight("bold")


#: The data set and the metric of the paper's figure.
DATASET, METRIC = "binmnist", "train:loss/L_k"


def panel_figures(experiment: ExperimentData) -> Iterator[ReportFigure]:
    """The panels of Figure 3 of which an experiment has runs."""
    for figure in PANELS:
        panel = select_panel(experiment, figure, DATASET)
        curves = curve_table(panel, METRIC)
        if len(curves):
            yield panel_figure(panel, curves, figure, DATASET, METRIC)


def panel_figure(
    experiment: ExperimentData,
    curves: pd.DataFrame,
    figure: str,
    dataset: str,
    metric: str,
    limits: tuple[float, float] | None = None,
) -> ReportFigure:
    """Draw one panel.

    Args:
        experiment: the panel's runs, of :func:`ovis.paper.figure3.figure3_curves.select_panel`.
        curves: their curves, of :func:`ovis.paper.figure3.figure3_curves.curve_table`.
        figure: ``left`` or ``right``.
        dataset: of the runs.
        metric: that is drawn.
        limits: of the vertical axis; None: the paper's where most curves end there.
    """
    known = make_metric(metric, how_evaluated(experiment))
    counts = ", ".join(map(str, sorted(curves["iw"].unique())))
    alt = (
        f"{known.text} of {dataset} against training steps, smoothed; one line for each of "
        f"{', '.join(estimator_labels(curves['estimator'].unique()))} at each of K = {counts}."
    )
    drawn = draw_figure3(curves, _ylabel(known), _caption(curves, figure, dataset), limits)
    return ReportFigure(f"figure3_{figure}", f"Figure 3, {figure}", alt, drawn)


def _ylabel(metric: Metric) -> str:
    """``log p-hat(x), train``, as the paper writes it; another metric has its own label."""
    if not metric.name.endswith(":loss/L_k"):
        return metric.label
    bound = "" if metric.particles is None else f" ($L_{{{metric.particles}}}$)"
    return rf"$\log\,\hat{{p}}(x)$, {figure_text(metric.split)}{bound} [nats]"


def _caption(curves: pd.DataFrame, figure: str, dataset: str) -> str:
    """The data set, the bound, the number of seeds, and the smoothing."""
    return f"{dataset}, {PANELS[figure].about}\n{seeds_text(curves['seeds'], 'none')}; {smoothing_text(curves)}"
