"""The report on costs: a figure of memory and time against K for each device, and one page for all devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovis.experiments.reporting.figures.legend import add_grouped_legend
from ovis.experiments.reporting.figures.panels import join_notes, new_figure
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.series import Series, estimator_families
from ovis.experiments.reporting.figures.style import estimator_labels, house_style
from ovis.experiments.reporting.figures.ticks import label_counts, label_decades
from ovis.experiments.reporting.page.content import Page, Provenance, Table
from ovis.experiments.reporting.page.provenance import list_environment, list_settings
from ovis.experiments.reporting.page.runs_table import plain_table
from ovis.experiments.reporting.tables import csv_text
from ovis.experiments.reporting.verdict import ClaimVerdict
from ovis.experiments.runs.atomic import write_text
from ovis.paper.claims.paper_verdicts import cost_verdicts
from ovis.paper.efficiency.cost_tables import MEASURES, RECORDED, cost_table, cost_text, limit_text, repetitions_text

__all__ = ["Part", "draw_costs", "draw_part", "efficiency_page"]


@dataclass(frozen=True)
class Part:
    """The results of one device.

    Attributes:
        device: in words, ``cpu: ...``.
        name: of its files.
        text: its table.
        limits: from which K on an estimator was too much for it; may be empty.
        drawn: its figure.
        verdicts: on the paper's claims.
        table: its costs.
    """

    device: str
    name: str
    text: str
    limits: str
    drawn: ReportFigure
    verdicts: list[ClaimVerdict]
    table: Table


def draw_part(points: pd.DataFrame, device: str, folder: Path) -> Part:
    """Compute and save the results of one device: ``efficiency_cpu.csv``, ``.txt``, ``.png``, ``.pdf``.

    Args:
        points: see :func:`ovis.paper.efficiency.cost_tables.read_points`.
        device: whose; it has points.
        folder: of the report; it is there.
    """
    kind = device.partition(":")[0]
    costs, limits, name = cost_table(points, device), limit_text(points, device), f"efficiency_{kind}"
    text = cost_text(costs, device) + (f"\n{limits}\n" if limits else "")
    write_text(folder / f"{name}.csv", csv_text(costs), durable=False)
    write_text(folder / f"{name}.txt", text, durable=False)
    labels = ", ".join(estimator_labels(costs["estimator"].unique()))
    counts = ", ".join(map(str, sorted(costs["iw"].unique())))
    alt = (
        f"Peak memory of a step and time of an epoch against K = {counts} on logarithmic axes, "
        f"{repetitions_text(costs)} on {device}; one line for each of {labels}."
    )
    figure = draw_costs(costs, join_notes(device, limits))
    drawn = ReportFigure(name, f"Memory and time, {kind}", alt, figure)
    drawn.save(folder)
    table = plain_table(f"Costs, {kind}", f"One row per measure, estimator and K, on {device}.", costs)
    return Part(device, name, text, limits, drawn, cost_verdicts(costs, kind), table)


def efficiency_page(
    points: pd.DataFrame, parts: Sequence[Part], settings: Sequence[Mapping[str, Any]], command: str
) -> Page:
    """The page of all devices.

    Args:
        points: see :func:`ovis.paper.efficiency.cost_tables.read_points`.
        parts: the results of each device.
        settings: the options of each training that was timed.
        command: that makes this report.
    """
    shown = points[points["device"].isin([part.device for part in parts]) & (points["state"] == "ok")]
    recorded = shown[["device", *RECORDED]].to_dict("records")
    known = [{str(name): value for name, value in row.items() if isinstance(value, str)} for row in recorded]
    rows = dict.fromkeys(
        f"{row['data']}, {row['steps']:,} steps" for row in shown[["data", "steps"]].to_dict("records")
    )
    return Page(
        "efficiency",
        f"Memory and time of a training step against K, on {' and '.join(part.device for part in parts)}.",
        notes=tuple(f"{part.device}: {part.limits}" for part in parts if part.limits),
        figures=tuple(part.drawn for part in parts),
        verdicts=tuple(verdict for part in parts for verdict in part.verdicts),
        tables=tuple(part.table for part in parts),
        provenance=Provenance(list_settings(settings), (*list_environment(known), ("measured on", "; ".join(rows)))),
        command=command,
    )


#: Inches of one panel.
PANEL = (3.5, 2.8)

#: Marker sizes of the first and the last estimator; they differ so that markers of equal costs remain visible.
SIZES = (9.5, 3.5)


def draw_costs(costs: pd.DataFrame, caption: str = "") -> Figure:
    """Draw both measures against K.

    Args:
        costs: see :func:`ovis.paper.efficiency.cost_tables.cost_table`.
        caption: a line over the legend; how many repetitions there are, what the bands are, and which estimators train
            another model, is added.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    starred = set(costs.loc[costs["model"] != "sbm", "estimator"])
    families = [
        [_add_star(item) if item.keys["estimator"] in starred else item for item in family]
        for family in estimator_families(costs)
    ]
    notes = join_notes(
        caption,
        repetitions_text(costs),
        "band: ± 0.5 std over repetitions" if costs["low"].notna().any() else "",
        "* on a Gaussian VAE of the same size" if starred else "",
    )
    with house_style():
        width, height = PANEL
        figure = new_figure(len(MEASURES) * width, height)
        for axis, (measure, (title, unit)) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
            _draw_panel(axis, costs[costs["measure"] == measure], list(chain(*families)))
            axis.set_ylabel(f"{title.lower()} [{unit}]")
        add_grouped_legend(figure, families, notes)
    return figure


def _add_star(item: Series) -> Series:
    """The series with a star after its label."""
    return replace(item, look=replace(item.look, label=f"{item.look.label} *"))


def _draw_panel(axis: Axes, costs: pd.DataFrame, series: Sequence[Series]) -> None:
    label_counts(axis, sorted(costs["iw"].unique()))
    axis.set_yscale("log")
    for index, item in enumerate(series):
        look = item.look
        rows = costs[(costs["estimator"] == item.keys["estimator"]) & (costs["mean"] > 0)]
        size = SIZES[0] + (SIZES[1] - SIZES[0]) * index / max(len(series) - 1, 1)
        front = 2 + index / len(series)  # the last, smallest one lies on top
        axis.plot(rows["iw"], rows["mean"], label=look.label, zorder=front, **{**look.line, "markersize": size})
        if rows["low"].notna().any():
            # Below zero there is no logarithm: such a band ends where its own mean is ten times less.
            low = rows["low"].clip(lower=rows["mean"] / 10)
            axis.fill_between(rows["iw"], low, rows["high"], color=look.color, alpha=0.2, linewidth=0, zorder=1.5)
    axis.set_xlabel("K")
    label_decades(axis)
