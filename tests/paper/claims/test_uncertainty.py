"""One rule decides every claim: where the 95 % interval lies. By hand, and by how often it errs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ovis.experiments.reporting.verdict import ClaimStatus
from ovis.paper.claims.uncertainty import (
    UncertainValue,
    both,
    difference,
    is_above,
    is_within,
    mean_estimate,
    student_quantile,
)

HOLDS, FAILS, OPEN = ClaimStatus.HOLDS, ClaimStatus.FAILS, ClaimStatus.OPEN


def seeds(**values: float) -> pd.Series[float]:
    """``s1=0.5`` is the value of seed 1."""
    return pd.Series({int(name[1:]): value for name, value in values.items()}, dtype=float)


@pytest.mark.parametrize("freedom", [1, 2, 5, 29, 30, 31, 99])
def test_quantiles_are_students(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-3)


def test_quantiles_at_the_ends() -> None:
    assert student_quantile(math.inf) == pytest.approx(1.96)
    assert student_quantile(4.9) == student_quantile(4)
    assert math.isnan(student_quantile(0))
    assert math.isnan(student_quantile(math.nan))


def test_the_difference_is_paired_where_two_seeds_are_common() -> None:
    """The seeds differ by 10, the estimators by 1 in each of them: only pairs can see it."""
    a, b = seeds(s1=1.0, s2=11.1, s3=20.9), seeds(s1=0.0, s2=10.0, s3=20.0)
    paired = difference(a, b)
    assert paired.value == pytest.approx(1.0)
    assert paired.se == pytest.approx(np.std([1.0, 1.1, 0.9], ddof=1) / math.sqrt(3))
    assert paired.freedom == 2
    assert is_above(paired, 0.0) is HOLDS
    b.index = pd.Index([4, 5, 6])
    assert is_above(difference(a, b), 0.0) is OPEN


def test_the_difference_of_other_seeds_is_welchs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, 8), rng.normal(0, 3, 5)
    actual = difference(pd.Series(x, index=range(8)), pd.Series(y, index=range(10, 15)))
    expected = stats.ttest_ind(x, y, equal_var=False)
    assert actual.value / actual.se == pytest.approx(expected.statistic)
    assert actual.freedom == pytest.approx(expected.df)


@pytest.mark.parametrize("b", [seeds(s1=0.0), seeds(s2=0.0), seeds(s2=0.0, s3=0.1), seeds()])
def test_one_seed_decides_nothing(b: pd.Series[float]) -> None:
    estimate = difference(seeds(s1=1e6), b)
    assert is_above(estimate, 0.0) is OPEN
    assert math.isnan(estimate.value) == (len(b) == 0)


@pytest.mark.parametrize(
    ("value", "above", "within"),
    [
        (3.1, HOLDS, FAILS),
        (2.1, HOLDS, OPEN),
        (1.9, OPEN, OPEN),
        (0.2, OPEN, OPEN),
        (-1.9, OPEN, OPEN),
        (-2.1, FAILS, OPEN),
        (-4.1, FAILS, FAILS),
    ],
)
def test_verdicts_by_where_the_interval_lies(value: float, above: ClaimStatus, within: ClaimStatus) -> None:
    """The interval is value ± 2; a tie within 1 can't be shown with it, but one can be refuted."""
    estimate = UncertainValue(value, 2 / 1.96)
    assert is_above(estimate, 0.0) is above
    assert is_within(estimate, 1.0) is within


def test_a_tie_holds_where_the_interval_is_narrow() -> None:
    assert is_within(UncertainValue(0.3, 0.1), 1.0) is HOLDS
    assert is_within(UncertainValue(-0.3, 0.1), 1.0) is HOLDS
    assert is_within(UncertainValue(0.9, 0.1), 1.0) is OPEN


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_open(value: float) -> None:
    estimate = difference(seeds(s1=1.0, s2=2.0), seeds(s1=value, s2=0.0))
    assert is_above(estimate, 0.0) is OPEN


def test_several_findings() -> None:
    assert both(HOLDS, HOLDS) is HOLDS
    assert both(HOLDS, OPEN) is OPEN
    assert both(OPEN, FAILS, HOLDS) is FAILS


@pytest.mark.slow
def test_of_equal_estimators_one_in_forty_seems_better() -> None:
    """The rule's error rate is that of its name, at three seeds as at ten."""
    rng = np.random.default_rng(1)
    for n in (3, 10):
        draws = rng.normal(size=(4000, 2, n))
        held = sum(is_above(difference(pd.Series(a), pd.Series(b)), 0.0) is HOLDS for a, b in draws)
        assert held / 4000 == pytest.approx(0.025, abs=4 * math.sqrt(0.025 / 4000))


def test_the_mean_of_no_seeds() -> None:
    assert mean_estimate(seeds()).freedom == 0
