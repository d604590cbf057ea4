"""Smoothing and thinning of curves, against the formula written out."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.aggregate import smooth_runs, thin_curves
from ovis.experiments.reporting.data.read import read_experiment


def debiased(values: list[float], weight: float) -> list[float]:
    """s_t = w s_{t-1} + (1 - w) x_t, divided by 1 - w^t; what is not finite is passed over."""
    past, count, out = 0.0, 0, []
    for value in values:
        if math.isfinite(value):
            count += 1
            past = weight * past + (1 - weight) * value
        out.append(past / (1 - weight**count) if math.isfinite(value) else value)
    return out


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9])
def test_each_metric_of_each_run_is_smoothed_on_its_own(demo: Folder, weight: float) -> None:
    one, two = [1.0, 5.0, -2.0, 4.0], [10.0, 30.0, 20.0, 0.0]
    demo.add("vimco", {METRIC: one, "train:x": two}, seed=1)
    demo.add("vimco", {METRIC: two, "train:x": one}, seed=2)
    curves = read_experiment(demo.path).curves
    smooth = smooth_runs(curves, weight)
    assert list(smooth["step"]) == list(curves["step"])
    parts = {key: list(part["value"]) for key, part in smooth.groupby(["run", "metric"], observed=True)}
    wanted = [debiased(values, weight) for values in (one, two, two, one)]
    assert list(parts.values()) == [pytest.approx(values, rel=1e-12) for values in wanted]
    assert parts[next(iter(parts))][0] == 1.0  # not pulled towards zero


def test_what_is_not_finite_stays_and_does_not_spread(demo: Folder) -> None:
    demo.add("vimco", [1.0, None, 3.0])
    found = list(smooth_runs(read_experiment(demo.path).curves, 0.5)["value"])
    assert math.isnan(found[1])
    assert [found[0], found[2]] == pytest.approx([1.0, (0.25 * 1.0 + 0.5 * 3.0) / 0.75])


def table(**lengths: int) -> pd.DataFrame:
    rows = [{"estimator": name, "metric": "m", "step": i} for name, length in lengths.items() for i in range(length)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 10, 100, 101])
@pytest.mark.parametrize("points", [2, 3, 10, 64])
def test_at_most_so_many_points_the_first_and_the_last_among_them(length: int, points: int) -> None:
    steps = list(thin_curves(table(a=length), ["estimator"], points)["step"])
    assert len(steps) == min(length, points)
    assert (steps[0], steps[-1]) == (0, length - 1)
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_curves_are_thinned_one_by_one() -> None:
    thin = thin_curves(table(a=9, b=3), ["estimator"], 3)
    assert list(zip(thin["estimator"], thin["step"], strict=True)) == [
        *(("a", 0), ("a", 4), ("a", 8)),
        *(("b", 0), ("b", 1), ("b", 2)),
    ]
