"""What a claim is, what our runs say about it, and how several findings become one verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ovis.experiments.reporting.estimates import ClaimStatus, both

__all__ = ["Cell", "Check", "Claim", "ClaimVerdict", "Evidence", "Finding", "Stated", "judge", "undecided"]

#: Groups of findings that a verdict names, at most; the open ones it names if they are no more than :data:`FEW`.
NAMED, FEW = 5, 2

#: Between the two sides of a comparison.
AGAINST = " against "


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
    """One comparison.

    Attributes:
        about: what is compared, ``A against B``.
        status: what was found.
        place: at which K, ``K = 5``; empty: at no one.
    """

    about: str
    status: ClaimStatus
    place: str = ""


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


def judge(stated: Stated[S], data: S, unit: str, subject: str = "") -> ClaimVerdict:
    """Compute the verdict on a claim.

    Args:
        stated: the claim and its checks.
        data: what the checks look at.
        unit: what the cells' counts are of: seeds, draws.
        subject: see :class:`ClaimVerdict`.
    """
    evidence = [check.look(data) for check in stated.checks]
    cells = list(dict.fromkeys(cell for found in evidence for cell in found.cells))
    findings = [finding for found in evidence for finding in found.findings]
    status = both(*(finding.status for finding in findings))
    decided = any(finding.status is not ClaimStatus.OPEN for finding in findings)
    return ClaimVerdict(stated.claim, status, tuple(cells), _reason(findings), unit, subject, decided)


def undecided(claim: Claim, reason: str, unit: str, subject: str = "") -> ClaimVerdict:
    """The verdict on a claim that can't be looked at, and why."""
    return ClaimVerdict(claim, ClaimStatus.OPEN, (), reason, unit, subject, decided=False)


def _by(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[tuple[str, list[Cell]]]:
    """The cells of each key, keys in the order in which they come."""
    return [(name, [cell for cell in cells if key(cell) == name]) for name in dict.fromkeys(map(key, cells))]


def _reason(findings: Sequence[Finding]) -> str:
    """``2 of 9 comparisons hold (A against B at K = 5, 10), 1 does not (A against C at K = 5), the rest is open``."""
    distinct = list(dict.fromkeys(findings))
    held, failed, left = ([item for item in distinct if item.status is status] for status in ClaimStatus)
    if len(held) == len(distinct):
        return f"all {len(held)} comparisons hold" if len(held) > 1 else ""
    if len(distinct) == 1:
        return f"{'not so' if failed else 'open'}: {distinct[0].about}{distinct[0].place and ' at '}{distinct[0].place}"
    if len(left) == len(distinct):
        return f"all {len(left)} comparisons are open{_named(left) if len(left) <= FEW else ''}"
    parts = [f"{len(held)} of {len(distinct)} comparisons {'holds' if len(held) == 1 else 'hold'}{_named(held)}"]
    if failed:
        parts.append(f"{len(failed)} {'does' if len(failed) == 1 else 'do'} not{_named(failed)}")
    if left:
        parts.append(f"{len(left)} open{_named(left)}" if len(left) <= FEW else "the rest is open")
    return ", ".join(parts)


def _named(findings: Sequence[Finding]) -> str:
    """`` (A against B, C at K = 5, 10; A against D at K = 5)``: each one with all that is said of it."""
    places: dict[str, list[str]] = {}
    for item in findings:
        places.setdefault(item.about, []).append(item.place.removeprefix("K = "))
    groups: dict[tuple[str, str], list[str]] = {}
    for about, at in places.items():
        who, _, other = about.partition(AGAINST)
        groups.setdefault((who, ", ".join(filter(None, at))), []).append(other)
    texts = [
        f"{who}{AGAINST if any(others) else ''}{', '.join(others)}{at and ' at K = '}{at}"
        for (who, at), others in groups.items()
    ]
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return f" ({'; '.join([*texts[:NAMED], *more])})" if texts else ""
