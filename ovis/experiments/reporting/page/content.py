"""The content of a report's page as data: the report commands fill it, ``render.py`` turns it into HTML."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.series import value_text
from ovis.experiments.reporting.verdict import ClaimVerdict

__all__ = ["ABSENT", "Column", "Page", "Problem", "Provenance", "Setting", "Table", "TableCell"]

#: The text of an empty cell.
ABSENT = "–"

#: States of runs with an error.
TROUBLE = ("failed", "unreadable", "foreign")

#: Largest number of values of a setting that are listed.
LISTED = 12


@dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted.

    Attributes:
        name: in the table's rows.
        heading: as it is shown.
        digits: format of its numbers; empty: as they are (settings, counts).
        choices: offer its values as a filter.
    """

    name: str
    heading: str
    digits: str = ""
    choices: bool = False


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and filtered.

    Attributes:
        title: of its section.
        caption: what a row is, and what its numbers are.
        columns: in order; the first one names the row.
        rows: one row each; None is shown as missing, NaN as what it is.
        things: what its rows are called.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: pd.DataFrame
    things: str = "rows"

    def cells(self) -> list[list[TableCell]]:
        """The cells of each row."""
        columns = [[make_cell(value, column) for value in self.rows[column.name].tolist()] for column in self.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def choices(self, column: Column) -> list[str]:
        """The distinct texts of a column; numbers are sorted."""
        values = self.rows[column.name]
        if pd.api.types.is_numeric_dtype(values):
            values = values.sort_values()
        return list(dict.fromkeys(value_text(value) or ABSENT for value in values.tolist() if value is not None))


@dataclass(frozen=True)
class TableCell:
    """A cell as it is shown, and the number that it is sorted by.

    Attributes:
        text: as it is shown.
        value: a number in full, empty where there is none; None: the cell is sorted by its text.
    """

    text: str
    value: str | None = None

    @property
    def number(self) -> bool:
        return bool(self.value)


def make_cell(value: object, column: Column) -> TableCell:
    """A value of a table's row in the format of its column; None is missing, NaN is a number."""
    if value is None:
        return TableCell(ABSENT, "")
    text = value_text(value) or ABSENT  # an empty setting is shown as such
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return TableCell(text)
    return TableCell(format(float(value), column.digits) if column.digits else text, repr(float(value)))


@dataclass(frozen=True)
class Problem:
    """A run that is not in the figures: it failed, could not be read, or has nothing to show yet."""

    name: str
    state: str
    message: str

    @property
    def trouble(self) -> bool:
        """Whether there was an error; otherwise the run has not come so far yet."""
        return self.state in TROUBLE


@dataclass(frozen=True)
class Setting:
    """An option of the runs.

    Attributes:
        name: of the option.
        values: as text, those of all runs, in order; one where the runs agree.
        default: as text; empty: not an option of today's code.
    """

    name: str
    values: tuple[str, ...]
    default: str

    @property
    def shared(self) -> bool:
        """Whether all runs agree."""
        return len(self.values) == 1

    @property
    def usual(self) -> bool:
        """Whether all runs have the default."""
        return self.values == (self.default,)

    @property
    def text(self) -> str:
        """The values as text, at most :data:`LISTED` of them."""
        listed = ", ".join(value or ABSENT for value in self.values[:LISTED])
        return f"{listed} and {len(self.values) - LISTED} more" if len(self.values) > LISTED else listed


@dataclass(frozen=True)
class Provenance:
    """The settings of the runs, and the environment in which they were executed.

    Attributes:
        settings: of all runs.
        environment: label and value, e.g. the commit, versions, the machine.
    """

    settings: tuple[Setting, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything that a report's page shows; what is empty is left out.

    Attributes:
        title: of the experiment.
        description: of the experiment file.
        states: how many runs there are in each state.
        read: how many of them have something to show.
        problems: runs that failed, could not be read or show nothing.
        notes: what a reader of the figures should know, a sentence each.
        figures: in order; their PNGs are in the report's folder.
        verdicts: on the paper's claims.
        tables: in order.
        provenance: what was run, and where.
        command: that makes the report.
    """

    title: str
    description: str = ""
    states: Mapping[str, int] = field(default_factory=dict)
    read: int = 0
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[ReportFigure, ...] = ()
    verdicts: tuple[ClaimVerdict, ...] = ()
    tables: tuple[Table, ...] = ()
    provenance: Provenance = Provenance()
    command: str = ""
