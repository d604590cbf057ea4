"""Statistics and slopes from draws of known moments, and their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_draws import power_law, standard_draws

from ovis.analysis.gradients import summary
from ovis.functional.statistics import directional_snr
from ovis.paper.figure1.asymptotic_runs import Sample
from ovis.paper.figure1.asymptotic_statistics import (
    GROUPS,
    STATISTICS,
    Measured,
    measure,
    slope_table,
    statistics_table,
)

TOY = {"epsilon": 0.01, "D": 3, "npoints": 100, "q_scale": "std", "seed": 10, "key_filter": "b", "id": ""}


def sample(draws: np.ndarray, estimator: str = "iwae", iw: int = 5, first: int = 0) -> Sample:
    return Sample(TOY, estimator, iw, np.arange(first, first + len(draws)), draws, {})


def measured(estimator: str, snr: tuple[float, float], variance: tuple[float, float], **size: int) -> list[Measured]:
    return [measure(sample(power_law(k, snr, variance, **size), estimator, k)) for k in (3, 12, 54)]


@pytest.fixture
def draws() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((530, 7)) * rng.uniform(0.1, 2.0, 7) + rng.uniform(-1.0, 1.0, 7)


def test_statistics_are_those_of_the_library(draws: np.ndarray) -> None:
    draws[:, 3] = 0.25  # an entry that does not vary is left out
    values = measure(sample(draws)).values
    tensor = torch.from_numpy(draws)
    wanted = summary(tensor.mean(0), tensor.var(0), 1e-30)
    wanted["dsnr"] = directional_snr(tensor, tensor.mean(0))
    assert set(wanted) == set(STATISTICS)
    assert {name: values[name][0] for name in wanted} == pytest.approx({k: float(v) for k, v in wanted.items()})
    assert values["keep_ratio"][0] == pytest.approx(6 / 7)


def test_large_means_do_not_spoil_small_variances() -> None:
    values = measure(sample(1e4 + 1e-3 * standard_draws(500, 3))).values
    assert values["variance"][0] == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("group", [0, 1, GROUPS - 1])
def test_a_group_that_is_left_out_is_as_if_it_had_not_been_drawn(draws: np.ndarray, group: int) -> None:
    left = np.arange(1000, 1530) % GROUPS != group
    actual = measure(sample(draws, first=1000)).values
    wanted = measure(Sample(TOY, "iwae", 5, np.arange(1000, 1530)[left], draws[left], {})).values
    for name in STATISTICS:
        assert actual[name][1 + group] == pytest.approx(wanted[name][0]), name


def test_standard_errors_are_those_of_normal_draws() -> None:
    """With D independent entries, SNR r: se of the variance, the mean and the SNR by textbook."""
    n, D, r = 5000, 40, 0.5
    table = statistics_table([measure(sample(2.0 * (r + np.random.default_rng(3).standard_normal((n, D)))))])
    row = table.iloc[0]
    assert row["variance_se"] == pytest.approx(4.0 * math.sqrt(2 / n / D), rel=0.2)
    assert row["magnitude_se"] == pytest.approx(2.0 / math.sqrt(n * D), rel=0.2)
    assert row["snr_se"] == pytest.approx(math.sqrt((1 + r**2 / 2) / n / D), rel=0.2)
    # Against many repetitions, the DSNR has no textbook.
    rng = np.random.default_rng(4)
    repeated = [measure(sample(r + rng.standard_normal((400, 5)))).values["dsnr"] for _ in range(150)]
    spread = np.std([values[0] for values in repeated], ddof=1)
    errors = [math.sqrt((GROUPS - 1) * np.var(values[1:])) for values in repeated]
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)


def test_the_table_of_statistics() -> None:
    item = measure(Sample(TOY, "ovis-gamma0", 54, np.arange(200), power_law(54, (0.3, 0.5), (2, -3)), {"snr": 2.2}))
    (row,) = statistics_table([item]).to_dict("records")
    assert (row["toy"], row["estimator"], row["iw"], row["draws"]) == ("ε = 0.01", "ovis-gamma0", 54, 200)
    assert row["snr"] == pytest.approx(0.3 * 54**0.5)
    assert row["variance"] == pytest.approx(2 * 54.0**-3)
    assert row["magnitude"] == pytest.approx(row["snr"] * math.sqrt(row["variance"]))
    assert [row[f"snr_p{p}"] for p in (5, 50, 95)] == pytest.approx([row["snr"]] * 3)
    assert (row["keep_ratio"], row["keep_ratio_se"], row["noise_snr"]) == (1.0, 0.0, False)
    assert row["theory_snr"] == 2.2
    assert math.isnan(row["theory_variance"])


def test_slopes_of_power_laws_are_exact() -> None:
    table = slope_table(measured("ovis-gamma0", (0.3, 0.5), (2, -3)) + measured("iwae", (5, -0.5), (2, -1)))
    slopes = {(row["estimator"], row["statistic"]): row for row in table.to_dict("records")}
    wanted = {
        ("ovis-gamma0", "snr"): 0.5,
        ("ovis-gamma0", "variance"): -3.0,
        ("ovis-gamma0", "magnitude"): -1.0,
        ("iwae", "snr"): -0.5,
        ("iwae", "variance"): -1.0,
        ("iwae", "magnitude"): -1.0,
    }
    for key, slope in wanted.items():
        row = slopes[key]
        assert (row["slope"], row["last"]) == pytest.approx((slope, slope)), key
        assert row["fit_se"] == pytest.approx(0.0, abs=1e-9)
        assert row["slope_se"] > 0
        assert (row["points"], row["fitted"]) == (3, "3 12 54")


def test_the_standard_error_of_a_slope_is_propagated_from_its_points() -> None:
    n, D = 2000, 30
    table = slope_table(measured("iwae", (0.5, 0.0), (1, -1), n=n, D=D)).set_index("statistic")
    x = np.log([3, 12, 54])
    spread = math.sqrt(((x - x.mean()) ** 2).sum())
    assert table.loc["variance", "slope_se"] == pytest.approx(math.sqrt(2 / n / D) / spread, rel=0.25)
    assert table.loc["variance", "last_se"] == pytest.approx(math.sqrt(4 / n / D) / (x[2] - x[1]), rel=0.25)


def test_a_curve_has_an_error_of_the_fit() -> None:
    by_iw = [measure(sample(np.sqrt(v) * (1 + standard_draws(50, 3)), iw=k)) for k, v in ((1, 1), (10, 10), (100, 1))]
    row = slope_table(by_iw).set_index("statistic").loc["variance"]
    assert row["slope"] == pytest.approx(0.0, abs=1e-9)
    assert row["last"] == pytest.approx(-1.0)
    assert row["fit_se"] == pytest.approx(math.sqrt((2 / 3) / 2))  # residuals -1/3, 2/3, -1/3 in powers of ten


def test_points_that_are_noise_are_not_fitted() -> None:
    items = measured("reinforce", (1.0, -1.5), (1, 1))  # SNR .19, .024, .0025; 200 draws of nothing show .056
    table = slope_table(items).set_index("statistic")
    assert list(statistics_table(items)["noise_snr"]) == [False, True, True]
    assert table.loc["snr", "fitted"] == table.loc["magnitude", "fitted"] == "3"
    assert table.loc["snr", ["slope", "last"]].isna().all()
    assert table.loc["variance", "slope"] == pytest.approx(1.0)


def test_each_ratio_has_noise_of_its_own() -> None:
    """SNR .3 in 200 draws of 3 entries: far above .056, which noise shows, but the DSNR is below twice .56."""
    items = [measure(sample(power_law(3, (0.3, 0), (1, 0)), iw=3)), measure(sample(power_law(3, (9, 0), (1, 0)), iw=3))]
    table = statistics_table(items)
    assert list(table["noise_snr"]) == list(table["noise_magnitude"]) == list(table["noise_variance"]) == [False, False]
    assert list(table["noise_dsnr"]) == [True, False]


def test_draws_that_are_not_finite_make_no_number() -> None:
    broken = power_law(3, (1, 0), (1, 0))
    broken[7, 1] = np.inf
    items = [measure(sample(broken, iw=3)), *measured("iwae", (1, 0), (1, 0))[1:]]
    table = statistics_table(items)
    assert table.loc[0, list(STATISTICS)].isna().all()
    assert slope_table(items).set_index("statistic").loc["variance", "fitted"] == "12 54"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_draws_are_no_error(n: int) -> None:
    table = statistics_table([measure(sample(np.arange(3.0 * n).reshape(n, 3)))])
    assert isinstance(table, pd.DataFrame)
    assert math.isnan(table.loc[0, "variance"]) == (n == 1)
