"""What a claim is, what our runs say about it, and how several findings become one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ovis.reporting.claims.estimates import Status, both

__all__ = ["Cell", "Check", "Claim", "Evidence", "Finding", "Stated", "Verdict", "judge", "undecided"]

#: Findings that a verdict names one by one, at most.
NAMED = 3


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
class Finding:
    """One comparison."""

    about: str
    status: Status


@dataclass(frozen=True)
class Evidence:
    """What a check saw: numbers, and comparisons of them."""

    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]


S = TypeVar("S", contravariant=True)


class Check(Protocol[S]):
    """A part of a statement that can be computed from the data ``S``."""

    def look(self, data: S) -> Evidence: ...


@dataclass(frozen=True)
class Stated(Generic[S]):
    """A claim and what decides it: it holds where all comparisons of all checks hold."""

    claim: Claim
    checks: tuple[Check[S], ...]


@dataclass(frozen=True)
class Verdict:
    """What our runs say about a claim.

    Attributes:
        claim: the statement.
        status: holds, does not hold, not enough runs.
        cells: our numbers, with standard errors.
        reason: the comparisons that do not hold, or are open; empty where all hold.
        unit: what is counted: seeds, draws.
        subject: what it is about, where one experiment holds several (toys).
    """

    claim: Claim
    status: Status
    cells: tuple[Cell, ...]
    reason: str
    unit: str
    subject: str = ""

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
        """``min posterior L2: K = 10: A 0.0125 ± 0.0002, B 0.03; K = 20: ...``, headings and places each once."""
        parts = []
        for heading, cells in _by(self.cells, lambda cell: cell.heading):
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


def judge(stated: Stated[S], data: S, unit: str, subject: str = "") -> Verdict:
    """Compute the verdict on a claim.

    Args:
        stated: the claim and its checks.
        data: what the checks look at.
        unit: what the cells' counts are of: seeds, draws.
        subject: see :class:`Verdict`.
    """
    evidence = [check.look(data) for check in stated.checks]
    cells = list(dict.fromkeys(cell for found in evidence for cell in found.cells))
    findings = [finding for found in evidence for finding in found.findings]
    status = both(*(finding.status for finding in findings))
    return Verdict(stated.claim, status, tuple(cells), _reason(status, findings), unit, subject)


def undecided(claim: Claim, reason: str, unit: str, subject: str = "") -> Verdict:
    """The verdict on a claim that can't be looked at, and why."""
    return Verdict(claim, Status.OPEN, (), reason, unit, subject)


def _by(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[tuple[str, list[Cell]]]:
    """The cells of each key, keys in the order in which they come."""
    return [(name, [cell for cell in cells if key(cell) == name]) for name in dict.fromkeys(map(key, cells))]


def _reason(status: Status, findings: Iterable[Finding]) -> str:
    """The findings that made the verdict what it is, the first ones by name."""
    if status is Status.HOLDS:
        return ""
    abouts = list(dict.fromkeys(finding.about for finding in findings if finding.status is status))
    more = f"; and {len(abouts) - NAMED} more" if len(abouts) > NAMED else ""
    return f"{'not so' if status is Status.FAILS else 'open'}: {'; '.join(abouts[:NAMED])}{more}"
