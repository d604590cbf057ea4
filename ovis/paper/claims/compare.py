"""Claims as data, and the comparison that decides them.

A claim is a sentence of the paper with the comparisons that it amounts to. Each comparison reads one quantity of some
configurations, from finished trainings, gradient statistics or costs, and asks where the 95 % interval of a difference
lies. A claim holds where all of its comparisons hold, does not hold where one fails, and is open otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from ovis.experiments.reporting.figures.style import estimator_look
from ovis.experiments.reporting.verdict import Cell, Claim, ClaimStatus, ClaimVerdict
from ovis.paper.claims.uncertainty import (
    UncertainValue,
    both,
    difference,
    is_above,
    is_within,
    mean_estimate,
)

__all__ = ["ClaimNumbers", "Comparison", "Configuration", "PaperClaim", "Reading", "compare", "judge", "logarithm"]

Relation = Literal["better than", "above", "below", "within", "rises with K", "falls with K", "leads less at large K"]

#: Largest number of groups of findings that a verdict names; open findings are named if there are at most :data:`FEW`.
NAMED, FEW = 5, 2

#: Between the two sides of a comparison.
AGAINST = " against "


@dataclass(frozen=True)
class Configuration:
    """An estimator and, for training runs, the order of their bound.

    Attributes:
        estimator: its canonical id.
        alpha: order of the bound at the end of the training.
        warmup: whether alpha was larger at the beginning.
    """

    estimator: str
    alpha: float = 0.0
    warmup: bool = False

    @property
    def label(self) -> str:
        alpha = f", α={self.alpha:g}" if self.alpha else ""
        return f"{estimator_look(self.estimator).label}{alpha}{', warm-up' if self.warmup else ''}"


@dataclass(frozen=True)
class Comparison:
    """One comparison of a quantity.

    Attributes:
        quantity: what is compared; each kind of :class:`ClaimNumbers` says which names it knows.
        who: the configurations that the relation is about, each on its own.
        relation: ``better than``, ``above`` and ``within`` compare with each configuration of ``reference``; ``above``,
            ``below`` and ``within`` compare with the number ``reference``. ``rises with K`` and ``falls with K``
            compare the largest K with the smallest. ``leads less at large K`` compares the leads over ``reference`` at
            the two K of ``at``.
        reference: other configurations, or a number.
        by: by more than this difference, or factor where the quantity is compared by its ratio; the largest distance
            for ``within``. None: any.
        at: the values of K; none for a quantity over several K, such as a slope.
        per_particle: divide the quantity by K before it is compared with a number.
    """

    quantity: str
    who: Sequence[Configuration]
    relation: Relation
    reference: Sequence[Configuration] | float = ()
    by: float | None = None
    at: Sequence[int] | Literal["every K", "largest common K"] = ()
    per_particle: bool = False


@dataclass(frozen=True)
class PaperClaim(Claim):
    """A statement of the paper, and the comparisons that decide it."""

    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A quantity of one configuration.

    Attributes:
        values: one number per seed, or an estimate.
        cells: the numbers to show for it.
        ratio: whether it is compared by its ratio, and not by its difference.
        sign: -1 where smaller is better.
        about: what a finding says of it, after the configurations.
    """

    values: pd.Series[float] | UncertainValue
    cells: tuple[Cell, ...]
    ratio: bool = False
    sign: int = 1
    about: str = ""

    @property
    def scaled(self) -> pd.Series[float] | UncertainValue:
        """The values, or their logarithms where they are compared by ratio."""
        values = self.values
        if not self.ratio:
            return values
        if isinstance(values, UncertainValue):
            return logarithm(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            return pd.Series(np.log(values.to_numpy(np.float64)), index=values.index)


def logarithm(estimate: UncertainValue) -> UncertainValue:
    """The logarithm of a positive quantity, with its standard error to first order."""
    return UncertainValue(math.log(estimate.value), estimate.se / estimate.value, estimate.freedom)


class ClaimNumbers(Protocol):
    """The numbers of one experiment, as :func:`compare` reads them."""

    def reading(self, quantity: str, who: Configuration, iw: int) -> Reading:
        """A quantity of a configuration at one K; K = 0 for one over several K, or where there is none."""

    def particles(self, quantity: str, who: Configuration | None = None) -> list[int]:
        """The K at which a configuration (None: any) has the quantity, ascending."""


@dataclass(frozen=True)
class Finding:
    """The result of one comparison: what was compared, at which K (``K = 5``; empty: none), and the status."""

    about: str
    status: ClaimStatus
    at: str = ""


@dataclass(frozen=True)
class Evidence:
    """The numbers and findings of a comparison."""

    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]


