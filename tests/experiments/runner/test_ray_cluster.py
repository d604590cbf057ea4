"""A real Ray on this machine: sweeps in which processes are killed, and refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from local_ray import in_network_namespace, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

NO_WAY_OUT = re.compile(r"\[.*\] network_util\.cc:\d+: Failed to determine local IP via external connectivity to: ")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sweep_survives_the_loss_of_a_node_a_worker_and_the_manager(tmp_path: Path, seed: int) -> None:
    result = in_network_namespace("sweep", "--seed", str(seed), "--folder", str(tmp_path))
    print(result)
    assert result["holds"], result
    assert result["kills"] == {"worker": 1, "node": 1, "manager": 1}
    assert result["runs"] == 40
    assert result["starts"] > 40  # what was killed began again
    assert result["devices"] == ["n1", "n2", "n3"]


@pytest.mark.parametrize(
    ("away", "overlaps"),
    [("deathsignal,runlock,lease", True), ("runlock,lease", False), ("deathsignal,lease", False)],
)
def test_one_guard_prevents_overlapping_trainings_and_none_does_not(tmp_path: Path, away: str, overlaps: bool) -> None:
    result = in_network_namespace("sweep", "--runs", "4", "--step", "2", "--unguarded", away, "--folder", str(tmp_path))
    assert (result["overlaps"] > 0) is overlaps, result
    assert (result["lost"], result["done_twice"]) == (0, 0), result


def test_refusals_are_one_line_and_leave_no_files(tmp_path: Path) -> None:
    result = in_network_namespace("refusals", "--folder", str(tmp_path))
    line = {name: _only_line(*result[name]) for name in ("auto", "closed", "word", "cuda", "hidden", "other")}
    hint = "start one by `ray start --head`"
    assert line["auto"].startswith(f"--engine ray: no Ray cluster at --address auto: {hint}")
    assert line["closed"].startswith("--engine ray: no Ray cluster at --address 127.0.0.1:6379: ")
    assert hint in line["closed"]
    assert line["word"] == "--address: must be auto or HOST:PORT, got 'ray://head'"
    assert line["cuda"].endswith("3 nodes, 4 CPUs has a GPU and a CPU for runs on --device cuda")
    assert line["hidden"] in {  # whichever answers first
        f"--engine ray: 2 nodes do not fit, e.g. node {node} does not see {tmp_path}/runs: "
        f"--root must be on a file system that all nodes share"
        for node in ("n1", "n2")
    }
    assert line["other"].startswith("--engine ray: node n3 has torch 1.0.0 instead of ")
    code, errors, plan = result["dry"]
    assert (code, _without_ray(errors)) == (0, [])
    assert any("1 run: 1 new" in text for text in plan)
    assert result["written"] == []


def _only_line(code: int, errors: list[str], output: list[str]) -> str:
    """What a manager that gave up says on its standard error, in one line."""
    (line,) = _without_ray(errors)
    assert (code, line[:12]) == (2, "manager.py: ")
    return line.removeprefix("manager.py: ")


def _without_ray(errors: list[str]) -> list[str]:
    """Without the line in which Ray's C++ part complains that there is no way out of a network of the loopback only."""
    return [line for line in errors if not NO_WAY_OUT.match(line)]


def test_an_unsuitable_node_that_joins_is_left_out(tmp_path: Path) -> None:
    result = in_network_namespace("stranger", "--folder", str(tmp_path))
    assert (result["code"], result["counts"], result["devices"]) == (0, {"done": 16}, ["n1"]), result
    assert "node n2 has torch 1.0.0 instead of" in result["text"]


def test_edits_of_the_clone_during_a_sweep_change_nothing(tmp_path: Path) -> None:
    result = in_network_namespace("edited", "--folder", str(tmp_path))
    assert (result["code"], result["counts"], result["lost"]) == (0, {"done": 8}, 0), result


def test_stopping_and_cancelling_running_and_waiting_jobs(tmp_path: Path) -> None:
    result = in_network_namespace("stop", "--folder", str(tmp_path))
    assert (result["code"], result["counts"], result["left"]) == (130, {"queued": 6}, 0), result
    begun = [lines for lines in result["journal"].values() if lines]
    assert [lines[-1] for lines in begun] == ["stopped in 1"] * 2  # with their checkpoints; the others never began
    assert result["seconds"] < 15
    assert (result["again"], result["then"]) == (1, {"done": 4, "cancelled": 2})


def test_the_loss_of_the_head_ends_the_manager_in_one_line(tmp_path: Path) -> None:
    result = in_network_namespace("headless", "--folder", str(tmp_path))
    assert result["code"] == 2
    last = result["text"].splitlines()[-1]
    assert last.startswith("manager.py: --engine ray: the head 127.0.0.1:")
    assert last.endswith("has not answered for 40 s: start the cluster again, then the manager")


def test_two_runs_share_a_gpu(tmp_path: Path) -> None:
    result = in_network_namespace("gpus", "--folder", str(tmp_path))
    assert result["code"] == 0
    assert {*result["seen"]} == {"0", "1"}
    assert sum(result["seen"].values()) == 8
    assert {device: runs for device, runs in result["largest"].items() if device} == {"n1 cuda:0": 2, "n1 cuda:1": 2}


def test_the_quickstart_equals_a_local_one(tmp_path: Path) -> None:
    result = in_network_namespace("quickstart", "--folder", str(tmp_path))
    assert len(result["local"]) == 7
    assert all(len(rows) == 2 for rows in result["local"].values())
    assert result["ray"] == result["local"]
