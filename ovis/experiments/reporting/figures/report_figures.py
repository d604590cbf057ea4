"""The figures of a report, with their captions and alternative texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

import pandas as pd

from ovis.experiments.reporting.data.aggregate import BANDS
from ovis.experiments.reporting.data.results import Results
from ovis.experiments.reporting.figures.curves import draw_curves, draw_detailed
from ovis.experiments.reporting.figures.panels import join_notes, values_of
from ovis.experiments.reporting.figures.pivots import draw_pivots
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.series import LONGEST_LEGEND, dataset_title, make_series
from ovis.experiments.reporting.figures.style import is_budgeted
from ovis.experiments.reporting.metrics import Pivot

__all__ = ["draw_report", "seeds_text"]


def draw_report(results: Results, band: str = "std") -> Iterator[ReportFigure]:
    """Draw everything, one figure after the other: pivots where two K were run, curves, detailed plots if any.

    Args:
        results: the tables.
        band: of the curves, as it was computed.
    """
    if "iw" in results.spec.keys and results.pivot["iw"].nunique() > 1 and results.spec.drawn:
        yield _pivots(results)
    yield from _curves(results, band)
    if len(results.detailed):
        yield from _detailed(results)


def _pivots(results: Results) -> ReportFigure:
    spec = results.spec
    table = results.pivot[results.pivot["pivot"].isin([pivot.name for pivot in spec.drawn])]
    caption = join_notes(seeds_text(table["seeds"], "std"), _unfinished(results.pivot))
    budgeted = "estimator" in table and is_budgeted(map(str, table["estimator"].unique()))
    particles = "budget of particles K'" if budgeted else "number of particles K"
    figure = draw_pivots(table, spec.keys, caption, spec.evaluated)
    counts = sorted(table["iw"].unique())
    alt = (
        f"{_listed([pivot.phrase for pivot in spec.drawn])}, each in a panel of its own, against the "
        f"{particles} = {_listed(counts)}; one line for each of {_listed(_names(table, spec.keys))}. "
        f"{_leaders(table, spec.keys, spec.drawn[0])}"
    )
    return ReportFigure("pivots", "By number of particles", alt.strip(), figure)


def _curves(results: Results, band: str) -> Iterator[ReportFigure]:
    """One figure or, if its panels would have too many lines, one for each data set with a row for each K."""
    spec, table = results.spec, results.curves
    about = seeds_text(table["seeds"], band), _unfinished(results.pivot)
    lines = table[[key for key in spec.keys if key != "dataset"]].drop_duplicates()
    several = "iw" in table and table["iw"].nunique() > 1
    if len(lines) <= LONGEST_LEGEND or not several:
        order = "" if several else f"ordered by {spec.pivots[0].phrase}"
        yield _curve_figure(results, table, "", join_notes(about[0], order, about[1]), "dataset")
        return
    caption = join_notes(*about)
    for name, part in _by_data_set(table):
        yield _curve_figure(results, part, name, caption, "iw")


def _curve_figure(results: Results, table: pd.DataFrame, dataset: str, caption: str, rows: str) -> ReportFigure:
    spec = results.spec
    figure = draw_curves(table, spec.keys, spec.limits, caption, spec.evaluated, rows)
    metrics = [metric.text for metric in spec.metrics if metric.name in set(table["metric"])]
    where = "in a row for each K" if rows == "iw" else "in a row for each data set" if _several(table) else ""
    alt = (
        f"Curves of {_listed(metrics)} against training steps{where and ', '}{where}; one line for each of "
        f"{_listed(_names(table, spec.keys))}."
    )
    part = dataset_title(dataset)
    return ReportFigure(_file_name("curves", dataset), f"Training curves{part and ', '}{part}", alt, figure)


def _detailed(results: Results) -> Iterator[ReportFigure]:
    spec = results.spec
    about = seeds_text(results.detailed["seeds"], "ci")
    if "band" in about and any(metric.kind.log for metric in spec.detailed):
        about += ", on logarithmic axes not below the smallest seed"
    caption = join_notes(about, _unfinished(results.pivot))
    for name, part in _by_data_set(results.detailed):
        figure = draw_detailed(part, spec.keys, spec.limits, caption, spec.evaluated)
        metrics = [metric.text for metric in spec.detailed if metric.name in set(part["metric"])]
        alt = (
            f"Curves of {_listed(metrics)}, a row for each, against training steps, a column for each K; one line for "
            f"each of {_listed(_names(part, spec.keys))}."
        )
        title = dataset_title(name)
        yield ReportFigure(_file_name("detailed", name), f"In detail{title and ', '}{title}", alt, figure)


def _file_name(kind: str, dataset: str) -> str:
    """Name of a figure's files; special characters of the data set, such as slashes, are percent-encoded."""
    return f"{kind}-{quote(dataset, safe='')}" if dataset else kind


def _by_data_set(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The parts of a table by data set; one part without a name if there is only one data set."""
    if not _several(table):
        return [("", table)]
    return [(name, table[table["dataset"].astype(str) == name]) for name in values_of(table, "dataset")]


def _several(table: pd.DataFrame) -> bool:
    return "dataset" in table and table["dataset"].nunique() > 1


def seeds_text(counts: pd.Series[int], band: str) -> str:
    """The number of seeds of a line, and the meaning of its band."""
    there = counts[counts > 0]
    low, high = (int(there.min()), int(there.max())) if len(there) else (0, 0)
    if high <= 1:
        return "one seed"
    seeds = f"{high}" if low == high else f"{low} to {high}"
    return f"mean over {seeds} seeds" + (f", band: {BANDS[band]}" if BANDS[band] else "")


def _unfinished(pivot: pd.DataFrame) -> str:
    """The number of finished runs if not all are: the curves of the others are shorter, their numbers preliminary."""
    groups = pivot[pivot["pivot"] == pivot["pivot"].iloc[0]]
    runs, done = int(groups["runs"].sum()), int(groups["done"].sum())
    return f"{done} of {runs} runs done" if done < runs else ""


def _names(table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    shown = [key for key in keys if key not in ("iw", "dataset")]
    return [item.look.label for item in make_series(table, shown)]


def _leaders(table: pd.DataFrame, keys: Sequence[str], pivot: Pivot) -> str:
    """The best series at the largest K in the first panel; empty if neither larger nor smaller is better."""
    if not pivot.metric.kind.sign:
        return ""
    rows = table[(table["pivot"] == pivot.name) & (table["iw"] == table["iw"].max())].dropna(subset=["mean"])
    shown = [key for key in keys if key not in ("iw", "dataset")]
    series = {tuple(map(str, item.keys.values())): item.look.label for item in make_series(table, shown)}
    leaders = []
    for name, part in _by_data_set(rows):
        best = part.sort_values("mean", ascending=pivot.metric.kind.sign < 0).iloc[0]
        where = f" ({dataset_title(name)})" if name else ""
        leaders.append(
            f"{series[tuple(map(str, best[shown]))]}, {format(best['mean'], pivot.metric.kind.digits)}{where}"
        )
    return (
        f"The best {pivot.phrase.removeprefix('best ')} at K = {table['iw'].max()}: {_listed(leaders)}."
        if leaders
        else ""
    )


def _listed(words: Sequence[object]) -> str:
    return ", ".join(map(str, words))
