"""Reading run folders: whole, torn, foreign, empty, resumed, queued."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.read import ExperimentData, read_experiment
from ovis.experiments.reporting.data.run_folders import list_experiments
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import Record, State


def values(experiment: ExperimentData, metric: str = METRIC) -> dict[int, float]:
    """Step -> value, of an experiment with one run."""
    rows = experiment.curves[experiment.curves["metric"] == metric]
    return dict(zip(rows["step"], rows["value"], strict=True))


def test_a_run_becomes_a_row_and_its_values_rows_of_curves(demo: Folder) -> None:
    run = demo.add("vimco", {METRIC: [-3.0, -2.5], "train:grads/snr": [0.5, 0.25]}, seed=4)
    experiment = read_experiment(demo.path)
    (row,) = experiment.runs.to_dict("records")
    assert (row["run"], row["state"], row["evaluations"]) == (run.name, "done", 2)
    assert (row["seed"], row["iw"], row["estimator"]) == (4, 10, "vimco-arithmetic")
    assert experiment.metrics == [METRIC, "train:grads/snr"]
    result = experiment.curves.astype({"run": str, "metric": str}).to_dict("records")
    assert result == [
        {"run": run.name, "step": 100, "time": 1.0, "metric": METRIC, "value": -3.0},
        {"run": run.name, "step": 100, "time": 1.0, "metric": "train:grads/snr", "value": 0.5},
        {"run": run.name, "step": 200, "time": 2.0, "metric": METRIC, "value": -2.5},
        {"run": run.name, "step": 200, "time": 2.0, "metric": "train:grads/snr", "value": 0.25},
    ]
    assert experiment.skipped == ()


def test_settings_that_vary(demo: Folder) -> None:
    demo.add("vimco", [1.0], seed=1)
    demo.add("vimco", [1.0], seed=2, lr=0.1)
    assert set(read_experiment(demo.path).varying) == {"seed", "lr"}


def test_of_a_step_that_comes_twice_the_last_counts_and_steps_are_sorted(demo: Folder) -> None:
    run = demo.add("vimco", [1.0, 2.0, 3.0])
    with (run / "metrics.jsonl").open("a") as file:
        for step, value in ((200, 20.0), (250, 25.0)):
            file.write(json.dumps({"step": step, "time": 9.0, METRIC: value}) + "\n")
    experiment = read_experiment(demo.path)
    assert values(experiment) == {100: 1.0, 200: 20.0, 250: 25.0, 300: 3.0}
    assert list(experiment.curves["step"]) == [100, 200, 250, 300]
    assert list(experiment.curves["time"]) == [1.0, 9.0, 9.0, 3.0]


@pytest.mark.parametrize(
    "rubbish", [b'{"step": 300, "test:lo', b"\xff\xfe\x00", b"[1, 2]", b'{"time": 1.0}', b"null", b""]
)
def test_a_torn_or_foreign_line_is_skipped(demo: Folder, rubbish: bytes) -> None:
    run = demo.add("vimco", [1.0])
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(rubbish + b"\n" + json.dumps({"step": 200, METRIC: 2.0}).encode() + b"\n" + rubbish)
    assert values(read_experiment(demo.path)) == {100: 1.0, 200: 2.0}


def test_null_is_nan_and_what_is_no_number_is_no_metric(demo: Folder) -> None:
    run = demo.add("vimco", [None, math.nan, math.inf])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 400, METRIC: 1, "note": "x", "flag": True, "list": [1]}) + "\n")
    experiment = read_experiment(demo.path)
    result = values(experiment)
    assert math.isnan(result[100])
    assert math.isnan(result[200])
    assert result[300] == math.inf
    assert result[400] == 1.0
    assert experiment.metrics == [METRIC]
    assert math.isnan(experiment.curves["time"].iloc[-1])


@pytest.mark.parametrize(
    ("status", "state"),
    [("success", "done"), ("failed", "failed"), ("signal", "failed"), ("aborted", "aborted"), (None, "unfinished")],
)
def test_states(demo: Folder, status: str | None, state: str) -> None:
    demo.add("vimco", [1.0], status=status, message="out of memory")
    experiment = read_experiment(demo.path)
    assert experiment.states == {state: 1}
    assert experiment.runs["message"].iloc[0] == ("out of memory" if status else "")


def test_a_torn_outcome_is_none(demo: Folder) -> None:
    run = demo.add("vimco", [1.0], status=None)
    (run / "outcome.json").write_text('{"status": "succ')
    assert read_experiment(demo.path).states == {"unfinished": 1}
    (run / "success.txt").touch()
    assert read_experiment(demo.path).states == {"done": 1}


def test_folders_that_are_no_runs_are_listed_with_a_reason(demo: Folder) -> None:
    good = demo.add("vimco", [1.0])
    (demo.path / "empty").mkdir()
    (demo.path / ".hidden").mkdir()
    (demo.path / "a-file").write_text("x")
    for name, config in {"torn": '{"sett', "list": "[]", "foreign": '{"lr": 1}', "flat": '{"settings": 3}'}.items():
        (demo.path / name).mkdir()
        (demo.path / name / "config.json").write_text(config)
    no_metrics = demo.add("rws", [1.0], status="failed", message="killed")
    (no_metrics / "metrics.jsonl").unlink()
    experiment = read_experiment(demo.path)
    assert list(experiment.runs["run"]) == [good.name]
    reasons = {item.name: (item.state, item.reason) for item in experiment.skipped}
    assert reasons == {
        "empty": ("foreign", "no config.json"),
        "torn": ("unreadable", "config.json can't be read (JSONDecodeError)"),
        "list": ("foreign", "config.json holds no settings"),
        "foreign": ("foreign", "config.json holds no settings"),
        "flat": ("foreign", "config.json holds no settings"),
        no_metrics.name: ("failed", "no evaluation: killed"),
    }
    assert experiment.states == {"done": 1, "failed": 1, "unreadable": 1}


def queue(folder: Folder, states: dict[str, str]) -> None:
    """A ledger as the manager writes it."""
    records = [Record(f"key{i}", name, {}, State(state)) for i, (name, state) in enumerate(states.items())]
    rows = {str(i + 1): record.to_row() for i, record in enumerate(records)}
    ExperimentPaths(folder.path).ledger.write_text(json.dumps({"runs": rows}))


def test_the_queue_tells_what_has_no_outcome(demo: Folder) -> None:
    done, training = demo.add("vimco", [1.0]), demo.add("rws", [1.0], status=None)
    again = demo.add("reinforce", [1.0], status="failed")
    (demo.path / "starting").mkdir()
    states = {done.name: "running", training.name: "running", again.name: "queued", "starting": "running"}
    queue(demo, {**states, "waiting": "queued"})
    experiment = read_experiment(demo.path)
    # An outcome is the commit point: the queue may not have seen it yet.
    assert experiment.runs.set_index("run")["state"].to_dict() == {
        done.name: "done",
        training.name: "running",
        again.name: "queued",
    }
    assert experiment.states == {"done": 1, "running": 2, "queued": 2}
    assert {item.name for item in experiment.skipped} == {"starting", "waiting"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": []}', '{"runs": {"1": 3}}'])
def test_a_broken_queue_is_no_queue(demo: Folder, content: str) -> None:
    demo.add("vimco", [1.0])
    ExperimentPaths(demo.path).ledger.write_text(content)
    assert read_experiment(demo.path).states == {"done": 1}


def test_estimators_of_other_versions_and_settings_that_are_lists(demo: Folder) -> None:
    demo.add("ovis-next", [1.0], hidden=[3, 4])
    experiment = read_experiment(demo.path)
    assert list(experiment.runs["estimator"]) == ["ovis-next"]
    assert list(experiment.runs["hidden"]) == ["[3, 4]"]


def test_runs_with_different_settings(demo: Folder) -> None:
    demo.add("vimco", [1.0])
    demo.add("rws", [1.0], new_option=3)
    experiment = read_experiment(demo.path)
    column = experiment.runs.set_index("estimator")["new_option"]
    assert column["wake-wake"] == 3
    assert pd.isna(column["vimco-arithmetic"])


def test_no_experiment(tmp_path: Path, demo: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        read_experiment(tmp_path / "nothing")
    assert list_experiments(demo.root) == ["demo"]
    assert list_experiments(tmp_path / "nothing") == []


def test_an_empty_experiment_has_tables_without_rows(demo: Folder) -> None:
    experiment = read_experiment(demo.path)
    assert (len(experiment.runs), len(experiment.curves), experiment.metrics) == (0, 0, [])
    assert experiment.states == {}
