"""What can be asked of finished runs. Each check compares numbers per seed, and says which of them it saw.

Metrics that are drawn on logarithmic axes (errors, SNR, variance) are compared by their ratio, all others by their
difference. "Better" is what the metric's kind says: a larger bound or SNR, a smaller error, KL or variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ovis.experiments.reporting.estimates import difference, is_above, is_within, mean_estimate
from ovis.experiments.reporting.metrics import Pivot
from ovis.experiments.reporting.verdict import Cell, Evidence, Finding
from ovis.paper.claims.finished import FinishedRuns, Who

__all__ = ["AheadAt", "Falls", "Gains", "Level", "Ordered", "Rises", "Shrinks", "Tied"]


@dataclass(frozen=True)
class Ordered:
    """Each of ``better`` is better than each of ``worse``, at each K.

    Attributes:
        pivot: what is compared, ``agg:metric``.
        better, worse: the configurations.
        iw: each K.
        by: by more than this factor (logarithmic metrics), or this difference; negative: worse by no more than that.
    """

    pivot: str
    better: Sequence[Who]
    worse: Sequence[Who]
    iw: Sequence[int]
    by: float | None = None

    def look(self, data: FinishedRuns) -> Evidence:
        pivot = data.pivot(self.pivot)
        margin = _margin(pivot, self.by)
        findings = []
        for iw in self.iw:
            for a in self.better:
                for b in self.worse:
                    estimate = difference(_scaled(data, pivot, a, iw), _scaled(data, pivot, b, iw))
                    findings.append(Finding(_against(a, b), is_above(estimate, margin), f"K = {iw}"))
        return Evidence(_cells(data, pivot, [*self.better, *self.worse], self.iw), tuple(findings))


@dataclass(frozen=True)
class AheadAt:
    """Each of ``better`` is ahead of each of ``worse`` on the way, at each K.

    Attributes:
        metric: what is compared; the larger value is ahead.
        share: of the training, at which.
        better, worse: the configurations.
        iw: each K.
    """

    metric: str
    share: float
    better: Sequence[Who]
    worse: Sequence[Who]
    iw: Sequence[int]

    def look(self, data: FinishedRuns) -> Evidence:
        pivot = data.pivot(f"last:{self.metric}")
        heading = f"{pivot.metric.text} after {self.share:.0%} of the training"
        findings, cells = [], []
        for iw in self.iw:
            values = {who: data.on_the_way(self.metric, self.share, who, iw) for who in (*self.better, *self.worse)}
            cells += [Cell(heading, f"K = {iw}", who.label, _text(v, pivot), len(v)) for who, v in values.items()]
            for a in self.better:
                for b in self.worse:
                    status = is_above(difference(values[a], values[b]), 0.0)
                    about = f"{_against(a, b)} after {self.share:.0%}"
                    findings.append(Finding(about, status, f"K = {iw}"))
        return Evidence(tuple(cells), tuple(findings))


@dataclass(frozen=True)
class Tied:
    """Each of ``who`` is within a factor (logarithmic metrics) or a difference of ``reference``, at each K."""

    pivot: str
    who: Sequence[Who]
    reference: Who
    iw: Sequence[int]
    within: float

    def look(self, data: FinishedRuns) -> Evidence:
        pivot = data.pivot(self.pivot)
        margin = _margin(pivot, self.within)
        findings = []
        for iw in self.iw:
            for a in self.who:
                values = _scaled(data, pivot, a, iw), _scaled(data, pivot, self.reference, iw)
                status = is_within(difference(*values), margin)
                findings.append(Finding(_against(a, self.reference), status, f"K = {iw}"))
        return Evidence(_cells(data, pivot, [*self.who, self.reference], self.iw), tuple(findings))


@dataclass(frozen=True)
class Rises:
    """The number of each configuration is larger at its largest K than at its smallest."""

    pivot: str
    who: Sequence[Who]

    def look(self, data: FinishedRuns) -> Evidence:
        return _trend(self.pivot, self.who, 1, data)


@dataclass(frozen=True)
class Falls:
    """The number of each configuration is smaller at its largest K than at its smallest."""

    pivot: str
    who: Sequence[Who]

    def look(self, data: FinishedRuns) -> Evidence:
        return _trend(self.pivot, self.who, -1, data)


@dataclass(frozen=True)
class Level:
    """The number of each configuration is above ``low``, and below ``high``, at each K.

    Attributes:
        pivot: what is asked.
        who: the configurations.
        iw: each K.
        low, high: the bounds.
        per_particle: the number is divided by K before.
    """

    pivot: str
    who: Sequence[Who]
    iw: Sequence[int]
    low: float = -math.inf
    high: float = math.inf
    per_particle: bool = False

    def look(self, data: FinishedRuns) -> Evidence:
        pivot = data.pivot(self.pivot)
        findings = []
        for iw in self.iw:
            for who in self.who:
                values = data.by_seed(pivot, who, iw) / (iw if self.per_particle else 1)
                if self.low > -math.inf:
                    above = is_above(mean_estimate(values), self.low)
                    findings.append(Finding(f"{who.label} above {self.low:g}", above, f"K = {iw}"))
                if self.high < math.inf:
                    below = is_above(mean_estimate(-values), -self.high)
                    findings.append(Finding(f"{who.label} below {self.high:g}", below, f"K = {iw}"))
        return Evidence(_cells(data, pivot, self.who, self.iw), tuple(findings))


@dataclass(frozen=True)
class Shrinks:
    """The lead of ``better`` over ``worse`` is larger at the K ``small`` than at the K ``large``."""

    pivot: str
    better: Who
    worse: Sequence[Who]
    small: int
    large: int

    def look(self, data: FinishedRuns) -> Evidence:
        pivot = data.pivot(self.pivot)
        findings = []
        for b in self.worse:
            leads = [
                _subtract(_scaled(data, pivot, self.better, iw), _scaled(data, pivot, b, iw))
                for iw in (self.small, self.large)
            ]
            about = f"{self.better.label} over {b.label} at K = {self.small} against K = {self.large}"
            findings.append(Finding(about, is_above(difference(*leads), 0.0)))
        return Evidence(_cells(data, pivot, [self.better, *self.worse], [self.small, self.large]), tuple(findings))


@dataclass(frozen=True)
class Gains:
    """Of each pair, the first configuration is better than the second at ``small`` K by more than ``by``, and by more
    than it is at ``large`` K."""

    pivot: str
    pairs: Sequence[tuple[Who, Who]]
    small: int
    large: int
    by: float

    def look(self, data: FinishedRuns) -> Evidence:
        parts = [
            check.look(data)
            for a, b in self.pairs
            for check in (
                Ordered(self.pivot, [a], [b], [self.small], self.by),
                Shrinks(self.pivot, a, [b], self.small, self.large),
            )
        ]
        cells = tuple(cell for part in parts for cell in part.cells)
        return Evidence(cells, tuple(finding for part in parts for finding in part.findings))


def _trend(name: str, configurations: Sequence[Who], sign: int, data: FinishedRuns) -> Evidence:
    pivot = data.pivot(name)
    cells: list[Cell] = []
    findings = []
    for who in configurations:
        there = [iw for iw in data.particles(who) if len(data.by_seed(pivot, who, iw))]
        first, last = (there[0], there[-1]) if there else (0, 0)
        ends = (sign * _logarithms(pivot, data.by_seed(pivot, who, iw)) for iw in (last, first))
        about = f"{who.label} {'up' if sign > 0 else 'down'} from K = {first} to {last}"
        if len(there) < 2:
            about = f"{who.label}: {'one K' if there else 'no runs'}"
        findings.append(Finding(about, is_above(difference(*ends), 0.0)))
        cells += _cells(data, pivot, [who], there) or [_cell(data, pivot, who, 0)]
    return Evidence(tuple(cells), tuple(findings))


def _scaled(data: FinishedRuns, pivot: Pivot, who: Who, iw: int) -> pd.Series[float]:
    """Numbers of which the larger one is better, on the scale on which they are compared."""
    return (pivot.metric.kind.sign or 1) * _logarithms(pivot, data.by_seed(pivot, who, iw))


def _logarithms(pivot: Pivot, values: pd.Series[float]) -> pd.Series[float]:
    if not pivot.metric.kind.log:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.Series(np.log(values.to_numpy(np.float64)), index=values.index)


def _margin(pivot: Pivot, by: float | None) -> float:
    if by is None:
        return 0.0
    return math.log(by) if pivot.metric.kind.log else by


def _subtract(a: pd.Series[float], b: pd.Series[float]) -> pd.Series[float]:
    """By seed, where both have it."""
    common = a.index.intersection(b.index)
    return a[common] - b[common]


def _against(a: Who, b: Who) -> str:
    return f"{a.label} against {b.label}"


def _cells(data: FinishedRuns, pivot: Pivot, configurations: Iterable[Who], iw: Iterable[int]) -> tuple[Cell, ...]:
    there = list(dict.fromkeys(configurations))
    return tuple(_cell(data, pivot, who, k) for k in iw for who in there)


def _cell(data: FinishedRuns, pivot: Pivot, who: Who, iw: int) -> Cell:
    values = data.by_seed(pivot, who, iw)
    place = f"K = {iw}" if iw else "any K"
    return Cell(f"{pivot.aggregate} {pivot.metric.text}", place, who.label, _text(values, pivot), len(values))


def _text(values: pd.Series[float], pivot: Pivot) -> str:
    """Mean and standard error."""
    if not len(values):
        return "no runs"
    estimate, digits = mean_estimate(values), pivot.metric.kind.digits
    return format(estimate.value, digits) + ("" if math.isnan(estimate.se) else f" ± {format(estimate.se, digits)}")
