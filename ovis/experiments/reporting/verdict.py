"""A publication's claims and the verdicts of our runs on them: as records, as a table and as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import pandas as pd

__all__ = [
    "COLUMNS",
    "Cell",
    "Claim",
    "ClaimStatus",
    "ClaimVerdict",
    "claims_table",
    "claims_text",
    "count_verdicts",
    "undecided",
]


class ClaimStatus(str, Enum):
    """Whether our runs support a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not enough runs"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes:
        id: of the claim; stays the same when its words change.
        figure: of the paper, or the section where there is none.
        statement: what is claimed, and where it takes a number to decide, which one.
        source: where the paper says it; for what it says, see ``published``.
        published: the numbers that the paper shows for it, in a few words; empty: none.
    """

    id: str
    figure: str
    statement: str
    source: str
    published: str = ""


@dataclass(frozen=True)
class Cell:
    """A number that a verdict is based on: a quantity of one estimator.

    Attributes:
        heading: what is measured, e.g. ``min posterior L2``.
        at: which K, e.g. ``K = 10``; empty: at no particular one.
        who: the estimator's label.
        text: the number with its standard error.
        count: how many seeds (draws, epochs) are behind it.
    """

    heading: str
    at: str
    who: str
    text: str
    count: int


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict of our runs on a claim.

    Attributes:
        claim: the statement.
        status: holds, does not hold, not enough runs.
        cells: our numbers, with standard errors.
        reason: how many comparisons hold, how many do not, and which; or why there are none.
        unit: what is counted: seeds, draws.
        subject: what it is about, where one experiment holds several (toys, devices).
        decided: whether any comparison is, by which the numbers say something.
    """

    claim: Claim
    status: ClaimStatus
    cells: tuple[Cell, ...]
    reason: str
    unit: str
    subject: str = ""
    decided: bool = True

    @property
    def fewest(self) -> int:
        """Smallest number of seeds (draws) of a number."""
        return min((cell.count for cell in self.cells), default=0)

    @property
    def most(self) -> int:
        """Largest number of seeds (draws) of a number."""
        return max((cell.count for cell in self.cells), default=0)

    @property
    def numbers(self) -> str:
        """``min posterior L2: K = 10: A 0.0125 ± 0.0002, B 0.03; K = 20: ...``, each heading and each K once.

        What was not run is not in it.
        """
        parts = []
        there = [cell for cell in self.cells if cell.count]
        for heading, cells in _by(there, lambda cell: cell.heading):
            lines = []
            for at, same in _by(cells, lambda cell: cell.at):
                numbers = ", ".join(f"{cell.who} {cell.text}" for cell in same)
                lines.append(f"{at}: {numbers}" if at else numbers)
            parts.append(f"{heading}: " + "; ".join(lines))
        return ". ".join(parts)

    @property
    def basis(self) -> str:
        """``3 seeds``, ``0 to 3 seeds``, ``10,000 draws``."""
        span = f"{self.most:,}" if self.fewest == self.most else f"{self.fewest:,} to {self.most:,}"
        return f"{span} {self.unit[:-1] if self.most == 1 and self.fewest == 1 else self.unit}"


def undecided(claim: Claim, reason: str, unit: str, subject: str = "") -> ClaimVerdict:
    """The verdict on a claim that can't be evaluated, with the reason."""
    return ClaimVerdict(claim, ClaimStatus.OPEN, (), reason, unit, subject, decided=False)


def _by(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[tuple[str, list[Cell]]]:
    """The cells of each key, keys in the order in which they come."""
    return [(name, [cell for cell in cells if key(cell) == name]) for name in dict.fromkeys(map(key, cells))]


#: Columns of the table of claims.
COLUMNS = (
    *("id", "figure", "verdict", "basis", "subject", "statement"),
    *("numbers", "reason", "fewest", "most", "unit", "published", "source"),
)

#: Characters per line of text.
WIDTH = 100

#: Largest number of lines of a long paragraph.
LINES = 3


def claims_table(verdicts: Sequence[ClaimVerdict]) -> pd.DataFrame:
    """One row per claim (and toy), columns :data:`COLUMNS`."""
    rows = [
        {
            "id": verdict.claim.id,
            "figure": verdict.claim.figure,
            "verdict": verdict.status.value,
            "basis": verdict.basis,
            "subject": verdict.subject,
            "statement": verdict.claim.statement,
            "numbers": verdict.numbers,
            "reason": verdict.reason,
            "fewest": verdict.fewest,
            "most": verdict.most,
            "unit": verdict.unit,
            "published": verdict.claim.published,
            "source": verdict.claim.source,
        }
        for verdict in verdicts
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def count_verdicts(verdicts: Sequence[ClaimVerdict]) -> str:
    """``11 claims: 5 hold, 1 does not hold, 5 not enough runs``."""
    counts = Counter(verdict.status for verdict in verdicts)
    claims = "1 claim" if len(verdicts) == 1 else f"{len(verdicts)} claims"
    held, failed = counts[ClaimStatus.HOLDS], counts[ClaimStatus.FAILS]
    parts = [
        f"{held} {'holds' if held == 1 else 'hold'}",
        f"{failed} {'does' if failed == 1 else 'do'} not hold",
        f"{counts[ClaimStatus.OPEN]} not enough runs",
    ]
    return f"{claims}: {', '.join(parts)}"


def claims_text(verdicts: Sequence[ClaimVerdict]) -> str:
    """The verdicts as text, one paragraph each; empty if there are none.

    Numbers are those of verdicts that have any comparison decided, as far as they fit; the table has all.
    """
    if not verdicts:
        return ""
    parts = [f"What the paper says: {count_verdicts(verdicts)}"]
    for verdict in verdicts:
        subject = f", {verdict.subject}" if verdict.subject else ""
        head = f"{verdict.status.value.upper()}  {verdict.claim.id} ({verdict.claim.figure}{subject}; {verdict.basis})"
        body = [_wrapped(verdict.claim.statement), _wrapped(verdict.reason, LINES)]
        if verdict.decided:
            published = verdict.claim.published
            body.append(_wrapped(f"ours: {verdict.numbers}", LINES))
            body.append(_wrapped(f"paper: {published}" if published else "", LINES))
        parts.append("\n".join([head, *filter(None, body)]))
    return "\n\n".join(parts) + "\n"


def _wrapped(line: str, max_lines: int | None = None) -> str:
    """Wrap a paragraph; what exceeds ``max_lines`` is cut."""
    return textwrap.fill(
        line,
        WIDTH,
        initial_indent="    ",
        subsequent_indent="      ",
        break_on_hyphens=False,
        max_lines=max_lines,
        placeholder=" ... (claims.csv has all)",
    )
