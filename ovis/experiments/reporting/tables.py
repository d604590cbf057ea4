"""The pivot table as people read it: text for the terminal, LaTeX for a paper, wide CSV for a spreadsheet."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from ovis.experiments.reporting.figures.series import value_text
from ovis.experiments.reporting.figures.style import estimator_looks
from ovis.experiments.reporting.metrics import Evaluated, Pivot, parse_pivot

__all__ = ["latex_table", "text_table", "wide_table"]

#: What a cell says where no run has the metric.
ABSENT = "-"

GAP = "  "

HEADINGS = {"iw": "K", "alpha": "α", "dataset": "data", "warmup": "α warm-up"}


@dataclass(frozen=True)
class _Cell:
    """A mean, its standard error and a note on the seeds; each part of a column is aligned on its own."""

    mean: str
    error: str = ""
    note: str = ""


def wide_table(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row per group; per pivot its mean, ``... se`` its standard error, ``... n`` its seeds; then runs and done."""
    rows = []
    for group in _rows(table):
        row = {key: group[key].iloc[0] for key in keys}
        for item in group.to_dict("records"):
            name = str(item["pivot"])
            row |= {name: item["mean"], f"{name} se": item["se"], f"{name} n": item["seeds"]}
        rows.append({**row, "runs": group["runs"].iloc[0], "done": group["done"].iloc[0]})
    return pd.DataFrame(rows)


def text_table(
    table: pd.DataFrame, keys: Sequence[str], float_format: str = "", evaluated: Evaluated | None = None
) -> str:
    """Mean ± standard error over seeds, in aligned columns under two lines of headings.

    Args:
        table: a pivot table.
        keys: settings that tell its rows apart.
        float_format: of all numbers, e.g. ``.2f``; empty: each metric has its own.
        evaluated: how the metrics came about, for the headings.
    """
    pivots = _pivots(table, evaluated)
    names = _key_columns(table, keys)
    numbers = [[_cell(group.iloc[i], pivot, float_format) for group in _rows(table)] for i, pivot in enumerate(pivots)]
    columns = [
        *(_left([HEADINGS.get(key, key), *names[key]]) for key in keys),
        *(_right([pivot.heading, *_aligned(cells)]) for pivot, cells in zip(pivots, numbers, strict=True)),
        _right(["seeds", *map(_seeds, _rows(table))]),
    ]
    top, columns = _spanning_heads(columns, ["" for _ in keys], [pivot.metric.text for pivot in pivots])
    lines = [GAP.join(cells).rstrip() for cells in zip(*columns, strict=True)]
    rule = "-" * len(GAP.join(column[0] for column in columns))
    return "\n".join([top.rstrip(), lines[0], rule, *lines[1:]]) + "\n"


def latex_table(
    table: pd.DataFrame, keys: Sequence[str], float_format: str = "", evaluated: Evaluated | None = None
) -> str:
    """The same as a LaTeX tabular (package booktabs)."""
    pivots, names = _pivots(table, evaluated), _key_columns(table, keys)
    spans = [(text, len(list(members))) for text, members in groupby(pivot.metric.text for pivot in pivots)]
    top = [*("" for _ in keys), *(rf"\multicolumn{{{n}}}{{c}}{{{_latex(text)}}}" for text, n in spans), ""]
    head = [*(_latex(HEADINGS.get(key, key)) for key in keys), *(pivot.heading for pivot in pivots), "seeds"]
    body = []
    for i, group in enumerate(_rows(table)):
        cells = [_cell(group.iloc[j], pivot, float_format) for j, pivot in enumerate(pivots)]
        values = [_latex_cell(cell) for cell in cells]
        body.append([*(_latex(names[key][i]) for key in keys), *values, _latex(_seeds(group))])
    rows = [r" & ".join(cells) + r" \\" for cells in body]
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(keys)}{'r' * len(pivots)}r}}",
        r"\toprule",
        " & ".join(top) + r" \\",
        " & ".join(head) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _pivots(table: pd.DataFrame, evaluated: Evaluated | None) -> list[Pivot]:
    return [parse_pivot(str(name), evaluated) for name in table["pivot"].unique()]


