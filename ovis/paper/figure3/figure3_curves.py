"""Figure 3: the runs of the left and the right panel, and their curves, smoothed and averaged over seeds.

Lievin, Dittadi, Christensen, Winther, NeurIPS 2020, arXiv 2008.01998, Figure 3: a sigmoid belief network on binarized
MNIST, log p(x) of the training data against the training step. Tables in, tables out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.select import select_runs

__all__ = ["KEYS", "PANELS", "WINDOW", "Panel", "curve_table", "hann_smooth", "select_panel", "smoothing_text"]

#: Width of the smoothing window, in evaluations.
WINDOW = 15

#: Settings that distinguish curves.
KEYS = ["estimator", "iw"]


@dataclass(frozen=True)
class Panel:
    """One half of Figure 3.

    Attributes:
        include: the words of ``report.py --include`` that choose the same runs.
        about: what these runs train on.
    """

    include: tuple[str, ...]
    about: str


PANELS = {
    "left": Panel(("iwbound",), "importance-weighted bound (α = 0)"),
    "right": Panel(("iwrbound", "tvo"), "Rényi bound, α to 0 over the warm-up; TVO"),
}


def select_panel(experiment: ExperimentData, figure: str, dataset: str) -> ExperimentData:
    """The runs of one panel; the others are neither counted nor listed.

    Args:
        experiment: all runs.
        figure: ``left`` or ``right``.
        dataset: of which the panel is.
    """
    chosen = select_runs(experiment, PANELS[figure].include)
    rows = chosen.runs
    runs = rows[rows["dataset"] == dataset].reset_index(drop=True) if "dataset" in rows else rows[:0]
    curves = chosen.curves[chosen.curves["run"].isin(runs["run"])].reset_index(drop=True)
    skipped = tuple(item for item in chosen.skipped if item.state == "foreign" or f"{dataset}-" in item.name)
    return dataclasses.replace(chosen, runs=runs, curves=curves, skipped=skipped)


def curve_table(experiment: ExperimentData, metric: str) -> pd.DataFrame:
    """Mean over seeds of one metric at every step, as measured and smoothed.

    Each run is smoothed on its own, so that a seed that has not come as far as the others makes no ramp of its end.

    Returns:
        columns ``estimator, iw, step, mean, smoothed, seeds`` (with a value there), in order of these.
    """
    curves = experiment.curves[experiment.curves["metric"] == metric]
    rows = curves.assign(run=curves["run"].astype(str))
    if rows.empty or not set(KEYS) <= set(experiment.runs.columns):
        return pd.DataFrame(columns=[*KEYS, "step", "mean", "smoothed", "seeds"])
    smoothed = pd.Series(np.nan, index=rows.index)
    for _, run in rows.groupby("run", sort=False):
        smoothed[run.index] = hann_smooth(run["step"].to_numpy(np.float64), run["value"].to_numpy(np.float64))
    runs = experiment.runs[["run", *KEYS]].dropna()
    runs = runs.join(experiment.runs["seed"] if "seed" in experiment.runs else runs["run"].rename("seed"))
    rows = rows.assign(smoothed=smoothed).merge(runs, on="run")
    # Runs of one seed are no repetitions, so they are averaged first; the command prints a note on them.
    seeds = rows.groupby([*KEYS, "step", "seed"], dropna=False)[["value", "smoothed"]].mean().reset_index()
    table = seeds.groupby([*KEYS, "step"], sort=True).agg(
        mean=("value", "mean"), smoothed=("smoothed", "mean"), seeds=("value", "count")
    )
    return table[table["seeds"] > 0].reset_index().astype({"iw": int})


def hann_smooth(steps: NDArray[np.float64], values: NDArray[np.float64], window: int = WINDOW) -> NDArray[np.float64]:
    """A moving mean with the weights of a Hann window, w_j = (1 + cos(pi j / h)) / 2 for j = -h..h.

    Towards the ends, where the window is one-sided, a mean would be too low at the end of a rising curve. So the value
    is that of the line that fits the weighted points best: the mean itself in the middle, and a straight line stays as
    it is everywhere.

    Args:
        steps: shape [n], rising.
        values: shape [n]; a NaN makes a NaN of every window that it is in.
        window: 2 h + 1, odd; the longest odd number up to n where there are fewer values.

    Returns:
        shape [n].
    """
    h = min(window // 2, (len(values) - 1) // 2)
    weights = np.hanning(2 * h + 1)
    smoothed = np.empty(len(values))
    for i in range(len(values)):
        first, end = max(i - h, 0), min(i + h + 1, len(values))
        w = weights[h + first - i : h + end - i] / weights[h + first - i : h + end - i].sum()
        x, y = steps[first:end] - steps[i], values[first:end]
        spread = w @ (x - w @ x) ** 2
        slope = w @ ((x - w @ x) * y) / spread if spread > 0 else 0.0
        smoothed[i] = w @ y - slope * (w @ x)
    return smoothed


def smoothing_text(table: pd.DataFrame) -> str:
    """How a table of curves was smoothed, for a caption."""
    evaluations = int(table.groupby(KEYS).size().max())
    widest = 2 * min(WINDOW // 2, (evaluations - 1) // 2) + 1
    if widest < 5:  # of three evaluations the outer two have the weight 0
        return "not smoothed"
    return f"smoothed with a Hann window of {widest} evaluations"
