"""Tables of the asymptotic study: slopes, and the comparison with the paper, as Markdown and for the page."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from ovis.estimators.ids import parse_estimator
from ovis.experiments.reporting.figures.style import estimator_labels, style_order
from ovis.experiments.reporting.page.content import Table
from ovis.experiments.reporting.page.runs_table import plain_table
from ovis.experiments.reporting.tables import ABSENT, number_text
from ovis.paper.figure1.asymptotic_statistics import SHOWN, fit_slope
from ovis.paper.published.published_numbers import read_published

__all__ = [
    "FAR",
    "HEADINGS",
    "SOURCES",
    "add_references",
    "comparison_table",
    "comparison_text",
    "page_tables",
    "slope_text",
    "theory_slope",
]

#: Source of published values -> its title, and its file in the authors' repository.
SOURCES = {
    "figure1": ("Figure 1", ".assets/ovis-image.png"),
    "extended": ("extended figure", ".assets/asymptotic-gradients-extended.png"),
    "mini": ("mini figure", ".assets/asymptotic-gradients.png"),
}

#: Settings of the toy model in all of these figures; others are not compared.
PUBLISHED_TOY = {"D": 20, "epsilon": 0.01, "q_scale": "std", "key_filter": "b"}

#: Estimators whose published values are wrong, and why.
FLAWED = dict.fromkeys(("stl", "dreg"), "the original rebuilds q without its scale: log q with std 1 in place of 2/3")

#: Exponents of K, as K grows, of the SNR, the variance and |E g| (alpha = 0), by id or family. Unbiased estimators of
#: grad L_K have |E g| ~ 1/K; the others follow another gradient, which does not vanish.
SLOPES = {
    "ovis-gamma0": (0.5, -3.0, -1.0),
    "ovis-gamma": (0.5, -1.0, 0.0),
    "ovis-S": (0.5, -3.0, -1.0),
    "vimco-arithmetic": (-0.5, -1.0, -1.0),
    "vimco-geometric": (-0.5, -1.0, -1.0),
    "reinforce": (-1.5, 1.0, -1.0),
    "pathwise-iwae": (-0.5, -1.0, -1.0),
    "stl": (0.5, -1.0, 0.0),
    "dreg": (0.5, -3.0, -1.0),
    "wake-wake": (0.5, -1.0, 0.0),
    "pathwise-vae": (0.5, -1.0, 0.0),
    "tvo": (0.5, -1.0, 0.0),
}

HEADINGS = {"snr": "SNR", "dsnr": "DSNR", "variance": "Variance", "magnitude": "Magnitude |E g|"}

#: Relative differences from published values above this one are marked.
FAR = 0.1


def comparison_table(statistics: pd.DataFrame) -> pd.DataFrame:
    """Our statistics next to the published ones: one row per published value of the same toy model.

    Args:
        statistics: see :func:`ovis.paper.figure1.asymptotic_statistics.statistics_table`.

    Returns:
        columns ``toy, source, statistic, estimator, iw, draws, ours, ours_se, published, accuracy`` (relative error of
        the reading), ``difference`` (ours / published - 1), ``note``.
    """
    same = statistics
    for name, value in PUBLISHED_TOY.items():
        same = same[same[name] == value]
    long = [
        same[["toy", "npoints", "estimator", "iw", "draws"]].assign(
            statistic=name, ours=same[name], ours_se=same[f"{name}_se"]
        )
        for name in SHOWN
    ]
    table = read_published("figure1").merge(pd.concat(long), on=["npoints", "estimator", "iw", "statistic"])
    table["difference"] = table["ours"] / table["published"] - 1
    table["note"] = table["estimator"].map(FLAWED).fillna("")
    order = {name: i for i, name in enumerate([*SOURCES, *SHOWN, *sorted(set(table["estimator"]), key=style_order)])}
    table = table.sort_values(
        ["toy", "source", "statistic", "estimator", "iw"], key=lambda column: column.map(lambda x: order.get(x, x))
    )
    columns = ["toy", "source", "statistic", "estimator", "iw", "draws"]
    return table.reset_index(drop=True)[[*columns, "ours", "ours_se", "published", "accuracy", "difference", "note"]]


def add_references(slopes: pd.DataFrame, comparison: pd.DataFrame) -> pd.DataFrame:
    """Add the theoretical slopes and those of the authors' points.

    The authors' slopes are fitted as ours are, at the K that ours are fitted at, where they show all of these.

    Args:
        slopes: see :func:`ovis.paper.figure1.asymptotic_statistics.slope_table`.
        comparison: of the same experiment.

    Returns:
        the same rows; besides, ``theory`` and a column for each source.
    """
    table = slopes.copy()
    pairs = list(zip(table["estimator"], table["statistic"], strict=True))
    table["theory"] = [theory_slope(estimator, statistic) for estimator, statistic in pairs]
    known = {
        key: dict(zip(rows["iw"], rows["published"], strict=True))
        for key, rows in comparison.groupby(["toy", "estimator", "statistic", "source"])
    }
    for source in SOURCES:
        keys = zip(table["toy"], table["estimator"], table["statistic"], [source] * len(table), strict=True)
        table[source] = [
            _published_slope(known.get(key, {}), str(fitted)) for key, fitted in zip(keys, table["fitted"], strict=True)
        ]
    return table


def _published_slope(values: Mapping[int, float], fitted: str) -> float:
    iw = [int(word) for word in fitted.split()]
    if len(iw) < 2 or not all(k in values for k in iw):
        return math.nan
    return float(fit_slope(iw, np.array([[values[k]] for k in iw]))[0])


def theory_slope(estimator: str, statistic: str) -> float:
    """The exponent of K as K grows, by the paper's theory; NaN where there is none.

    The DSNR goes as the SNR, while it is not as small as noise makes it.
    """
    try:
        known = parse_estimator(estimator)
    except ValueError:  # of another version
        return math.nan
    slopes = SLOPES.get(known.canonical, SLOPES.get(known.family))
    column = {"snr": 0, "dsnr": 0, "variance": 1, "magnitude": 2}[statistic]
    return slopes[column] if slopes else math.nan


def slope_text(slopes: pd.DataFrame) -> str:
    """Markdown: a table per toy and statistic, one row per estimator; ``slopes`` with references."""
    sources = [name for name in SOURCES if slopes[name].notna().any()]
    heads = ["", "slope", "last two", "theory", *(SOURCES[name][0] for name in sources), "fitted at K ="]
    parts = []
    for statistic, toy in ((name, toy) for name in SHOWN for toy in slopes["toy"].unique()):
        rows = slopes[(slopes["statistic"] == statistic) & (slopes["toy"] == toy)]
        cells = [
            [
                label,
                _slope(row["slope"], row["slope_se"]),
                _slope(row["last"], row["last_se"]),
                number_text(row["theory"], "+.1f"),
                *(number_text(row[name], "+.2f") for name in sources),
                row["fitted"].replace(" ", ", ") or "noise only",
            ]
            for label, row in zip(estimator_labels(rows["estimator"]), rows.to_dict("records"), strict=True)
        ]
        parts.append(f"**{HEADINGS[statistic]}**, {toy}\n\n{_markdown(heads, cells)}")
    note = (
        "Slopes of log statistic over log K by least squares, ± the standard error by the draws (jackknife); of the "
        "authors' figures, by the same fit to their points. Points that are noise (a ratio less than twice that of a "
        "gradient of mean zero) are left out. Theory is for K to infinity."
    )
    return "\n".join([*parts, note, ""])


def comparison_text(comparison: pd.DataFrame) -> str:
    """Markdown: a table per toy, statistic and source: ours ± its standard error, the published value, difference."""
    parts = []
    for (toy, statistic, source), rows in comparison.groupby(["toy", "statistic", "source"], sort=False):
        iw = sorted(rows["iw"].unique())
        labels = estimator_labels(rows["estimator"].unique())
        cells = []
        for label, (estimator, of) in zip(labels, rows.groupby("estimator", sort=False), strict=True):
            by_iw = {row["iw"]: row for row in of.to_dict("records")}
            flaw = " (!)" if estimator in FLAWED else ""
            cells.append([label + flaw, *(_compared(by_iw[k]) if k in by_iw else ABSENT for k in iw)])
        title = f"**{HEADINGS[str(statistic)]}**, {SOURCES[str(source)][0]} ({SOURCES[str(source)][1]}), {toy}"
        parts.append(f"{title}\n\n{_markdown(['', *(f'K = {k}' for k in iw)], cells)}")
    note = (
        f"Ours ± standard error (jackknife over draws) / published / difference; ** marks more than {FAR:.0%}. The "
        "published values are read off figures, to 2 % to 5 %."
    )
    flawed = [name for name in FLAWED if (comparison["estimator"] == name).any()]
    notes = [note, *([f"(!) wrong in the original: {FLAWED[flawed[0]]}."] if flawed else [])]
    return "\n".join([*parts, *notes, ""])


def _compared(row: Mapping[Hashable, float]) -> str:
    difference = f"{row['difference']:+.1%}"
    marked = f"**{difference}**" if abs(row["difference"]) > FAR else difference
    return f"{with_error(row['ours'], row['ours_se'])} / {row['published']:.4g} / {marked}"


def with_error(value: float, error: float) -> str:
    """``0.0946 ± 0.0067``, ``(5.93 ± 0.70)e-07``: with two significant digits of the error."""
    if not math.isfinite(value) or not math.isfinite(error) or error <= 0 or value == 0:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(abs(value)))
    plain = -2 <= exponent <= 3
    scale = 1.0 if plain else 10.0**exponent
    digits = max(0, 1 - math.floor(math.log10(error / scale)))
    text = f"{value / scale:.{digits}f} ± {error / scale:.{digits}f}"
    return text if plain else f"({text})e{exponent:+03d}"


def _slope(value: float, error: float) -> str:
    if math.isnan(value):
        return ABSENT
    digits = 3 if not 0 < error < 1 else min(1 - math.floor(math.log10(error)), 4)
    return f"{value:+.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are also aligned as plain text."""
    widths = [max(len(cells[i]) for cells in (heads, *rows)) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join([":" + "-" * (widths[0] + 1), *("-" * (w + 1) + ":" for w in widths[1:])])
    return "\n".join([line(heads), f"|{rule}|", *map(line, rows), ""])


#: Headings of the columns.
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
    """Statistics, slopes with references, and our values next to the published ones; empty tables are left out."""
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