def judge(claim: PaperClaim, data: ClaimNumbers, unit: str, subject: str = "") -> ClaimVerdict:
    """Decide a claim.

    Args:
        claim: the statement and its comparisons.
        data: the numbers of the experiment.
        unit: what stands behind a number: seeds, draws, repetitions.
        subject: the toy or the device, where one experiment has several.
    """
    evidence = _joined(compare(comparison, data) for comparison in claim.comparisons)
    status = both(*(finding.status for finding in evidence.findings))
    decided = any(finding.status is not ClaimStatus.OPEN for finding in evidence.findings)
    cells = tuple(dict.fromkeys(evidence.cells))
    return ClaimVerdict(claim, status, cells, _reason(evidence.findings), unit, subject, decided)


def compare(comparison: Comparison, data: ClaimNumbers) -> Evidence:
    """Evaluate one comparison."""
    if comparison.relation in ("rises with K", "falls with K"):
        return _joined(_trend(comparison, data, who) for who in comparison.who)
    if comparison.relation == "leads less at large K":
        return _leads(comparison, data)
    if comparison.at == "largest common K":
        return _at_common_particles(comparison, data)
    counts = data.particles(comparison.quantity) if comparison.at == "every K" else comparison.at or (0,)
    one = _against_number if isinstance(comparison.reference, float | int) else _against_others
    return _joined(one(comparison, data, int(iw)) for iw in counts)


def _against_others(comparison: Comparison, data: ClaimNumbers, iw: int) -> Evidence:
    """Each configuration against each one of the reference, at one K."""
    others = _configurations(comparison.reference)
    readings = {who: data.reading(comparison.quantity, who, iw) for who in (*comparison.who, *others)}
    findings = []
    for a in comparison.who:
        for b in others:
            first = readings[a]
            margin = _margin(comparison.by, first.ratio)
            gap = _difference(first.scaled, readings[b].scaled)
            if comparison.relation == "within":
                status = is_within(gap, margin)
            else:
                status = is_above(_times(gap, first.sign if comparison.relation == "better than" else 1), margin)
            findings.append(Finding(f"{a.label}{AGAINST}{b.label}{first.about}", status, _at_text(iw)))
    return Evidence(tuple(cell for reading in readings.values() for cell in reading.cells), tuple(findings))


def _against_number(comparison: Comparison, data: ClaimNumbers, iw: int) -> Evidence:
    """Each configuration against a number, at one K."""
    bound = float(comparison.reference)  # type: ignore[arg-type]
    cells: list[Cell] = []
    findings = []
    for who in comparison.who:
        reading = data.reading(comparison.quantity, who, iw)
        estimate = _times(_estimate(reading.values), 1 / iw if comparison.per_particle else 1)
        text = f"{comparison.relation} {bound:g}"
        if comparison.relation == "above":
            status = is_above(estimate, bound)
        elif comparison.relation == "below":
            status = is_above(_times(estimate, -1), -bound)
        else:
            margin = _margin(comparison.by, ratio=False)
            status, text = (
                is_within(replace(estimate, value=estimate.value - bound), margin),
                f"{bound:+g} ± {margin:g}",
            )
        cells += reading.cells
        findings.append(Finding(f"{who.label}{reading.about} {text}", status, _at_text(iw)))
    return Evidence(tuple(cells), tuple(findings))


def _at_common_particles(comparison: Comparison, data: ClaimNumbers) -> Evidence:
    """Each pair at the largest K that both configurations have."""
    parts = []
    for a in comparison.who:
        for b in _configurations(comparison.reference):
            common = set(data.particles(comparison.quantity, a)) & set(data.particles(comparison.quantity, b))
            if common:
                pair = replace(comparison, who=(a,), reference=(b,))
                parts.append(_against_others(pair, data, max(common)))
            else:
                absent = data.reading(comparison.quantity, b, 0).cells
                parts.append(Evidence(absent, (Finding(f"{b.label}: no K in common", ClaimStatus.OPEN),)))
    return _joined(parts)


def _trend(comparison: Comparison, data: ClaimNumbers, who: Configuration) -> Evidence:
    """The largest K against the smallest, of one configuration."""
    there = data.particles(comparison.quantity, who)
    readings = [data.reading(comparison.quantity, who, iw) for iw in there or [0]]
    cells = tuple(cell for reading in readings for cell in reading.cells)
    if len(there) < 2:
        return Evidence(cells, (Finding(f"{who.label}: {'one K' if there else 'no runs'}", ClaimStatus.OPEN),))
    sign, direction = (1, "up") if comparison.relation == "rises with K" else (-1, "down")
    change = _times(_difference(readings[-1].scaled, readings[0].scaled), sign)
    about = f"{who.label} {direction} from K = {there[0]} to {there[-1]}"
    return Evidence(cells, (Finding(about, is_above(change, 0.0)),))


