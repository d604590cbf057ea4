"""Costs of training steps: the file of points, statistics by hand, growth of known laws, the published numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ovis.paper.efficiency.cost_tables import (
    COLUMNS,
    add_point,
    cost_table,
    cost_text,
    growth_table,
    known_limits,
    limit_text,
    read_points,
)

DEVICE = "cpu: a machine, 2 threads"


def point(estimator: str, iw: int, memory: float = 1.0, seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    model = "vae" if estimator in ("pathwise-iwae", "stl", "dreg") else "sbm"
    made = {"device": DEVICE, "estimator": estimator, "model": model, "iw": iw, "seed": 1, "steps": 3, "state": "ok"}
    return {**made, "message": "", "memory_mb": memory, "epoch_s": seconds, "data": "synthetic", **more}


def table(*points: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=list(COLUMNS))


def test_points_come_back_and_torn_lines_harm_no_other(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    assert read_points(path).empty
    add_point(path, point("reinforce", 10))
    with path.open("ab") as file:
        file.write(b'{"device": "cpu')
    add_point(path, point("reinforce", 19))
    with path.open("ab") as file:
        file.write(b'[1]\n{"iw": 3}\n\xff\n')
    add_point(path, point("reinforce", 39, seconds=2.5))
    result = read_points(path)
    assert list(result["iw"]) == [10, 19, 39]
    assert result[list(COLUMNS)].to_dict("records")[2] == point("reinforce", 39, seconds=2.5)


def test_a_point_that_was_tried_again_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    add_point(path, point("reinforce", 10, state="failed", message="x", memory_mb=None, epoch_s=None))
    add_point(path, point("reinforce", 10, memory=3.0))
    assert list(read_points(path)["memory_mb"]) == [3.0]


def test_limits_are_the_smallest_k_that_was_too_much_here() -> None:
    points = table(
        point("reinforce", 79, state="memory"),
        point("reinforce", 39, state="time"),
        point("reinforce", 10, state="failed"),
        point("stl", 5, state="memory", device="cuda: x"),
        point("stl", 10),
    )
    assert known_limits(points, DEVICE) == {"reinforce": 39}
    assert limit_text(points, DEVICE) == "REINFORCE out of time from K = 39 on"
    assert limit_text(points[4:], DEVICE) == ""


def test_statistics_by_hand() -> None:
    points = table(
        point("ovis-gamma1", 10, 4.0, 20.0, seed=1),
        point("ovis-gamma1", 10, 6.0, 30.0, seed=2),
        point("ovis-gamma1", 10, 8.0, 40.0, seed=3),
        point("ovis-gamma1", 10, 999.0, 999.0, seed=4, steps=2),  # fewer steps
        point("ovis-gamma1", 10, 999.0, 999.0, device="cuda: another"),
        point("ovis-gamma1", 19, 5.0, 50.0),
        point("ovis-gamma1", 39, state="memory"),
        point("stl", 10, 7.0, 70.0),
    )
    result = cost_table(points, DEVICE)
    assert list(zip(result["measure"], result["estimator"], result["iw"], strict=True)) == [
        ("memory_mb", "ovis-gamma1", 10),
        ("memory_mb", "ovis-gamma1", 19),
        ("memory_mb", "stl", 10),
        ("epoch_s", "ovis-gamma1", 10),
        ("epoch_s", "ovis-gamma1", 19),
        ("epoch_s", "stl", 10),
    ]
    assert list(result["mean"]) == [6.0, 5.0, 7.0, 30.0, 50.0, 70.0]
    assert list(result["runs"]) == [3, 1, 1, 3, 1, 1]
    np.testing.assert_array_equal(result["std"], [2.0, np.nan, np.nan, 10.0, np.nan, np.nan])
    assert (result["low"][0], result["high"][0]) == (5.0, 7.0)
    np.testing.assert_array_equal(result["published"], [12.0, 17.9, np.nan, 17.9, 18.2, np.nan])
    assert list(result["model"]) == ["sbm", "sbm", "vae"] * 2
    assert cost_table(points, "cpu: nobody").empty


def test_growth_of_known_laws() -> None:
    points = [
        point(name, k, c * k**p, 7.0 * k)
        for name, c, p in (("ovis-gamma1", 2.0, 1.0), ("vimco-arithmetic", 0.5, 2.0))
        for k in (10, 2506, 5000)
    ]
    growth = growth_table(cost_table(table(*points), DEVICE)).set_index(["measure", "estimator"])
    assert growth.loc[("memory_mb", "vimco-arithmetic"), "exponent"] == pytest.approx(2.0)
    assert growth.loc[("memory_mb", "vimco-arithmetic"), "ratio"] == pytest.approx(1250.0)
    assert growth.loc[("epoch_s", "vimco-arithmetic"), "exponent"] == pytest.approx(1.0)
    assert growth.loc[("epoch_s", "vimco-arithmetic"), "ratio"] == pytest.approx(1.0)
    # The paper's claim: VIMCO needs 3.3 times the memory and 2.7 times the time at K = 5000.
    assert growth.loc[("memory_mb", "vimco-arithmetic"), "published_ratio"] == pytest.approx(3.3, abs=0.01)
    assert growth.loc[("epoch_s", "vimco-arithmetic"), "published_ratio"] == pytest.approx(2.7, abs=0.02)
    alone = growth_table(cost_table(table(point("stl", 10)), DEVICE))
    assert alone[["exponent", "ratio", "published_exponent"]].isna().all(axis=None)


def test_the_text_says_what_is_whose() -> None:
    costs = cost_table(table(point("ovis-gamma1", 10, 4.35, 1234.5), point("dreg", 19, 5.0, 6.0)), DEVICE)
    lines = [" ".join(line.split()) for line in cost_text(costs, DEVICE).splitlines()]
    assert lines[0] == f"on {DEVICE}; one repetition"
    assert lines[2:6] == ["Peak memory [MB]", "K OVIS~ (γ=1) DReG", "10 4.35 / 12 -", "19 - 5"]
    assert "10 1234 / 17.9 -" in lines
    assert "none is published of a CPU" in cost_text(costs, DEVICE)
    assert "another GPU" in cost_text(costs, "cuda: x")
    assert json.dumps(lines).count("nan") == 0
    assert not math.isnan(costs["mean"].sum())
