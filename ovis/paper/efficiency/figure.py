"""The picture of what a training step costs: peak memory and time of an epoch against K, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ovis.experiments.reporting.figures.legend import add_grouped_legend
from ovis.experiments.reporting.figures.style import Look, estimator_looks, house_style, style_group, style_order
from ovis.experiments.reporting.figures.ticks import label_decades
from ovis.paper.efficiency.points import MEASURES
from ovis.paper.efficiency.tables import repetitions_text

__all__ = ["draw_costs"]

#: Inches of one panel.
PANEL = (3.5, 2.8)

#: Marker sizes of the first estimator and the last: where several cost the same, all of them can be seen.
SIZES = (9.5, 3.5)


def draw_costs(costs: pd.DataFrame, caption: str = "") -> Figure:
    """Draw both measures against K.

    Args:
        costs: see :func:`ovis.paper.efficiency.points.cost_table`.
        caption: a line over the legend; how many repetitions there are, what the bands are, and which estimators train
            another model, is added.

    Returns:
        a figure of no backend's global state; nothing is saved.
    """
    names = sorted(costs["estimator"].unique(), key=style_order)
    apart = set(costs.loc[costs["model"] != "sbm", "estimator"])
    looks = {
        name: replace(look, label=f"{look.label} *") if name in apart else look
        for name, look in estimator_looks(names).items()
    }
    noted = [
        caption,
        repetitions_text(costs),
        "band: ± 0.5 std over repetitions" if costs["low"].notna().any() else "",
        "* on a Gaussian VAE of the same size" if apart else "",
    ]
    with house_style():
        width, height = PANEL
        figure = Figure(figsize=(len(MEASURES) * width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05))
        FigureCanvasAgg(figure)
        for axis, (measure, (title, unit)) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
            _draw_panel(axis, costs[costs["measure"] == measure], looks)
            axis.set_ylabel(f"{title.lower()} [{unit}]")
        groups = [[looks[name] for name in members] for _, members in groupby(looks, key=style_group)]
        add_grouped_legend(figure, groups, "; ".join(text for text in noted if text))
    return figure


def _draw_panel(axis: Axes, costs: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    for place, (name, look) in enumerate(looks.items()):
        rows = costs[(costs["estimator"] == name) & (costs["mean"] > 0)]
        size = SIZES[0] + (SIZES[1] - SIZES[0]) * place / max(len(looks) - 1, 1)
        front = 2 + place / len(looks)  # the last, smallest one lies on top
        axis.plot(rows["iw"], rows["mean"], label=look.label, zorder=front, **{**look.line, "markersize": size})
        if rows["low"].notna().any():
            # Below zero there is no logarithm: such a band ends where its own mean is ten times less.
            low = rows["low"].clip(lower=rows["mean"] / 10)
            axis.fill_between(rows["iw"], low, rows["high"], color=look.color, alpha=0.2, linewidth=0, zorder=1.5)
    axis.xaxis.set_major_locator(FixedLocator(_ticks(sorted(costs["iw"].unique()))))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
    axis.set_xlabel("K")
    label_decades(axis)


def _ticks(iw: list[int]) -> list[int]:
    """Labels at measured K only, at every other one where they are many; the largest is one of them."""
    return iw[::-1][:: 1 if len(iw) < 7 else 2][::-1]
