"""Aggregation over a training, mean and standard error over seeds, bands, smoothing: numbers worked out by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.aggregate import (
    STUDENT,
    curve_table,
    pivot_table,
    run_values,
    smooth_runs,
    thin_curves,
)
from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.metrics import Metric, parse_pivot
from ovis.experiments.reporting.tables import text_table


def table(demo: Folder, *pivots: str, keys: tuple[str, ...] = ("estimator",)) -> pd.DataFrame:
    return pivot_table(read_experiment(demo.path), keys, [parse_pivot(text) for text in pivots])


@pytest.mark.parametrize(
    ("aggregate", "per_run", "mean", "error"),
    [
        ("max", [-3.0, -1.0], -2.0, 1.0),
        ("min", [-5.0, -6.0], -5.5, 0.5),
        ("last", [-4.0, -2.0], -3.0, 1.0),
        ("mean", [-4.0, -3.0], -3.5, 0.5),
    ],
)
def test_aggregates(demo: Folder, aggregate: str, per_run: list[float], mean: float, error: float) -> None:
    demo.add("vimco", [-5.0, -3.0, -4.0], seed=1)
    demo.add("vimco", [-6.0, -1.0, -2.0], seed=2)
    pivot = parse_pivot(f"{aggregate}:{METRIC}")
    assert list(run_values(read_experiment(demo.path), pivot)) == per_run
    (row,) = table(demo, pivot.name).to_dict("records")
    assert (row["mean"], row["seeds"], row["runs"], row["done"]) == (mean, 2, 2, 2)
    assert row["se"] == pytest.approx(error, rel=1e-12)


def test_standard_error_of_three_seeds(demo: Folder) -> None:
    for seed, value in enumerate([1.0, 2.0, 6.0]):
        demo.add("vimco", [value], seed=seed)
    (row,) = table(demo, f"last:{METRIC}").to_dict("records")
    assert row["mean"] == 3.0
    assert row["se"] == pytest.approx(math.sqrt(7 / 3), rel=1e-12)


def test_one_seed_has_no_standard_error(demo: Folder) -> None:
    demo.add("vimco", [1.0])
    assert math.isnan(table(demo, f"last:{METRIC}")["se"].iloc[0])


def test_wall_time_is_of_each_evaluation_once(demo: Folder) -> None:
    run = demo.add("vimco", [1.0, 2.0])
    with (run / "metrics.jsonl").open("a") as file:  # the last evaluation measures more
        file.write(json.dumps({"step": 300, "time": 6.0, METRIC: 3.0, "valid:loss/L_k": 3.0, "train:x": 0.0}) + "\n")
    assert list(table(demo, "max:time", "mean:time")["mean"]) == [6.0, 3.0]


def test_the_best_comes_first_and_nan_last(demo: Folder) -> None:
    kl = "train:loss/kl_q_p"
    for name, bound, divergence in [("rws", -2.0, 5.0), ("vimco", math.nan, 9.0), ("reinforce", -1.0, 7.0)]:
        demo.add(name, {METRIC: [bound], kl: [divergence]})
    order = ["reinforce", "wake-wake", "vimco-arithmetic"]
    assert list(table(demo, f"last:{METRIC}")["estimator"]) == order
    by_kl = ["wake-wake", "reinforce", "vimco-arithmetic"]  # of a divergence less is better
    assert list(table(demo, f"last:{kl}")["estimator"]) == by_kl
    # The first pivot ranks; every group then has all its pivots.
    rows = table(demo, f"last:{METRIC}", f"last:{kl}")
    assert list(zip(rows["estimator"], rows["mean"], strict=True))[:4] == [
        ("reinforce", -1.0),
        ("reinforce", 7.0),
        ("wake-wake", -2.0),
        ("wake-wake", 5.0),
    ]


def test_data_sets_are_not_ranked_against_each_other(demo: Folder) -> None:
    for dataset, values in {"omniglot": [-1.0, -2.0], "binmnist": [-3.0, -4.0]}.items():
        demo.add("rws", values[:1], dataset=dataset)
        demo.add("vimco", values[1:], dataset=dataset)
    assert list(table(demo, f"last:{METRIC}", keys=("dataset", "estimator"))["mean"]) == [-3.0, -4.0, -1.0, -2.0]


def test_a_run_that_diverged_does_not_hide(demo: Folder) -> None:
    demo.add("vimco", [-2.0, -1.0], seed=1)
    demo.add("vimco", [-2.0, None], seed=2, status="failed")
    last, best = table(demo, f"last:{METRIC}", f"max:{METRIC}").to_dict("records")
    assert math.isnan(last["mean"])
    assert (best["mean"], best["runs"], best["done"]) == (-1.5, 2, 1)


def test_a_metric_that_only_some_runs_have(demo: Folder) -> None:
    demo.add("vimco", {METRIC: [-2.0], "valid:loss/L_k": [-3.0]}, seed=1)
    demo.add("vimco", [-4.0], seed=2, status=None)
    demo.add("rws", [-5.0])
    rows = table(demo, f"last:{METRIC}", "last:valid:loss/L_k").to_dict("records")
    assert [(r["mean"], r["seeds"], r["runs"]) for r in rows[:3]] == [(-3.0, 2, 2), (-3.0, 1, 2), (-5.0, 1, 1)]
    assert rows[3]["seeds"] == 0
    assert math.isnan(rows[3]["mean"])


def test_keys_tell_runs_apart_and_a_missing_setting_is_a_value(demo: Folder) -> None:
    demo.add("vimco", [1.0], tau=0.5)
    demo.add("vimco", [2.0])
    demo.add("vimco", [4.0], seed=2)
    rows = table(demo, f"last:{METRIC}", keys=("estimator", "tau"))
    assert list(rows["mean"]) == [3.0, 1.0]
    assert math.isnan(rows["tau"].iloc[0])
    assert list(table(demo, f"last:{METRIC}", keys=())["mean"]) == [2.75]  # of seed 1 it is 1.5, of seed 2 it is 4


def curves(demo: Folder, band: str, *names: str) -> pd.DataFrame:
    experiment = read_experiment(demo.path)
    order = pivot_table(experiment, ["estimator"], [parse_pivot(f"last:{METRIC}")])
    return curve_table(experiment, ["estimator"], [Metric(name) for name in names or (METRIC,)], band, order)


def test_curves_are_means_at_every_step(demo: Folder) -> None:
    demo.add("vimco", [1.0, 2.0], seed=1)
    demo.add("vimco", [3.0, 6.0], seed=2)
    rows = curves(demo, "std")
    assert list(rows["step"]) == [100, 200]
    assert list(rows["mean"]) == [2.0, 4.0]
    # Two values that are d apart: std = d / sqrt(2); half of it on either side.
    half = [2.0 / math.sqrt(2) / 2, 4.0 / math.sqrt(2) / 2]
    np.testing.assert_allclose(rows["mean"] - rows["low"], half, rtol=1e-12)
    np.testing.assert_allclose(rows["high"] - rows["mean"], half, rtol=1e-12)
    assert list(rows["seeds"]) == [2, 2]


@pytest.mark.parametrize("seeds", [2, 3, 31, 32, 60])
def test_confidence_interval(demo: Folder, seeds: int) -> None:
    values = [-1.0 * seed**2 for seed in range(seeds)]
    for seed, value in enumerate(values):
        demo.add("vimco", [value], seed=seed)
    (row,) = curves(demo, "ci").to_dict("records")
    half = student.ppf(0.975, seeds - 1) * np.std(values, ddof=1) / math.sqrt(seeds)
    assert row["high"] - row["mean"] == pytest.approx(half, rel=2e-3)
    assert row["mean"] - row["low"] == pytest.approx(half, rel=2e-3)


def test_quantiles() -> None:
    np.testing.assert_allclose(STUDENT, student.ppf(0.975, np.arange(1, len(STUDENT) + 1)), atol=6e-4)


def test_no_band_for_one_seed_nor_where_none_is_wanted(demo: Folder) -> None:
    demo.add("vimco", [1.0], seed=1)
    assert curves(demo, "std")[["low", "high"]].isna().all(axis=None)
    demo.add("vimco", [2.0], seed=2)
    assert curves(demo, "std")[["low", "high"]].notna().all(axis=None)
    assert curves(demo, "none")[["low", "high"]].isna().all(axis=None)


def test_a_band_around_positive_values_stays_positive(demo: Folder) -> None:
    for seed, value in enumerate([0.01, 0.01, 0.01, 9.0]):
        demo.add("vimco", {METRIC: [0.0], "train:grads/snr": [value]}, seed=seed)
    (row,) = curves(demo, "ci", "train:grads/snr").to_dict("records")
    assert row["low"] == 0.01  # the interval would reach below zero: down to the smallest value then


@pytest.mark.parametrize(("metric", "low"), [("train:grads/snr", 1.0), (METRIC, 1.1 - 0.5 * 0.1**0.5)])
def test_a_band_on_a_logarithmic_axis_ends_at_the_smallest_seed(demo: Folder, metric: str, low: float) -> None:
    """Nine times 1 and once 2: mean 1.1, standard deviation sqrt(0.1); the band is positive, but below every seed."""
    for seed in range(10):
        demo.add("vimco", {METRIC: [0.0], metric: [2.0 if seed == 0 else 1.0]}, seed=seed)
    (row,) = curves(demo, "std", metric).to_dict("records")
    (pivot,) = table(demo, f"last:{metric}").to_dict("records")
    assert [row["low"], pivot["low"]] == pytest.approx([low, low], rel=1e-12)
    high = 1.1 + 0.5 * 0.1**0.5
    assert [row["high"], pivot["high"]] == pytest.approx([high, high], rel=1e-12)


def test_runs_of_one_seed_are_no_repetitions(demo: Folder) -> None:
    """Two seeds at two alphas each: means over alpha of 2 and 6, so 4 +- 2 (standard deviation sqrt(8))."""
    for seed, values in {1: (1.0, 3.0), 2: (5.0, 7.0)}.items():
        for alpha, value in zip((0.0, 0.7), values, strict=True):
            demo.add("vimco", [value], seed=seed, alpha=alpha)
    (row,) = table(demo, f"last:{METRIC}").to_dict("records")
    assert (row["mean"], row["seeds"], row["of"], row["runs"]) == (4.0, 2, 2, 4)
    assert row["se"] == pytest.approx(2.0, rel=1e-12)
    (curve,) = curves(demo, "std").to_dict("records")
    assert (curve["mean"], curve["seeds"]) == (4.0, 2)
    assert curve["std"] == pytest.approx(8**0.5, rel=1e-12)
    assert "2 (4 runs)" in text_table(table(demo, f"last:{METRIC}"), ["estimator"])


def test_one_seed_at_two_settings_has_no_uncertainty(demo: Folder) -> None:
    for alpha, value in ((0.0, 1.0), (0.7, 3.0)):
        demo.add("vimco", [value], alpha=alpha)
    (row,) = table(demo, f"last:{METRIC}").to_dict("records")
    assert (row["mean"], row["seeds"]) == (2.0, 1)
    assert math.isnan(row["se"])
    assert curves(demo, "ci")[["low", "high"]].isna().all(axis=None)


def test_a_step_that_is_not_finite_stays_a_gap(demo: Folder) -> None:
    demo.add("vimco", [1.0, None, 3.0])
    rows = curves(demo, "std")
    assert list(rows["step"]) == [100, 200, 300]
    assert math.isnan(rows["mean"].iloc[1])


def test_curves_keep_the_order_of_the_table_and_of_the_metrics(demo: Folder) -> None:
    for name, value in [("reinforce", -3.0), ("rws", -1.0), ("vimco", -2.0)]:
        demo.add(name, {"train:grads/snr": [1.0], METRIC: [value], "other": [0.0]})
    rows = curves(demo, "std", "train:grads/snr", METRIC)
    assert list(rows["estimator"].unique()) == ["wake-wake", "vimco-arithmetic", "reinforce"]
    assert list(rows["metric"]) == ["train:grads/snr", METRIC] * 3


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
    result = list(smooth_runs(read_experiment(demo.path).curves, 0.5)["value"])
    assert math.isnan(result[1])
    assert [result[0], result[2]] == pytest.approx([1.0, (0.25 * 1.0 + 0.5 * 3.0) / 0.75])


def numbered_curves(**lengths: int) -> pd.DataFrame:
    rows = [{"estimator": name, "metric": "m", "step": i} for name, length in lengths.items() for i in range(length)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 10, 100, 101])
@pytest.mark.parametrize("points", [2, 3, 10, 64])
def test_at_most_so_many_points_the_first_and_the_last_among_them(length: int, points: int) -> None:
    steps = list(thin_curves(numbered_curves(a=length), ["estimator"], points)["step"])
    assert len(steps) == min(length, points)
    assert (steps[0], steps[-1]) == (0, length - 1)
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_curves_are_thinned_one_by_one() -> None:
    thin = thin_curves(numbered_curves(a=9, b=3), ["estimator"], 3)
    assert list(zip(thin["estimator"], thin["step"], strict=True)) == [
        *(("a", 0), ("a", 4), ("a", 8)),
        *(("b", 0), ("b", 1), ("b", 2)),
    ]
