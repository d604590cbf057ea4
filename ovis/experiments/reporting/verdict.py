"""A publication's claim, and the verdict of our runs on it: records that reports show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Cell", "Claim", "ClaimStatus", "ClaimVerdict", "undecided"]


class ClaimStatus(str, Enum):
    """What our runs say about a statement."""

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
    """A number behind a verdict: that of one estimator under a heading.

    Attributes:
        heading: what is measured, e.g. ``min posterior L2``.
        place: where, e.g. ``K = 10``; empty: everywhere.
        who: the estimator's label.
        text: the number with its standard error.
        count: how many seeds (draws, epochs) are behind it.
    """

    heading: str
    place: str
    who: str
    text: str
    count: int


@dataclass(frozen=True)
class ClaimVerdict:
    """What our runs say about a claim.

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
        """How many seeds (draws) are behind each number, at least."""
        return min((cell.count for cell in self.cells), default=0)

    @property
    def most(self) -> int:
        """How many are behind a number, at most."""
        return max((cell.count for cell in self.cells), default=0)

    @property
    def numbers(self) -> str:
        """``min posterior L2: K = 10: A 0.0125 ± 0.0002, B 0.03; K = 20: ...``, headings and places each once.

        What was not run is not in it.
        """
        parts = []
        there = [cell for cell in self.cells if cell.count]
        for heading, cells in _by(there, lambda cell: cell.heading):
            lines = []
            for place, at in _by(cells, lambda cell: cell.place):
                numbers = ", ".join(f"{cell.who} {cell.text}" for cell in at)
                lines.append(f"{place}: {numbers}" if place else numbers)
            parts.append(f"{heading}: " + "; ".join(lines))
        return ". ".join(parts)

    @property
    def basis(self) -> str:
        """``3 seeds``, ``0 to 3 seeds``, ``10,000 draws``."""
        span = f"{self.most:,}" if self.fewest == self.most else f"{self.fewest:,} to {self.most:,}"
        return f"{span} {self.unit[:-1] if self.most == 1 and self.fewest == 1 else self.unit}"


def undecided(claim: Claim, reason: str, unit: str, subject: str = "") -> ClaimVerdict:
    """The verdict on a claim that can't be looked at, and why."""
    return ClaimVerdict(claim, ClaimStatus.OPEN, (), reason, unit, subject, decided=False)


def _by(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[tuple[str, list[Cell]]]:
    """The cells of each key, keys in the order in which they come."""
    return [(name, [cell for cell in cells if key(cell) == name]) for name in dict.fromkeys(map(key, cells))]
