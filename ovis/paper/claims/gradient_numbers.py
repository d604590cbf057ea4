"""The tables of the asymptotic study as claims read them; standard errors are those of the draws (jackknife)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ovis.experiments.reporting.verdict import Cell
from ovis.paper.claims.compare import Configuration, Reading
from ovis.paper.claims.uncertainty import UncertainValue

__all__ = ["GradientNumbers"]

SLOPE = "slope of "
MISSING = UncertainValue(math.nan, math.nan)

#: Statistic -> its name in tables.
NAMES = {"snr": "SNR", "variance": "variance", "magnitude": "|E g|"}


@dataclass(frozen=True)
class GradientNumbers:
    """The tables of one toy.

    Quantities are ``snr``, ``variance`` and ``magnitude`` at one K, compared by their ratio; and ``slope of snr``: that
    of its logarithm over log K between the two largest K that are more than noise.

    Attributes:
        statistics: see :func:`ovis.paper.figure1.asymptotic_statistics.statistics_table`.
        slopes: see :func:`ovis.paper.figure1.asymptotic_statistics.slope_table`.
    """

    statistics: pd.DataFrame
    slopes: pd.DataFrame

    def reading(self, quantity: str, who: Configuration, iw: int) -> Reading:
        if quantity.startswith(SLOPE):
            return self._slope(quantity.removeprefix(SLOPE), who)
        table = self.statistics
        rows = table[(table["estimator"] == who.estimator) & (table["iw"] == iw)].to_dict("records")
        heading, at = NAMES[quantity], f"K = {iw}"
        if not rows or not rows[0][quantity] > 0:
            return Reading(MISSING, (Cell(heading, at, who.label, "no runs", 0),), ratio=True)
        value, se = float(rows[0][quantity]), float(rows[0][f"{quantity}_se"])
        cell = Cell(heading, at, who.label, f"{value:.3g} ± {se:.2g}", int(rows[0]["draws"]))
        return Reading(UncertainValue(value, se), (cell,), ratio=True)

    def particles(self, quantity: str, who: Configuration | None = None) -> list[int]:
        table = self.statistics
        rows = table if who is None else table[table["estimator"] == who.estimator]
        return sorted(int(iw) for iw in rows["iw"].unique())

    def _slope(self, statistic: str, who: Configuration) -> Reading:
        table = self.slopes
        rows = table[(table["estimator"] == who.estimator) & (table["statistic"] == statistic)].to_dict("records")
        estimate = UncertainValue(float(rows[0]["last"]), float(rows[0]["last_se"])) if rows else MISSING
        text = "noise only" if rows else "no runs"
        if not math.isnan(estimate.value):
            fitted = ", ".join(str(rows[0]["fitted"]).split()[-2:])
            text = f"{estimate.value:+.3f} ± {estimate.se:.3f} (K = {fitted})"
        draws = self.statistics.loc[self.statistics["estimator"] == who.estimator, "draws"]
        heading = f"{SLOPE}{NAMES[statistic]}"
        cell = Cell(heading, "", who.label, text, int(draws.min()) if len(draws) else 0)
        return Reading(estimate, (cell,), about=f": {heading}")
