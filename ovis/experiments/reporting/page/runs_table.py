"""The tables of a page: all runs with their numbers, and other tables of a report; and the page of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.aggregate import run_values
from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.run_folders import Skipped
from ovis.experiments.reporting.data.select import AVERAGED
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.series import value_text
from ovis.experiments.reporting.figures.style import estimator_labels, style_order
from ovis.experiments.reporting.metrics import Pivot
from ovis.experiments.reporting.page.content import Column, Page, Problem, Table
from ovis.experiments.reporting.page.provenance import experiment_description, read_provenance
from ovis.experiments.reporting.verdict import ClaimVerdict

__all__ = ["experiment_page", "list_problems", "plain_table", "run_table"]

#: Settings that always have a column, and their headings.
ALWAYS = {"estimator": "estimator", "iw": "K", "seed": "seed"}

HEADINGS = {**ALWAYS, "dataset": "data", "alpha": "α", "id": "label"}

#: A column with more values than this has no filter; use the text box instead.
CHOICES = 15


def experiment_page(
    experiment: ExperimentData,
    folder: Path,
    pivots: Sequence[Pivot],
    figures: Sequence[ReportFigure],
    verdicts: Sequence[ClaimVerdict] = (),
    notes: Sequence[str] = (),
    command: str = "",
) -> Page:
    """The page of an experiment of training runs.

    Args:
        experiment: what is shown of it.
        folder: where its runs are.
        pivots: columns of the table of runs.
        figures: on disk.
        verdicts: see :func:`ovis.paper.claims.paper_verdicts.training_verdicts`.
        notes: remarks for readers.
        command: that makes this report.
    """
    failed = experiment.runs[experiment.runs["state"] == "failed"]
    problems = [Problem(row["run"], row["state"], row["message"]) for row in failed.to_dict("records")]
    return Page(
        title=experiment.name,
        description=experiment_description(folder),
        states=experiment.states,
        read=len(experiment.runs),
        problems=(*problems, *list_problems(experiment.skipped)),
        notes=tuple(notes),
        figures=tuple(figures),
        verdicts=tuple(verdicts),
        tables=(run_table(experiment, pivots),),
        provenance=read_provenance(folder, set(experiment.runs["run"])),
        command=command,
    )


def list_problems(skipped: Sequence[Skipped]) -> tuple[Problem, ...]:
    """Folders and queued runs that are not shown, those with an error first."""
    waiting = ("queued", "running", "unfinished", "aborted", "cancelled")
    order = sorted(skipped, key=lambda item: item.state in waiting)
    return tuple(Problem(item.name, item.state, item.reason) for item in order)


def run_table(experiment: ExperimentData, pivots: Sequence[Pivot]) -> Table:
    """One row per run: its settings, its state and its numbers.

    Args:
        experiment: what was read.
        pivots: one column each.
    """
    runs = experiment.runs
    settings = [name for name in (*ALWAYS, *experiment.varying) if name in runs and name not in AVERAGED - {"seed"}]
    settings = list(dict.fromkeys(settings))
    rows = runs[[*settings, "state", "evaluations", "run"]].copy()
    columns = [_setting_column(name, rows) for name in settings]
    columns += [Column("state", "state", choices=rows["state"].nunique() > 1), Column("evaluations", "evaluations")]
    for pivot in pivots:
        values = run_values(experiment, pivot)
        # As objects: a run without this metric is not one that diverged.
        rows[pivot.name] = pd.Series([values.get(run) for run in rows["run"]], index=rows.index, dtype=object)
        columns.append(Column(pivot.name, _pivot_heading(pivot), pivot.metric.kind.digits))
    columns.append(Column("run", "folder"))
    by = [name for name in ("dataset", "estimator", "iw", "seed") if name in rows]
    rows = rows.sort_values(by, key=_sorted_as_in_legends, kind="stable")
    if "estimator" in rows:
        rows["estimator"] = estimator_labels(rows["estimator"])
    caption = "One row per run, also of those that are not done: their numbers are those so far."
    return Table("Runs", caption, tuple(columns), rows.reset_index(drop=True), "runs")


def _pivot_heading(pivot: Pivot) -> str:
    if pivot.metric.name == "time":
        return "time [s]"
    unit = pivot.metric.kind.unit
    return f"{pivot.phrase} [{unit}]" if unit else pivot.phrase


def _setting_column(name: str, rows: pd.DataFrame) -> Column:
    count = rows[name].nunique(dropna=False)
    return Column(name, HEADINGS.get(name, name), choices=1 < count <= CHOICES)


def _sorted_as_in_legends(column: pd.Series[Any]) -> pd.Series[Any]:
    if column.name != "estimator":
        return column
    order = {name: index for index, name in enumerate(sorted(column.astype(str).unique(), key=style_order))}
    return column.astype(str).map(order)


def plain_table(
    title: str,
    caption: str,
    table: pd.DataFrame,
    digits: str = ".4g",
    things: str = "rows",
    words: Mapping[str, str] | None = None,
) -> Table:
    """A table of a report: numbers in one format, and a filter for each column with few distinct texts.

    A column with the same value in all rows is mentioned once, in the caption.

    Args:
        title: of its section.
        caption: what a row is.
        table: the rows; estimators are written as in the legends.
        digits: format of numbers that are not whole.
        things: what its rows are called.
        words: column -> its heading, where it is not the name itself.
    """
    heads = {str(name): {**HEADINGS, **(words or {})}.get(str(name), str(name).replace("_", " ")) for name in table}
    rows = table.copy()
    if "estimator" in rows:
        rows["estimator"] = estimator_labels(rows["estimator"])
    constant = [str(name) for name in rows if len(rows) > 1 and rows[name].nunique(dropna=False) == 1]
    columns = []
    for name in (str(name) for name in rows if name not in constant):
        measured = pd.api.types.is_float_dtype(rows[name])
        few = name in ALWAYS or not pd.api.types.is_numeric_dtype(rows[name])
        choices = few and 1 < rows[name].nunique(dropna=False) <= CHOICES
        columns.append(Column(name, heads[name], digits if measured else "", choices))
        if measured:  # in such a table NaN means that there is no value
            rows[name] = rows[name].astype(object).where(np.isfinite(table[name]) | np.isinf(table[name]), None)
    values = {heads[name]: value_text(rows[name].iloc[0]) for name in constant}
    same = [f"{heading} {value}" for heading, value in values.items() if value not in ("", "?")]
    return Table(title, f"{caption} In all rows: {', '.join(same)}." if same else caption, tuple(columns), rows, things)
