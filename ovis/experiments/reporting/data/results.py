"""All numbers of a report, computed before anything is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ovis.experiments.reporting.data.aggregate import curve_table, pivot_table, smooth_runs, thin_curves
from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.metrics import Metric
from ovis.experiments.reporting.report_spec import ReportSpec

__all__ = ["Results", "compute_results"]


@dataclass(frozen=True)
class Results:
    """The tables of a report.

    Attributes:
        spec: what is shown.
        pivot: see :func:`ovis.experiments.reporting.data.aggregate.pivot_table`.
        curves: see :func:`ovis.experiments.reporting.data.aggregate.curve_table`.
        detailed: the same, of the detailed plots; empty where there are none.
    """

    spec: ReportSpec
    pivot: pd.DataFrame
    curves: pd.DataFrame
    detailed: pd.DataFrame


def compute_results(
    experiment: ExperimentData, spec: ReportSpec, band: str = "std", ema: float = 0.0, points: int | None = None
) -> Results:
    """Average over seeds.

    Args:
        experiment: what was read.
        spec: what is shown.
        band: around the curves, a key of ``BANDS``; detailed plots have ``ci``.
        ema: weight of the past in :func:`smooth_runs`; pivots are not smoothed.
        points: of a curve, at most; None: all.
    """
    pivot = pivot_table(experiment, spec.keys, spec.pivots)

    def curves(metrics: Sequence[Metric], band: str) -> pd.DataFrame:
        names = [metric.name for metric in metrics]
        rows = experiment.curves[experiment.curves["metric"].isin(names)]
        rows = smooth_runs(rows, ema) if ema else rows
        table = curve_table(dataclasses.replace(experiment, curves=rows), spec.keys, metrics, band, pivot)
        return thin_curves(table, spec.keys, points) if points else table

    return Results(spec, pivot, curves(spec.metrics, band), curves(spec.detailed, "ci"))
