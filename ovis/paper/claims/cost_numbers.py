"""The costs of a training step as claims read them, over repetitions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ovis.experiments.reporting.verdict import Cell
from ovis.paper.claims.compare import Configuration, Reading, logarithm
from ovis.paper.claims.uncertainty import UncertainValue

__all__ = ["CostNumbers"]

EXPONENT = "exponent of "
MISSING = UncertainValue(math.nan, math.nan, 0)

#: Measure -> its heading, and its name in a finding.
NAMES = {"memory_mb": ("peak memory [MB]", "memory"), "epoch_s": ("time of an epoch [s]", "time")}


@dataclass(frozen=True)
class CostNumbers:
    """The costs on one device.

    Quantities are ``memory_mb`` and ``epoch_s`` at one K, compared by their ratio; and ``exponent of memory_mb``: that
    of K between the two largest K.

    Attributes:
        table: see :func:`ovis.paper.efficiency.cost_tables.cost_table`.
    """

    table: pd.DataFrame

    def reading(self, quantity: str, who: Configuration, iw: int) -> Reading:
        if quantity.startswith(EXPONENT):
            return self._exponent(quantity.removeprefix(EXPONENT), who)
        mean, heading = self._mean(quantity, who, iw), NAMES[quantity][0]
        if math.isnan(mean.value):
            return Reading(mean, (Cell(heading, "any K", who.label, "no runs", 0),), ratio=True)
        text = f"{mean.value:.4g}" + ("" if math.isnan(mean.se) else f" ± {mean.se:.2g}")
        return Reading(mean, (Cell(heading, f"K = {iw}", who.label, text, int(mean.freedom) + 1),), ratio=True)

    def particles(self, quantity: str, who: Configuration | None = None) -> list[int]:
        return sorted(int(iw) for iw in self._rows(quantity, who)["iw"].unique())

    def _mean(self, measure: str, who: Configuration, iw: int) -> UncertainValue:
        rows = self._rows(measure, who)
        rows = rows[rows["iw"] == iw]
        if rows.empty:
            return MISSING
        runs = int(rows["runs"].iloc[0])
        return UncertainValue(float(rows["mean"].iloc[0]), float(rows["std"].iloc[0]) / math.sqrt(runs), runs - 1)

    def _rows(self, measure: str, who: Configuration | None) -> pd.DataFrame:
        rows = self.table[self.table["measure"] == measure]
        return rows if who is None else rows[rows["estimator"] == who.estimator]

    def _exponent(self, measure: str, who: Configuration) -> Reading:
        ends = self.particles(measure, who)[-2:]
        cells = tuple(cell for iw in ends or [0] for cell in self.reading(measure, who, iw).cells)
        about = f": {EXPONENT}{NAMES[measure][1]}"
        if len(ends) < 2:
            return Reading(MISSING, cells, about=about)
        first, last = (self._mean(measure, who, iw) for iw in ends)
        growth = logarithm(last) - logarithm(first)
        width = math.log(ends[1] / ends[0])
        exponent = UncertainValue(growth.value / width, growth.se / width, growth.freedom)
        return Reading(exponent, cells, about=f"{about} {exponent.value:.2f}")
