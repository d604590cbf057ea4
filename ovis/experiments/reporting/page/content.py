"""What a report's page shows, as data: the doors fill these records, ``page.py`` turns them into HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.verdict import ClaimVerdict

__all__ = ["Column", "Page", "Problem", "Provenance", "Setting", "Table"]


@dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted.

    Attributes:
        name: in the table's rows.
        heading: for people.
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


@dataclass(frozen=True)
class Problem:
    """A run with something to say: it failed, could not be read, or has nothing to show yet."""

    name: str
    state: str
    message: str


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


@dataclass(frozen=True)
class Provenance:
    """What was run, and where.

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