def _leads(comparison: Comparison, data: ClaimNumbers) -> Evidence:
    """The lead over each configuration of the reference, at a small K against a large one."""
    others, (small, large) = _configurations(comparison.reference), (int(iw) for iw in comparison.at)
    cells: list[Cell] = []
    leads: list[dict[tuple[Configuration, Configuration], pd.Series[float] | UncertainValue]] = []
    for iw in (small, large):
        readings = {who: data.reading(comparison.quantity, who, iw) for who in (*comparison.who, *others)}
        cells += [cell for reading in readings.values() for cell in reading.cells]
        leads.append({(a, b): _lead(readings[a], readings[b]) for a in comparison.who for b in others})
    findings = [
        Finding(
            f"{a.label} over {b.label} at K = {small} against K = {large}",
            is_above(_difference(leads[0][a, b], leads[1][a, b]), 0.0),
        )
        for a, b in leads[0]
    ]
    return Evidence(tuple(cells), tuple(findings))


def _lead(a: Reading, b: Reading) -> pd.Series[float] | UncertainValue:
    """The lead of ``a`` over ``b``, for each seed that both have."""
    first, second = a.scaled, b.scaled
    if isinstance(first, UncertainValue) or isinstance(second, UncertainValue):
        return _times(_difference(first, second), a.sign)
    common = first.index.intersection(second.index)
    return a.sign * (first[common] - second[common])


def _difference(a: pd.Series[float] | UncertainValue, b: pd.Series[float] | UncertainValue) -> UncertainValue:
    """``a - b``: numbers by seed are paired where they have two seeds or more in common."""
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        return difference(a, b)
    return _estimate(a) - _estimate(b)


def _estimate(values: pd.Series[float] | UncertainValue) -> UncertainValue:
    return mean_estimate(values) if isinstance(values, pd.Series) else values


def _times(estimate: UncertainValue, factor: float) -> UncertainValue:
    return UncertainValue(factor * estimate.value, abs(factor) * estimate.se, estimate.freedom)


def _margin(by: float | None, ratio: bool) -> float:
    if by is None:
        return 0.0
    return math.log(by) if ratio else by


def _configurations(reference: Sequence[Configuration] | float) -> Sequence[Configuration]:
    assert not isinstance(reference, float | int)
    return reference


def _at_text(iw: int) -> str:
    return f"K = {iw}" if iw else ""


def _joined(parts: Iterable[Evidence]) -> Evidence:
    parts = list(parts)
    cells = tuple(cell for part in parts for cell in part.cells)
    return Evidence(cells, tuple(finding for part in parts for finding in part.findings))


def _reason(findings: Sequence[Finding]) -> str:
    """``2 of 9 comparisons hold (A against B at K = 5, 10), 1 does not (A against C at K = 5), the rest is open``."""
    distinct = list(dict.fromkeys(findings))
    held, failed, left = ([item for item in distinct if item.status is status] for status in ClaimStatus)
    if len(held) == len(distinct):
        return f"all {len(held)} comparisons hold" if len(held) > 1 else ""
    if len(distinct) == 1:
        return f"{'not so' if failed else 'open'}: {distinct[0].about}{distinct[0].at and ' at '}{distinct[0].at}"
    if len(left) == len(distinct):
        return f"all {len(left)} comparisons are open{_named(left) if len(left) <= FEW else ''}"
    parts = [f"{len(held)} of {len(distinct)} comparisons {'holds' if len(held) == 1 else 'hold'}{_named(held)}"]
    if failed:
        parts.append(f"{len(failed)} {'does' if len(failed) == 1 else 'do'} not{_named(failed)}")
    if left:
        parts.append(f"{len(left)} open{_named(left)}" if len(left) <= FEW else "the rest is open")
    return ", ".join(parts)


def _named(findings: Sequence[Finding]) -> str:
    """`` (A against B, C at K = 5, 10; A against D at K = 5)``: one entry for the same pair or K."""
    particles: dict[str, list[str]] = {}
    for item in findings:
        particles.setdefault(item.about, []).append(item.at.removeprefix("K = "))
    groups: dict[tuple[str, str], list[str]] = {}
    for about, counts in particles.items():
        who, _, other = about.partition(AGAINST)
        groups.setdefault((who, ", ".join(filter(None, counts))), []).append(other)
    texts = [
        f"{who}{AGAINST if any(others) else ''}{', '.join(others)}{at and ' at K = '}{at}"
        for (who, at), others in groups.items()
    ]
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return f" ({'; '.join([*texts[:NAMED], *more])})" if texts else ""
