"""Cancelling runs while a manager, or nobody but their job, is there."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest
from filelock import FileLock
from laboratory import STUB, Lab, processes_of, record
from queue_by_hand import ME

from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.status import STALE


@pytest.mark.slow
def test_a_manager_stops_a_cancelled_run_at_its_next_tick_and_runs_it_again_when_put_back(lab: Lab) -> None:
    lab.write(args=["--id wait"], parameters={"seed": [1, 2]})
    manager = lab.start()
    lab.wait_for_steps(3)
    first, second = lab.records()
    assert lab.dbutils("--cancel", first.key[:6]) == 0
    assert lab.counts() == {"running": 1, "cancelled": 1}
    # It was asked to stop and had time to: its job's first heartbeat, which would kill it, is due after 10 s.
    lab.wait(lambda: lab.journal()[first.name] == ["start at 0 in 1", "stopped in 1"], seconds=8.0)
    lab.wait(lambda: len(processes_of(lab.paths.folder)) == 3)  # the manager; the other run's job and training
    assert lab.counts() == {"running": 1, "cancelled": 1}
    assert lab.journal()[second.name] == ["start at 0 in 1"]
    assert lab.dbutils("--requeue", first.name) == 0
    lab.wait(lambda: lab.counts() == {"running": 1, "done": 1})
    assert lab.journal()[first.name] == ["start at 0 in 1", "stopped in 1", "start at 3 in 2", "done in 2"]
    assert lab.dbutils("--cancel", second.key) == 0
    shown = manager.communicate(timeout=15)[0]
    assert manager.returncode == 1  # a cancelled run is not done, but nothing is left to wait for
    assert lab.counts() == {"done": 1, "cancelled": 1}
    assert f"cancelled: {first.name}, its job is being stopped" in shown
    assert "1 done, 1 cancelled, after" in shown
    assert lab.run() == 1
    assert lab.counts() == {"done": 1, "cancelled": 1}


@pytest.mark.slow
def test_a_manager_kills_a_cancelled_run_that_ignores_sigterm(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovis.experiments.runner.manager.GRACE", 0.3)
    lab.write(args=["--id stubborn --nsteps 100000"])

    def cancel() -> None:
        lab.wait_for_steps(3, runs=1)
        lab.queue.cancel({lab.records()[0].key})

    thread = threading.Thread(target=cancel)
    thread.start()
    assert lab.run() == 1
    thread.join()
    assert lab.counts() == {"cancelled": 1}
    assert list(lab.journal().values()) == [["start at 0 in 1"]]
    assert processes_of(lab.paths.folder) == []


def test_a_job_whose_manager_is_away_stops_at_its_next_sign_of_life(lab: Lab) -> None:
    queue = lab.queue
    queue.add([record(settings={"id": "stubborn", "nsteps": 100000})])
    (claimed,) = queue.tick(ME, 1).claimed
    spec = JobSpec(lab.paths.folder, claimed.key, 1, heartbeat=0.3, command=STUB)
    with subprocess.Popen(spec.argv()) as job:
        lab.wait_for_steps(3, runs=1)
        assert lab.dbutils("--cancel", claimed.key) == 0
        assert job.wait(10) == STALE
    assert processes_of(lab.paths.folder) == []
    assert not lab.paths.run(claimed.name).outcome.exists()
    assert lab.counts() == {"cancelled": 1}


def test_a_cancelled_job_on_its_way_out_is_not_joined_by_another_one(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Starting from scratch counts attempts from 1 again: the old job would take the new one's lease and fence for its
    own, and both would write."""
    (run,) = load_experiment(lab.write(args=["--id stubborn --nsteps 100000"])).runs
    lab.queue.add([run.record()])
    (claimed,) = lab.queue.tick(ME, 1).claimed
    with subprocess.Popen(JobSpec(lab.paths.folder, claimed.key, 1, heartbeat=60.0, command=STUB).argv()) as job:
        lab.wait_for_steps(3, runs=1)
        lab.queue.cancel({claimed.key})
        assert lab.run("--rf", "--yes") == 2
        shown = capsys.readouterr().err
        assert shown == f"manager.py: a process is at work in {lab.runs()[0].folder}: stop it first, or wait for it\n"
        assert job.poll() is None
        job.kill()
    assert lab.counts() == {"cancelled": 1}


def test_a_queued_run_is_cancelled_under_a_working_manager(lab: Lab) -> None:
    lab.write(args=["--id wait", "--id wait --seed 2", "--id last"])
    manager = lab.start()
    lab.wait_for_steps(3)
    last = lab.records()[2]
    assert lab.dbutils("--cancel", last.key) == 0
    manager.terminate()
    manager.communicate(timeout=15)
    assert lab.counts() == {"queued": 2, "cancelled": 1}
    assert lab.run() == 1
    assert lab.counts() == {"done": 2, "cancelled": 1}
    assert lab.journal()[last.name] == []


@pytest.mark.slow
def test_looking_takes_no_lock_while_a_manager_runs(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--id wait"])
    manager = lab.start()
    lab.wait_for_steps(3, runs=1)
    lab.wait(lambda: lab.records()[0].device == "cpu")  # which the manager notes two seconds later
    (running,) = lab.records()
    with FileLock(lab.paths.lock):
        assert lab.dbutils("--check") == 0
        shown = capsys.readouterr().out
        assert lab.dbutils("--json") == 0
    assert "1 run\n1 running\n" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith(running.key[:8])]
    assert line.split()[1:4] == ["cpu", "3/5", "0.3333"]
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    progress = row["progress"]
    assert (progress["step"], progress["nsteps"]) == (3, 5)
    assert progress["rate"] > 0
    assert progress["left"] == pytest.approx(2 / progress["rate"])
    manager.kill()
