"""Figure 3 as numbers: our final values next to the published ones, and one published curve at earlier steps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.figures.style import estimator_labels, style_order
from ovis.experiments.reporting.tables import number_text
from ovis.paper.figure3.figure3_curves import KEYS
from ovis.paper.published.published_numbers import read_published

__all__ = ["FINAL_STEP", "SETTINGS", "final_table", "final_text", "step_table", "step_text", "unpublished_settings"]

#: Optimizer steps at the right edge of both panels.
FINAL_STEP = 4_000_000

#: Error of reading a value off the figure, in nats.
ACCURACY = 0.03

#: The paper's settings; runs with other settings are not comparable.
SETTINGS: Mapping[str, Hashable] = {
    "dataset": "binmnist",
    "model": "sbm",
    "N": 200,
    "depth": 3,
    "nlayers": 0,
    "optimizer": "adam",
    "lr": 3e-4,
    "bs": 24,
    "iw_test": 5000,
}

#: A run counts as complete from this share of the published steps on.
COMPLETE = 0.99


def final_table(curves: pd.DataFrame, experiment: ExperimentData, figure: str) -> pd.DataFrame:
    """The last value of each curve.

    Args:
        curves: see :func:`ovis.paper.figure3.figure3_curves.curve_table`.
        experiment: the runs that they are of.
        figure: ``left`` or ``right``.

    Returns:
        one row per estimator and K: ``estimator, iw, step`` (the last one), ``value`` (mean over the seeds that have
        come to it), ``seeds`` (how many), ``runs`` (how many there are), ``published`` (at 4,000,000 steps; NaN where
        there is none), ``difference`` (ours - published, NaN before that step). In nats.
    """
    last = curves.groupby(KEYS, sort=False).tail(1).rename(columns={"smoothed": "value"})
    table = last.merge(experiment.runs.groupby(KEYS).size().rename("runs").reset_index(), on=KEYS)
    published = _published(figure)
    table = table.merge(published[published["step"] == FINAL_STEP].drop(columns="step"), how="left", on=KEYS)
    complete = table["step"] >= COMPLETE * FINAL_STEP
    table["difference"] = (table["value"] - table["published"]).where(complete)
    table = table.sort_values(["iw", "estimator"], key=lambda column: column.map(_sort_key), kind="stable")
    columns = [*KEYS, "step", "value", "seeds", "runs", "published", "difference"]
    return table[columns].reset_index(drop=True)


def _sort_key(key: object) -> object:
    return style_order(key) if isinstance(key, str) else key


def step_table(curves: pd.DataFrame, figure: str) -> pd.DataFrame:
    """The published curves at steps before the last.

    Returns:
        columns ``estimator, iw, step, published, ours`` (between our two nearest evaluations; NaN where we have not
        come so far), ``seeds``, ``difference`` (ours - published). In nats.
    """
    rows = []
    published = _published(figure)
    for row in published[published["step"] < FINAL_STEP].to_dict("records"):
        curve = curves[(curves["estimator"] == row["estimator"]) & (curves["iw"] == row["iw"])]
        value, seeds = _value_at(curve, row["step"])
        rows.append({**row, "ours": value, "seeds": seeds, "difference": value - row["published"]})
    return pd.DataFrame(rows, columns=[*KEYS, "step", "published", "ours", "seeds", "difference"])


def _published(figure: str) -> pd.DataFrame:
    """Columns ``estimator, iw, step, published`` of one panel."""
    rows = read_published("figure3")
    return rows[rows["panel"] == figure].drop(columns="panel")


def _value_at(curve: pd.DataFrame, step: int) -> tuple[float, int]:
    """The smoothed value at a step, and its number of seeds."""
    steps = curve["step"].to_numpy()
    if not len(steps) or not steps[0] <= step <= steps[-1]:
        return math.nan, 0
    after = int(np.searchsorted(steps, step))
    around = curve.iloc[max(after - 1, 0) : after + 1]
    return float(np.interp(step, around["step"], around["smoothed"])), int(around["seeds"].min())


def unpublished_settings(experiment: ExperimentData) -> dict[str, str]:
    """Settings in which our runs differ from the paper's, and their values; such runs can't be compared with it."""
    columns = {name: experiment.runs[name] for name in SETTINGS if name in experiment.runs}
    differing = {name: column[column != SETTINGS[name]].unique() for name, column in columns.items()}
    return {name: ", ".join(map(str, values)) for name, values in differing.items() if len(values)}


def final_text(table: pd.DataFrame) -> str:
    """The final values as a text table."""
    seeds = [f"{n} of {total}" for n, total in zip(table["seeds"], table["runs"], strict=True)]
    note = (
        f"Nats; seeds: of how many runs the last value is the mean.\n"
        f"Paper: at {FINAL_STEP:,} steps, read off Figure 3 to ± {ACCURACY}; no difference before that step."
    )
    return f"{_comparison(table, [f'{value:.2f}' for value in table['value']], seeds)}\n{note}\n"


def step_text(table: pd.DataFrame) -> str:
    """The published curves at earlier steps as a text table; empty where none is published."""
    if table.empty:
        return ""
    values = [number_text(value, absent="not yet") for value in table["ours"]]
    head = "On the way, step for step (between our nearest evaluations):"
    return f"{head}\n{_comparison(table, values, table['seeds'])}\n"


def _comparison(table: pd.DataFrame, values: Sequence[str], seeds: Sequence[object] | pd.Series[int]) -> str:
    """One row for each of our values, next to the published one."""
    columns = {
        "": estimator_labels(table["estimator"]),
        "K": table["iw"],
        "step": [f"{step:,}" for step in table["step"]],
        "ours": values,
        "seeds": seeds,
        "paper": [number_text(value) for value in table["published"]],
        "ours - paper": [number_text(value, "+.2f") for value in table["difference"]],
    }
    return pd.DataFrame(columns).to_string(index=False)
