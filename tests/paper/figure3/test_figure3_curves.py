"""Figure 3's numbers: which runs each panel is of, smoothing against closed forms, tables beside the paper's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import Folder

from ovis.experiments.reporting.data.read import ExperimentData, read_experiment
from ovis.paper.figure3.figure3_curves import WINDOW, curve_table, hann_smooth, select_panel, smoothing_text
from ovis.paper.figure3.figure3_tables import (
    FINAL_STEP,
    final_table,
    final_text,
    step_table,
    step_text,
    unpublished_settings,
)

METRIC = "train:loss/L_k"


def test_the_window_is_that_of_hann() -> None:
    """An impulse comes out as the weights: (1 + cos(pi j / 7)) / 2 over their sum, 7."""
    impulse = np.zeros(41)
    impulse[20] = 1.0
    wanted = [(1 + math.cos(math.pi * j / 7)) / 2 / 7 if abs(j) <= 7 else 0.0 for j in range(-20, 21)]
    actual = hann_smooth(np.arange(41.0), impulse)
    np.testing.assert_allclose(actual, wanted, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 14, 15, 16, 40])
def test_a_straight_line_stays_as_it_is_to_both_ends(n: int) -> None:
    steps = np.arange(n) * 62_490.0
    line = -90.0 + 1e-5 * steps
    np.testing.assert_allclose(hann_smooth(steps, line), line, atol=1e-9)


def test_a_line_at_uneven_steps_stays_as_it_is() -> None:
    steps = np.array([*range(0, 40), 39.01])
    np.testing.assert_allclose(hann_smooth(steps, 2.0 * steps), 2.0 * steps, atol=1e-9)


def test_noise_shrinks_in_the_middle_and_at_the_ends() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 60))
    smooth = np.array([hann_smooth(np.arange(60.0), row) for row in noise])
    # The middle: sum of the squared weights, of cos^4 over one period: 14 3/8 / 49.
    assert smooth[:, 30].std() == pytest.approx(math.sqrt(42 / 8) / 7, rel=0.15)
    assert smooth[:, [0, -1]].std() < 0.85


def test_few_evaluations_are_smoothed_less_and_the_caption_says_so() -> None:
    values = np.array([0.0, 4.0, 0.0, 4.0, 0.0])
    np.testing.assert_array_equal(hann_smooth(np.arange(3.0), values[:3]), values[:3])
    # Five: weights 1/4, 1/2, 1/4.
    assert hann_smooth(np.arange(5.0), values)[2] == pytest.approx(2.0)
    table = pd.DataFrame({"estimator": "iwae", "iw": 5, "step": range(40)})
    assert smoothing_text(table) == f"smoothed with a Hann window of {WINDOW} evaluations"
    assert smoothing_text(table[:14]) == "smoothed with a Hann window of 13 evaluations"
    assert smoothing_text(table[:5]) == "smoothed with a Hann window of 5 evaluations"
    assert smoothing_text(table[:4]) == "not smoothed"


def add(folder: Folder, estimator: str, values: list[float | None], label: str = "iwbound", **settings: object) -> None:
    folder.add(estimator, {METRIC: values}, **{"id": label, "dataset": "binmnist", **settings})  # type: ignore[arg-type]


def read(folder: Folder, figure: str = "left") -> ExperimentData:
    return select_panel(read_experiment(folder.path), figure, "binmnist")


def test_each_panel_has_its_own_runs(demo: Folder) -> None:
    add(demo, "vimco", [-1.0])
    add(demo, "ovis-gamma1", [-1.0], iw=50)
    add(demo, "ovis-gamma1", [-1.0], "iwrbound", iw=50)
    add(demo, "tvo-part2-config1", [-1.0], "iwrbound")
    add(demo, "vimco", [-1.0], dataset="omniglot")
    (demo.path / "foreign").mkdir()
    left, right = read(demo), read(demo, "right")
    assert sorted(left.runs["estimator"]) == ["ovis-gamma1", "vimco-arithmetic"]
    assert sorted(right.runs["estimator"]) == ["ovis-gamma1", "tvo-part2-config1-left"]
    assert set(left.curves["run"]) == set(left.runs["run"])
    assert [item.name for item in left.skipped] == ["foreign"]


def test_curves_are_means_over_seeds_and_keep_k_apart(demo: Folder) -> None:
    add(demo, "vimco", [-4.0, -2.0], seed=1)
    add(demo, "vimco", [-2.0, -1.0, 0.0], seed=2)
    add(demo, "vimco", [-9.0, None], seed=1, iw=50)
    table = curve_table(read(demo), METRIC)
    assert table.to_dict("list") == {
        "estimator": ["vimco-arithmetic"] * 4,
        "iw": [10, 10, 10, 50],
        "step": [100, 200, 300, 100],
        "mean": [-3.0, -1.5, 0.0, -9.0],
        "smoothed": [-3.0, -1.5, 0.0, -9.0],
        "seeds": [2, 2, 1, 1],
    }
    assert curve_table(read(demo), "test:loss/L_k").empty


def test_a_seed_that_ends_early_leaves_no_ramp(demo: Folder) -> None:
    add(demo, "vimco", [-1.0] * 20, seed=1)
    add(demo, "vimco", [-3.0] * 40, seed=2)
    table = curve_table(read(demo), METRIC)
    np.testing.assert_allclose(table["smoothed"], [-2.0] * 20 + [-3.0] * 20)


def curves(*rows: tuple[str, int, int, float, int]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["estimator", "iw", "step", "smoothed", "seeds"])
    return table.assign(mean=table["smoothed"])


def experiment(*runs: tuple[str, int]) -> ExperimentData:
    table = pd.DataFrame(runs, columns=["estimator", "iw"]).assign(run=range(len(runs)))
    return ExperimentData("x", table, pd.DataFrame())


def test_final_values_beside_the_published_ones() -> None:
    table = final_table(
        curves(
            ("vimco-arithmetic", 5, 62_490, -99.0, 3),
            ("vimco-arithmetic", 5, FINAL_STEP, -90.47, 2),
            ("ovis-gamma1", 5, 1_000_000, -91.0, 1),
            ("reinforce", 5, FINAL_STEP, -95.0, 1),
        ),
        experiment(*[("vimco-arithmetic", 5)] * 3, ("ovis-gamma1", 5), ("reinforce", 5)),
        "left",
    ).set_index("estimator")
    assert list(table.index) == ["ovis-gamma1", "vimco-arithmetic", "reinforce"]
    vimco = table.loc["vimco-arithmetic"]
    assert (vimco["value"], vimco["seeds"], vimco["runs"], vimco["published"]) == (-90.47, 2, 3, -90.37)
    assert vimco["difference"] == pytest.approx(-0.10)
    # Not there yet: the published value stands beside ours, a difference would say nothing.
    assert table.loc["ovis-gamma1", "published"] == -90.13
    assert math.isnan(table.loc["ovis-gamma1", "difference"])
    assert math.isnan(table.loc["reinforce", "published"])
    lines = [" ".join(line.split()) for line in final_text(table.reset_index()).splitlines()]
    assert "VIMCO 5 4,000,000 -90.47 2 of 3 -90.37 -0.10" in lines
    assert "OVIS~ (γ=1) 5 1,000,000 -91.00 1 of 1 -90.13 -" in lines


def test_the_published_curve_step_for_step() -> None:
    ours = curves(("ovis-gamma1", 50, 800_000, -89.0, 3), ("ovis-gamma1", 50, 1_200_000, -88.0, 2))
    table = step_table(ours, "left")
    assert list(table["step"]) == [900_000, 1_600_000, 2_400_000, 3_200_000]
    assert list(table["published"]) == [-88.74, -87.55, -87.08, -86.86]
    # A quarter of the way between two evaluations.
    assert table["ours"][0] == pytest.approx(-88.75)
    assert (table["seeds"][0], table["difference"][0]) == (2, pytest.approx(-0.01))
    assert table["ours"][1:].isna().all()
    assert step_text(table).count("not yet") == 3
    assert step_text(step_table(ours, "right")) == ""
    assert step_table(curves(("vimco-arithmetic", 50, 900_000, -89.0, 3)), "left")["ours"].isna().all()


def test_runs_that_are_not_the_papers_experiment() -> None:
    runs = pd.DataFrame({"N": [100, 100], "depth": [3, 3], "lr": [3e-4, 1e-3], "bs": [24, 24]})
    assert unpublished_settings(ExperimentData("x", runs, pd.DataFrame())) == {"N": "100", "lr": "0.001"}
