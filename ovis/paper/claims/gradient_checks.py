"""What can be asked of the asymptotic study's tables. Standard errors are those of the draws (jackknife)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ovis.experiments.reporting.estimates import ClaimStatus, UncertainValue, is_above, is_within
from ovis.experiments.reporting.figures.style import estimator_look
from ovis.experiments.reporting.verdict import Cell, Evidence, Finding

__all__ = ["Gradients", "Larger", "Near", "Same", "Steeper"]

#: Of what no run has.
MISSING = UncertainValue(math.nan, math.nan)

NAMES = {"snr": "SNR", "variance": "variance", "magnitude": "|E g|"}


@dataclass(frozen=True)
class Gradients:
    """The tables of one toy.

    Attributes:
        statistics: see :func:`ovis.paper.figure1.statistics.statistics_table`.
        slopes: see :func:`ovis.paper.figure1.statistics.slope_table`.
    """

    statistics: pd.DataFrame
    slopes: pd.DataFrame

    def slope(self, estimator: str, statistic: str) -> tuple[UncertainValue, Cell]:
        """The slope of log statistic over log K between the two largest K that are more than noise."""
        table = self.slopes
        rows = table[(table["estimator"] == estimator) & (table["statistic"] == statistic)].to_dict("records")
        estimate = UncertainValue(float(rows[0]["last"]), float(rows[0]["last_se"])) if rows else MISSING
        text = "noise only" if rows else "no runs"
        if not math.isnan(estimate.value):
            fitted = ", ".join(str(rows[0]["fitted"]).split()[-2:])
            text = f"{estimate.value:+.3f} ± {estimate.se:.3f} (K = {fitted})"
        label = estimator_look(estimator).label
        return estimate, Cell(f"slope of {NAMES[statistic]}", "", label, text, self._draws(estimator))

    def logarithm(self, estimator: str, statistic: str, iw: int) -> tuple[UncertainValue, Cell]:
        """Log of a statistic at one K, and the statistic as a cell."""
        table = self.statistics
        rows = table[(table["estimator"] == estimator) & (table["iw"] == iw)].to_dict("records")
        label, heading, place = estimator_look(estimator).label, NAMES[statistic], f"K = {iw}"
        if not rows or not rows[0][statistic] > 0:
            return MISSING, Cell(heading, place, label, "no runs", 0)
        value, se = float(rows[0][statistic]), float(rows[0][f"{statistic}_se"])
        cell = Cell(heading, place, label, f"{value:.3g} ± {se:.2g}", int(rows[0]["draws"]))
        return UncertainValue(math.log(value), se / value), cell

    def _draws(self, estimator: str) -> int:
        """Of the point with the fewest."""
        draws = self.statistics.loc[self.statistics["estimator"] == estimator, "draws"]
        return int(draws.min()) if len(draws) else 0


@dataclass(frozen=True)
class Near:
    """The slope of each estimator is within a distance of a number.

    Attributes:
        statistic: snr, variance or magnitude.
        estimators: canonical ids.
        slope: the number.
        within: the distance.
    """

    statistic: str
    estimators: Sequence[str]
    slope: float
    within: float

    def look(self, data: Gradients) -> Evidence:
        cells, findings = [], []
        for name in self.estimators:
            estimate, cell = data.slope(name, self.statistic)
            cells.append(cell)
            distance = UncertainValue(estimate.value - self.slope, estimate.se)
            about = f"{cell.who}: {cell.heading} {self.slope:+g} ± {self.within:g}"
            findings.append(Finding(about, is_within(distance, self.within)))
        return Evidence(tuple(cells), tuple(findings))


@dataclass(frozen=True)
class Steeper:
    """The slope of each estimator is above that of each other one by more than ``by``; of none: above ``by``."""

    statistic: str
    upper: Sequence[str]
    lower: Sequence[str] = ()
    by: float = 0.0

    def look(self, data: Gradients) -> Evidence:
        cells, findings = [], []
        for name in self.upper:
            estimate, cell = data.slope(name, self.statistic)
            cells.append(cell)
            if not self.lower:
                findings.append(Finding(f"{cell.who}: {cell.heading} above {self.by:g}", is_above(estimate, self.by)))
            for other in self.lower:
                less, other_cell = data.slope(other, self.statistic)
                cells.append(other_cell)
                about = f"{cell.who} against {other_cell.who}: {cell.heading}"
                findings.append(Finding(about, is_above(estimate - less, self.by)))
        return Evidence(tuple(cells), tuple(findings))


@dataclass(frozen=True)
class Larger:
    """The statistic of each estimator is larger than that of each other one, by more than a factor, at each K.

    Attributes:
        statistic: snr, variance or magnitude.
        larger, smaller: canonical ids.
        iw: each K; empty: every K of the experiment.
        by: the factor; below 1: smaller by no more than that.
    """

    statistic: str
    larger: Sequence[str]
    smaller: Sequence[str]
    iw: Sequence[int] = ()
    by: float = 1.0

    def look(self, data: Gradients) -> Evidence:
        cells, findings = [], []
        for iw in self.iw or sorted(int(k) for k in data.statistics["iw"].unique()):
            for name in self.larger:
                for other in self.smaller:
                    more, a = data.logarithm(name, self.statistic, iw)
                    less, b = data.logarithm(other, self.statistic, iw)
                    cells += [a, b]
                    status = is_above(more - less, math.log(self.by))
                    findings.append(Finding(f"{a.who} against {b.who}", status, f"K = {iw}"))
        return Evidence(tuple(cells), tuple(findings) or (Finding("no runs", ClaimStatus.OPEN),))


@dataclass(frozen=True)
class Same:
    """The statistic of each estimator is that of the reference, within a factor, at one K."""

    statistic: str
    estimators: Sequence[str]
    reference: str
    iw: int
    within: float

    def look(self, data: Gradients) -> Evidence:
        reference, known = data.logarithm(self.reference, self.statistic, self.iw)
        cells, findings = [known], []
        for name in self.estimators:
            estimate, cell = data.logarithm(name, self.statistic, self.iw)
            cells.append(cell)
            status = is_within(estimate - reference, math.log(self.within))
            findings.append(Finding(f"{cell.who} against {known.who}", status, f"K = {self.iw}"))
        return Evidence(tuple(cells), tuple(findings))
