"""The option ``--ensemble`` of the training: exit codes, outcomes and logs of each run; a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ensemble_cases import GMM, check_same

from ovis.experiments.cli.train import main
from ovis.experiments.runs.fencing import lock_run
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import BUSY

SETTINGS = {**GMM, "estimator": "ovis-gamma1", "N": 5}


def words(root: Path, *seeds: str, **changes: object) -> list[str]:
    options = {**SETTINGS, "root": root, **changes}
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    return [*words, "--ensemble", *seeds]


def runs_in(root: Path) -> dict[int, RunPaths]:
    result = [RunPaths(path) for path in (root / "sandbox").iterdir()]
    return {int(run.name.split("seed")[1].split("-")[0]) if "seed" in run.name else 1: run for run in result}


def outcome(run: RunPaths) -> dict[str, object]:
    return json.loads(run.outcome.read_text())


def test_each_run_has_its_own_folder_log_and_outcome(tmp_path):
    assert main(words(tmp_path, "1", "2")) == 0
    runs = runs_in(tmp_path)
    assert set(runs) == {1, 2}
    for seed, run in runs.items():
        assert outcome(run)["status"] == "success"
        assert run.success.exists()
        log = run.log(1).read_text()
        assert run.name in log
        assert runs[3 - seed].name not in log
        assert log.count("step 12/12") == 1
        assert json.loads(run.config.read_text())["settings"]["seed"] == seed


@pytest.mark.slow
def test_a_complete_run_of_an_ensemble_has_nothing_to_do_alone(tmp_path, capsys):
    assert main(words(tmp_path, "1", "2")) == 0
    lines = runs_in(tmp_path)[2].metrics.read_text()
    assert main([*words(tmp_path, "2")[:-2], "--seed=2"]) == 0
    assert runs_in(tmp_path)[2].metrics.read_text() == lines


def test_one_run_that_fails_does_not_stop_the_other(tmp_path):
    assert main(words(tmp_path, "1", "2", nsteps=9)) == 0
    broken = runs_in(tmp_path)[2]
    broken.checkpoint.write_bytes(b"torn")
    broken.previous_checkpoint.unlink(missing_ok=True)
    assert main(words(tmp_path, "1", "2", nsteps=9)) == 1
    assert outcome(runs_in(tmp_path)[1])["status"] == "success"
    assert outcome(broken)["status"] == "exception"
    assert "no whole checkpoint" in str(outcome(broken)["message"])
    assert "no whole checkpoint" in broken.log(2).read_text()
    assert "no whole checkpoint" not in runs_in(tmp_path)[1].log(2).read_text()


@pytest.mark.parametrize("seeds", [["1", "1"], ["x"], ["1:2"], ["1.5"]])
def test_invalid_seeds_are_rejected(seeds, tmp_path, capsys):
    assert main(words(tmp_path, *seeds)) == 2
    assert "--ensemble" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--settings=[]"], "must be a JSON object"),
        (["--settings={}", "--iw=3"], "no other option of a run"),
        (['--settings={"estimater": "vimco"}'], "did you mean 'estimator'"),
        (['--settings={"iw": "many"}'], "--iw: expected int"),
        (['--settings={"estimator": "vimco", "iw": 1}'], "at least 2"),
        (["--attempt=1", "--attempt=2"], "--attempt: there are 1 runs, got 2"),
    ],
)
def test_invalid_settings_of_jobs_are_rejected(more, message, tmp_path, capsys):
    assert main([f"--root={tmp_path}", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_in_use_is_left_unchanged(tmp_path, capsys):
    assert main(words(tmp_path, "1", "2")) == 0
    run = runs_in(tmp_path)[2]
    before = run.outcome.read_bytes()
    with lock_run(run):
        assert main(words(tmp_path, "1", "2")) == BUSY
    assert run.name in capsys.readouterr().err
    assert run.outcome.read_bytes() == before


@pytest.mark.slow
def test_a_kill_between_the_checkpoints_of_two_runs_costs_nothing(tmp_path):
    """The second run's second checkpoint is the last that is written: the runs stand at 12, 12 and 9 steps."""
    command = [sys.executable, "-m", "ovis.experiments.cli.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OVIS_FAILPOINT": "checkpoint.saved:5"}
    killed = subprocess.run([*command, *words(tmp_path / "killed", "1", "2", "3")], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    runs = runs_in(tmp_path / "killed")
    steps = [torch.load(runs[s].checkpoint, weights_only=True)["position"]["step"] for s in (1, 2, 3)]
    assert steps == [12, 12, 9]
    assert main(words(tmp_path / "killed", "1", "2", "3")) == 0
    assert main(words(tmp_path / "whole", "1", "2", "3")) == 0
    for seed, whole in runs_in(tmp_path / "whole").items():
        assert outcome(runs[seed])["status"] == "success"
        check_same(runs[seed], whole, rtol=2e-3, atol=2e-4)
