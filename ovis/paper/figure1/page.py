"""The tables of the asymptotic study's page, in words for people."""

from __future__ import annotations

import pandas as pd

from ovis.experiments.reporting.page.content import Table
from ovis.experiments.reporting.page.runs_table import plain_table
from ovis.paper.figure1.tables import HEADINGS, SOURCES

__all__ = ["page_tables"]

#: What the columns are called.
WORDS = {
    **HEADINGS,
    **{f"{name}_se": f"± {heading}" for name, heading in HEADINGS.items()},
    **{f"noise_{name}": f"{heading} is noise" for name, heading in HEADINGS.items()},
    **{name: f"slope in {title}" for name, (title, _) in SOURCES.items()},
    "points": "points fitted",
    "fitted": "fitted at K =",
    "slope_se": "± slope, by the draws",
    "fit_se": "± slope, by the distance from a line",
    "last": "slope of the last two K",
    "last_se": "± slope of the last two K",
    "theory": "slope in theory",
    "ours_se": "± ours",
    "accuracy": "error of reading [%]",
    "difference": "difference [%]",
}

PERCENT = ("accuracy", "difference")


def page_tables(statistics: pd.DataFrame, slopes: pd.DataFrame, comparison: pd.DataFrame) -> tuple[Table, ...]:
    """Statistics, slopes with references, and our values beside the published ones; without those that are empty."""
    words = (
        ("Statistics", "One row per estimator and K; ± is a standard error by the draws.", "points", statistics),
        ("Slopes", "Of the logarithm of a statistic over log K, by least squares.", "slopes", slopes),
        ("Beside the paper", "One row per value that has been published of such a toy.", "values", comparison),
    )
    return tuple(
        plain_table(title, caption, _readable(table), things=things, words=WORDS)
        for title, caption, things, table in words
        if len(table)
    )


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Names of statistics and figures written out, relative numbers in percent."""
    shown = table.copy()
    for name in (name for name in PERCENT if name in shown):
        shown[name] = 100 * shown[name]
    if "statistic" in shown:
        shown["statistic"] = shown["statistic"].map(HEADINGS)
    if "source" in shown:
        shown["source"] = [SOURCES[name][0] for name in shown["source"]]
    return shown
