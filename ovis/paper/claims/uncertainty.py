"""The rule by which all claims are decided: is a quantity above a bound, given its standard error?

A quantity (a difference of two means over seeds, a slope) comes with a standard error. It is above a bound where its
whole 95 % interval is, below where its whole interval is, and undecided otherwise: with one seed there is no interval,
and nothing is ever decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.aggregate import STUDENT
from ovis.experiments.reporting.verdict import ClaimStatus

__all__ = ["UncertainValue", "both", "difference", "is_above", "is_within", "mean_estimate"]


@dataclass(frozen=True)
class UncertainValue:
    """A number with its uncertainty.

    Attributes:
        value: the estimate; NaN where there are no data.
        se: its standard error; NaN where there are too few data for one.
        freedom: degrees of freedom of ``se``; infinite where it comes from many draws.
    """

    value: float
    se: float
    freedom: float = math.inf

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval (Student's t)."""
        return student_quantile(self.freedom) * self.se

    def __sub__(self, other: UncertainValue) -> UncertainValue:
        """The difference of two independent estimates (Welch 1947)."""
        if not (self.freedom and other.freedom):
            return UncertainValue(self.value - other.value, math.nan, 0)
        se = math.hypot(self.se, other.se)
        spent = self.se**4 / self.freedom + other.se**4 / other.freedom
        freedom = se**4 / spent if spent > 0 else math.inf
        return UncertainValue(self.value - other.value, se, freedom)


def student_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, of the next smaller whole number of degrees of freedom; NaN below 1."""
    if not freedom >= 1:
        return math.nan
    if freedom >= len(STUDENT) + 1:
        return 1.96 + 2.5 / freedom
    return float(STUDENT[int(freedom) - 1])


def mean_estimate(values: pd.Series[float]) -> UncertainValue:
    """The mean of values of independent seeds."""
    n = len(values)
    if n == 0:
        return UncertainValue(math.nan, math.nan, 0)
    with np.errstate(invalid="ignore"):  # inf - inf: a diverged run has no standard error
        se = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return UncertainValue(float(values.mean()), se, n - 1)


def difference(a: pd.Series[float], b: pd.Series[float]) -> UncertainValue:
    """Mean of ``a`` minus mean of ``b``, both indexed by seed: paired where they have two seeds or more in common."""
    common = a.index.intersection(b.index)
    if len(common) >= 2 or (len(common) == len(a) == len(b) == 1):
        return mean_estimate(a[common] - b[common])
    return mean_estimate(a) - mean_estimate(b)


def is_above(estimate: UncertainValue, bound: float) -> ClaimStatus:
    """Whether a quantity is above a bound."""
    if estimate.value - estimate.half > bound:
        return ClaimStatus.HOLDS
    if estimate.value + estimate.half < bound:
        return ClaimStatus.FAILS
    return ClaimStatus.OPEN


def is_within(estimate: UncertainValue, bound: float) -> ClaimStatus:
    """Whether a quantity lies between -bound and bound: a tie holds where its whole interval does."""
    return both(
        is_above(estimate, -bound), is_above(UncertainValue(-estimate.value, estimate.se, estimate.freedom), -bound)
    )


def both(*parts: ClaimStatus) -> ClaimStatus:
    """Whether all statements hold: FAILS if any fails, otherwise OPEN if any is open."""
    for status in (ClaimStatus.FAILS, ClaimStatus.OPEN):
        if status in parts:
            return status
    return ClaimStatus.HOLDS
