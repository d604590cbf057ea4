"""Figure 3 with its caption: for its own door, and for the report of the experiment that it is of."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.select import how_evaluated
from ovis.experiments.reporting.figures.report_figures import seeds_text
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.series import make_series
from ovis.experiments.reporting.metrics import Metric, make_metric
from ovis.paper.figure3.curves import PANELS, curve_table, select_panel, smoothing_text
from ovis.paper.figure3.figure import draw_figure3

__all__ = ["DATASET", "METRIC", "figure3_picture", "figure3_pictures"]

#: What the paper shows.
DATASET, METRIC = "binmnist", "train:loss/L_k"


def figure3_pictures(experiment: ExperimentData) -> Iterator[ReportFigure]:
    """The panels of Figure 3 of which an experiment has runs."""
    for figure in PANELS:
        panel = select_panel(experiment, figure, DATASET)
        curves = curve_table(panel, METRIC)
        if len(curves):
            yield figure3_picture(panel, curves, figure, DATASET, METRIC)


def figure3_picture(
    experiment: ExperimentData,
    curves: pd.DataFrame,
    figure: str,
    dataset: str,
    metric: str,
    limits: tuple[float, float] | None = None,
) -> ReportFigure:
    """Draw one panel.

    Args:
        experiment: the panel's runs, of :func:`ovis.paper.figure3.curves.select_panel`.
        curves: their curves, of :func:`ovis.paper.figure3.curves.curve_table`.
        figure: ``left`` or ``right``.
        dataset: of the runs.
        metric: that is drawn.
        limits: of the vertical axis; None: the paper's where most curves end there.
    """
    known = make_metric(metric, how_evaluated(experiment))
    names = [series.look.label for series in make_series(curves[["estimator"]].drop_duplicates())]
    counts = ", ".join(map(str, sorted(curves["iw"].unique())))
    alt = (
        f"{known.text} of {dataset} against training steps, smoothed; one line for each of "
        f"{', '.join(names)} at each of K = {counts}."
    )
    drawn = draw_figure3(curves, _ylabel(known), _caption(curves, figure, dataset), limits)
    return ReportFigure(f"figure3_{figure}", f"Figure 3, {figure}", alt, drawn)


def _ylabel(metric: Metric) -> str:
    """``log p-hat(x), train``, as the paper writes it; another metric has its own label."""
    if not metric.name.endswith(":loss/L_k"):
        return metric.label
    bound = "" if metric.particles is None else f" ($L_{{{metric.particles}}}$)"
    return rf"$\log\,\hat{{p}}(x)$, {metric.split}{bound} [nats]"


def _caption(curves: pd.DataFrame, figure: str, dataset: str) -> str:
    """What the runs train on, and what a line is."""
    return f"{dataset}, {PANELS[figure].about}\n{seeds_text(curves['seeds'], 'none')}; {smoothing_text(curves)}"
