"""The report on costs, device by device: its files, and one page of all devices that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.style import estimator_looks
from ovis.experiments.reporting.page.content import Page, Provenance, Table
from ovis.experiments.reporting.page.provenance import list_environment, list_settings
from ovis.experiments.reporting.page.runs_table import plain_table
from ovis.experiments.reporting.verdict import ClaimVerdict
from ovis.experiments.runs.atomic import write_text
from ovis.paper.claims.paper_verdicts import cost_verdicts
from ovis.paper.efficiency.figure import draw_costs
from ovis.paper.efficiency.points import RECORDED, cost_table
from ovis.paper.efficiency.tables import cost_text, limit_text, repetitions_text

__all__ = ["Part", "draw_part", "efficiency_page"]


@dataclass(frozen=True)
class Part:
    """What one device has to say.

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
    """Compute and save what there is of one device: ``efficiency_cpu.csv``, ``.txt``, ``.png``, ``.pdf``.

    Args:
        points: see :func:`ovis.paper.efficiency.points.read_points`.
        device: whose; it has points.
        folder: of the report; it is there.
    """
    kind = device.partition(":")[0]
    costs, limits, name = cost_table(points, device), limit_text(points, device), f"efficiency_{kind}"
    text = cost_text(costs, device) + (f"\n{limits}\n" if limits else "")
    write_text(folder / f"{name}.csv", costs.to_csv(index=False), durable=False)
    write_text(folder / f"{name}.txt", text, durable=False)
    labels = ", ".join(look.label for look in estimator_looks(dict.fromkeys(costs["estimator"])).values())
    counts = ", ".join(map(str, sorted(costs["iw"].unique())))
    alt = (
        f"Peak memory of a step and time of an epoch against K = {counts} on logarithmic axes, "
        f"{repetitions_text(costs)} on {device}; one line for each of {labels}."
    )
    figure = draw_costs(costs, "; ".join(part for part in (device, limits) if part))
    drawn = ReportFigure(name, f"Memory and time, {kind}", alt, figure)
    drawn.save(folder)
    table = plain_table(f"Costs, {kind}", f"One row per measure, estimator and K, on {device}.", costs)
    return Part(device, name, text, limits, drawn, cost_verdicts(costs, kind), table)


def efficiency_page(
    points: pd.DataFrame, parts: Sequence[Part], settings: Sequence[Mapping[str, Any]], command: str
) -> Page:
    """The page of all devices.

    Args:
        points: see :func:`ovis.paper.efficiency.points.read_points`.
        parts: what each device has to say.
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
