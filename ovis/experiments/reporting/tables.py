"""The pivot table in three formats: text for the terminal, LaTeX for a paper, wide CSV for a spreadsheet.

:func:`csv_text` writes every CSV file of the reports.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from ovis.experiments.reporting.figures.series import value_text
from ovis.experiments.reporting.figures.style import estimator_labels
from ovis.experiments.reporting.metrics import Evaluated, parse_pivot

__all__ = ["ABSENT", "csv_text", "latex_table", "number_text", "text_table", "wide_table"]

#: The text of a cell without a value.
ABSENT = "-"

GAP = "  "

#: Beginnings of formulas in spreadsheets.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

HEADINGS = {"iw": "K", "alpha": "α", "dataset": "data", "warmup": "α warm-up"}


@dataclass(frozen=True)
class _Entry:
    """A mean, its standard error and a note on the seeds; each part of a column is aligned on its own."""

    mean: str
    error: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Column:
    """A column of a text or LaTeX table: the metric's name over its heading, empty for settings and seeds."""

    top: str
    heading: str
    entries: list[_Entry]
    left: bool = False


def number_text(value: float, digits: str = ".2f", absent: str = ABSENT) -> str:
    """A number in a format; ``absent`` where it is NaN."""
    return absent if math.isnan(value) else format(value, digits)


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV. Text that a spreadsheet would execute as a formula gets an apostrophe in front of it.

    A formula begins with =, +, - or @, or with a tab or a line break before it.
    """
    texts = {str(name): column.map(_as_text) for name, column in table.select_dtypes(exclude="number").items()}
    return table.assign(**texts).rename(columns=_as_text).to_csv(index=False)


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def wide_table(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row per group; per pivot its mean, ``... se`` its standard error, ``... n`` its seeds; then runs and done."""
    parts = [rows.reset_index(drop=True) for _, rows in table.groupby("pivot", sort=False)]
    measured = [
        part[["mean", "se", "seeds"]].set_axis([name, f"{name} se", f"{name} n"], axis=1)
        for part, name in zip(parts, table["pivot"].unique(), strict=True)
    ]
    return pd.concat([parts[0][list(keys)], *measured, parts[0][["runs", "done"]]], axis=1)


def text_table(
    table: pd.DataFrame, keys: Sequence[str], float_format: str = "", evaluated: Evaluated | None = None
) -> str:
    """Mean ± standard error over seeds, in aligned columns under two lines of headings.

    Args:
        table: a pivot table.
        keys: settings that distinguish its rows.
        float_format: of all numbers, e.g. ``.2f``; empty: each metric has its own.
        evaluated: how the metrics were evaluated, for the headings.
    """
    top, blocks = [], []
    for text, members in groupby(_columns(table, keys, float_format, evaluated), key=lambda column: column.top):
        block = [_aligned([column.heading, *_lines(column)], column.left) for column in members]
        width = len(GAP.join(cells[0] for cells in block))
        if len(text) > width:
            block[0] = [cell.rjust(len(cell) + len(text) - width) for cell in block[0]]
        width = max(width, len(text))
        top.append(text.center(width) if len(block) > 1 else text.rjust(width))
        blocks += block
    head, *body = [GAP.join(cells) for cells in zip(*blocks, strict=True)]
    return "\n".join(line.rstrip() for line in (GAP.join(top), head, "-" * len(head), *body)) + "\n"


def latex_table(
    table: pd.DataFrame, keys: Sequence[str], float_format: str = "", evaluated: Evaluated | None = None
) -> str:
    """The same as a LaTeX tabular (package booktabs)."""
    columns = list(_columns(table, keys, float_format, evaluated))
    heads = []
    for top, members in groupby(columns, key=lambda column: column.top):
        block = list(members)
        # The Styler spans and centers a name over several columns; over one it would be aligned as its numbers.
        name = _latex(top) if len(block) > 1 or not top else rf"\multicolumn{{1}}{{c}}{{{_latex(top)}}}"
        heads += [(name, _latex(column.heading)) for column in block]
    body = pd.DataFrame([[_latex_entry(entry, bool(column.top)) for entry in column.entries] for column in columns]).T
    body.columns = pd.MultiIndex.from_tuples(heads)
    alignment = "".join("l" if column.left else "r" for column in columns)
    return str(body.style.hide(axis="index").to_latex(hrules=True, column_format=alignment, multicol_align="c"))


def _columns(
    table: pd.DataFrame, keys: Sequence[str], float_format: str, evaluated: Evaluated | None
) -> Iterator[_Column]:
    """The columns: the keys, every pivot, and the number of seeds of each row."""
    first = table[table["pivot"] == table["pivot"].iloc[0]]
    for key in keys:
        texts = first[key].map(value_text).tolist()
        if key == "estimator":
            texts = estimator_labels(texts)
        yield _Column("", HEADINGS.get(key, key), [_Entry(text) for text in texts], left=True)
    for name, rows in table.groupby("pivot", sort=False):
        pivot = parse_pivot(str(name), evaluated)
        digits = float_format or pivot.metric.kind.digits
        values = zip(rows["mean"], rows["se"], rows["seeds"], rows["of"], strict=True)
        yield _Column(pivot.metric.text, pivot.heading, [_entry(digits, *row) for row in values])
    counts = zip(first["of"], first["runs"], first["done"], strict=True)
    yield _Column("", "seeds", [_Entry(_seeds(*row)) for row in counts])


def _entry(digits: str, mean: float, se: float, seeds: int, of: int) -> _Entry:
    if seeds == 0:
        return _Entry(ABSENT)
    error = "" if math.isnan(se) else format(se, digits)
    return _Entry(format(mean, digits), error, f" (n={seeds})" if seeds != of else "")


def _seeds(seeds: int, runs: int, done: int) -> str:
    """The number of seeds of a row; also that of runs if several share a seed, and of finished runs if not all are."""
    noted = [f"{runs} runs"] * (runs != seeds) + [f"{done} done"] * (done != runs)
    return f"{seeds} ({', '.join(noted)})" if noted else f"{seeds}"


def _lines(column: _Column) -> list[str]:
    """The cells with their means and errors aligned."""
    means = _aligned([entry.mean for entry in column.entries], column.left)
    errors = _aligned([f" ± {entry.error}" if entry.error else "" for entry in column.entries], left=True)
    notes = _aligned([entry.note for entry in column.entries], left=True)
    return ["".join(parts) for parts in zip(means, errors, notes, strict=True)]


def _aligned(cells: Sequence[str], left: bool = False) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"$\sim$", "||": r"$\,\|\,$"},
    **{"γ": r"$\gamma$", "α": r"$\alpha$", "±": r"$\pm$"},
}
SPECIAL = re.compile("|".join(map(re.escape, LATEX)))


def _latex_entry(entry: _Entry, measured: bool) -> str:
    if not measured or entry.mean == ABSENT:
        return _latex(entry.mean)
    error = rf" \pm {entry.error}" if entry.error else ""
    return f"${entry.mean}{error}${entry.note}"


def _latex(text: str) -> str:
    """Plain text for LaTeX: special characters escaped, Greek letters and the bound's symbol in mathematics."""
    escaped = SPECIAL.sub(lambda match: LATEX[match[0]], text)
    return re.sub(r"\bbound L\\_(\w+)", r"bound $L_{\1}$", escaped)
