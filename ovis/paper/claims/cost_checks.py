"""What can be asked of the costs of a training step. Costs are compared by their ratio, over repetitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ovis.experiments.reporting.estimates import UncertainValue, is_above, is_within
from ovis.experiments.reporting.figures.style import estimator_look
from ovis.experiments.reporting.verdict import Cell, Evidence, Finding

__all__ = ["Alike", "Costs", "Grows", "Linear"]

SHORT = {"memory_mb": "memory", "epoch_s": "time"}
NAMES = {"memory_mb": "peak memory [MB]", "epoch_s": "time of an epoch [s]"}


@dataclass(frozen=True)
class Costs:
    """The costs on one device.

    Attributes:
        table: see :func:`ovis.paper.efficiency.points.cost_table`.
    """

    table: pd.DataFrame

    def logarithms(self, measure: str, estimator: str) -> dict[int, tuple[UncertainValue, Cell]]:
        """K -> the logarithm of a cost, and the cost as a cell, ascending."""
        table = self.table
        rows = table[(table["measure"] == measure) & (table["estimator"] == estimator)].sort_values("iw")
        label = estimator_look(estimator).label
        found = {}
        for row in rows.to_dict("records"):
            mean, runs, iw = float(row["mean"]), int(row["runs"]), int(row["iw"])
            se = float(row["std"]) / math.sqrt(runs)
            text = f"{mean:.4g}" + ("" if math.isnan(se) else f" ± {se:.2g}")
            cell = Cell(NAMES[measure], f"K = {iw}", label, text, runs)
            found[iw] = UncertainValue(math.log(mean), se / mean, runs - 1), cell
        return found

    def absent(self, measure: str, estimator: str) -> Cell:
        """Of an estimator that has not been measured where it would have to be."""
        return Cell(NAMES[measure], "any K", estimator_look(estimator).label, "no runs", 0)


@dataclass(frozen=True)
class Alike:
    """An estimator costs as much as each other one, within a factor, at the largest K at which both were measured."""

    measure: str
    estimator: str
    others: Sequence[str]
    within: float

    def look(self, data: Costs) -> Evidence:
        own = data.logarithms(self.measure, self.estimator)
        cells, findings = [], []
        for other in self.others:
            costs = data.logarithms(self.measure, other)
            common = sorted(own.keys() & costs.keys())
            gap, about, place = MISSING, f"{estimator_look(other).label}: no K in common", ""
            if common:
                (a, first), (b, second) = own[common[-1]], costs[common[-1]]
                cells += [first, second]
                gap, about, place = a - b, f"{first.who} against {second.who}", first.place
            else:
                cells.append(data.absent(self.measure, other))
            findings.append(Finding(about, is_within(gap, math.log(self.within)), place))
        return Evidence(tuple(cells), tuple(findings))


@dataclass(frozen=True)
class Linear:
    """The exponent of K, between the two largest K, is 1 or less: at most ``above`` more than 1."""

    measure: str
    estimators: Sequence[str]
    above: float

    def look(self, data: Costs) -> Evidence:
        return _exponents(data, self.measure, self.estimators, 1 + self.above, upwards=False)


@dataclass(frozen=True)
class Grows:
    """The exponent of K, between the two largest K, is larger than ``exponent``."""

    measure: str
    estimators: Sequence[str]
    exponent: float

    def look(self, data: Costs) -> Evidence:
        return _exponents(data, self.measure, self.estimators, self.exponent, upwards=True)


#: Of what was not measured.
MISSING = UncertainValue(math.nan, math.nan, 0)


def _exponents(data: Costs, measure: str, estimators: Sequence[str], bound: float, upwards: bool) -> Evidence:
    cells, findings = [], []
    for name in estimators:
        costs = data.logarithms(measure, name)
        ends = sorted(costs)[-2:]
        margin, text = MISSING, ""
        if len(ends) == 2:
            width = math.log(ends[1] / ends[0])
            growth = costs[ends[1]][0] - costs[ends[0]][0]
            text = f" {growth.value / width:.2f}"
            sign = 1 if upwards else -1
            margin = UncertainValue(sign * (growth.value / width - bound), growth.se / width, growth.freedom)
        cells += [costs[iw][1] for iw in ends] or [data.absent(measure, name)]
        what = f"exponent of {SHORT[measure]}{text}"
        about = f"{estimator_look(name).label}: {what} {'above' if upwards else 'below'} {bound:g}"
        findings.append(Finding(about, is_above(margin, 0.0)))
    return Evidence(tuple(cells), tuple(findings))