def _rows(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each group: a pivot table has one per pivot, one group after the other."""
    height = table["pivot"].nunique()
    return [table.iloc[i : i + height] for i in range(0, len(table), height)]


def _key_columns(table: pd.DataFrame, keys: Sequence[str]) -> dict[str, list[str]]:
    """What the cells of the keys' columns say."""
    heads = [group.iloc[0] for group in _rows(table)]
    columns = {key: [value_text(head[key]) for head in heads] for key in keys}
    if "estimator" in columns:
        looks = estimator_looks(columns["estimator"])
        columns["estimator"] = [looks[name].label for name in columns["estimator"]]
    return columns


def _cell(row: pd.Series, pivot: Pivot, float_format: str) -> _Cell:
    digits = float_format or pivot.metric.kind.digits
    if row["seeds"] == 0:
        return _Cell(ABSENT)
    note = f" (n={row['seeds']})" if row["seeds"] != row["of"] else ""
    error = "" if math.isnan(row["se"]) else format(row["se"], digits)
    return _Cell(format(row["mean"], digits), error, note)


def _seeds(group: pd.DataFrame) -> str:
    """How many seeds are behind a row; how many runs, if several have one seed; how many are done, if not all."""
    seeds, runs, done = (int(group[name].iloc[0]) for name in ("of", "runs", "done"))
    noted = [f"{runs} runs"] * (runs != seeds) + [f"{done} done"] * (done != runs)
    return f"{seeds} ({', '.join(noted)})" if noted else f"{seeds}"


def _aligned(cells: Sequence[_Cell]) -> list[str]:
    """Means above means and errors above errors."""
    means = _right([cell.mean for cell in cells])
    errors = _left([f" ± {cell.error}" if cell.error else "" for cell in cells])
    notes = _left([cell.note for cell in cells])
    return ["".join(parts) for parts in zip(means, errors, notes, strict=True)]


def _left(cells: Sequence[str]) -> list[str]:
    return [cell.ljust(max(map(len, cells))) for cell in cells]


def _right(cells: Sequence[str]) -> list[str]:
    return [cell.rjust(max(map(len, cells))) for cell in cells]


def _spanning_heads(columns: list[list[str]], blanks: list[str], texts: Sequence[str]) -> tuple[str, list[list[str]]]:
    """The upper line of headings: a metric's name once, over all its columns; the last of these grows if it must."""
    columns = [list(column) for column in columns]
    parts = [" " * len(column[0]) for column in columns[: len(blanks)]]
    place = len(blanks)
    for text, members in groupby(texts):
        count = len(list(members))
        width = sum(len(column[0]) for column in columns[place : place + count]) + len(GAP) * (count - 1)
        if len(text) > width:
            grown = len(columns[place][0]) + len(text) - width
            columns[place] = [cell.rjust(grown) for cell in columns[place]]
        parts.append(text.center(width) if count > 1 else text.rjust(width))
        place += count
    return GAP.join(parts), columns


LATEX = {"γ": r"$\gamma$", "α": r"$\alpha$", "~": r"$\sim$", "||": r"$\,\|\,$", "±": r"$\pm$"}
ESCAPED = "&%$#_{}"


def _latex_cell(cell: _Cell) -> str:
    if cell.mean == ABSENT:
        return ABSENT
    error = rf" \pm {cell.error}" if cell.error else ""
    return f"${cell.mean}{error}${cell.note}"


def _latex(text: str) -> str:
    """Plain text for LaTeX: special characters escaped, Greek letters in mathematics."""
    text = "".join(f"\\{character}" if character in ESCAPED else character for character in text)
    for plain, command in LATEX.items():
        text = text.replace(plain, command)
    return re.sub(r"L\\_(\w+)", r"$L_{\1}$", text)
