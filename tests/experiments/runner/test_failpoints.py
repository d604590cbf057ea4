"""SIGKILL at every row of the crash table, then a restart: every run comes to its end, and none is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from laboratory import Lab, processes_of
from slow_cases import slow_except

from ovis.experiments.runner.queue.retry_policy import Policy

#: Three runs in two slots.
RUNS = {"args": ["--estimator vimco --iw 2"], "parameters": {"seed": [1, 2, 3]}}
FRESH = ["start at 0 in 1", "done in 1"]

#: Where the manager dies, and how many attempts the runs have had when all of them are done.
MANAGER_DIES = {
    "ledger.temporary:1": [1, 1, 1],  # in add
    "ledger.temporary:2": [1, 1, 1],  # in the first claim
    "ledger.temporary:3": None,  # in a later tick: its jobs die with it, and may have been done
    "ledger.temporary:4": None,
    "claim.leased": [1, 1, 1],
    "claim.leased:2": [1, 1, 1],
    "claim.committed": [1, 2, 2],  # nothing was spawned, but the ledger says so
    "claim.committed:2": None,  # one job runs, the other one does not
    "job.submitted": None,
    "job.submitted:2": None,
    "finish.seen": None,
}


def check_converged(lab: Lab) -> None:
    """Every run is done, nobody overlapped, no step was lost, and nothing is run again once an outcome is there."""
    assert lab.counts() == {"done": 3}
    for name, lines in lab.journal().items():
        assert lines[-1].startswith("done"), (name, lines)
        assert not any(line.startswith("overlap") for line in lines), (name, lines)
        starts = [int(line.split()[2]) for line in lines if line.startswith("start")]
        assert starts == sorted(starts), (name, lines)
        # A job that is killed between the training's last word and its outcome makes the next one say it again.
        assert all(step == 5 for step in starts[1:] if lines[1].startswith("done")), (name, lines)
    for run, record in zip(lab.runs(), lab.records(), strict=True):
        outcome = json.loads(run.outcome.read_text())
        assert outcome["status"] == "success"
        assert outcome["attempt"] == record.attempt
    before = lab.journal()
    assert lab.run() == 0
    assert lab.journal() == before


def dbutils_dies(lab: Lab, failpoint: str, *options: str) -> None:
    environment = {**os.environ, "OVIS_FAILPOINT": failpoint}
    died = subprocess.run(lab.dbutils_command(*options), env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", slow_except(["claim.leased", "job.submitted:2"], MANAGER_DIES))
def test_the_manager_dies_and_a_restart_converges(lab: Lab, name: str) -> None:
    lab.write(**RUNS)
    manager = lab.start(OVIS_FAILPOINT=name)
    manager.communicate(timeout=30)
    assert manager.returncode == -signal.SIGKILL
    lab.wait(lambda: not processes_of(lab.paths.folder))  # its jobs went with it
    lab.queue.read()  # whole, whatever it holds
    assert lab.run() == 0
    expected = MANAGER_DIES[name]
    if expected is not None:
        assert sorted(record.attempt for record in lab.records()) == expected
        journal = [[f"start at 0 in {r.attempt}", f"done in {r.attempt}"] for r in lab.records()]
        assert list(lab.journal().values()) == journal
    check_converged(lab)


@pytest.mark.parametrize(
    ("name", "journal"),
    [
        ("job.fenced", ["start at 0 in 2", "done in 2"]),
        # the training dies with its wrapper, sooner or later in its start
        pytest.param("job.spawned", None, marks=pytest.mark.slow),
        pytest.param("outcome.published", FRESH, marks=pytest.mark.slow),  # not run again
        ("checkpoint.temporary:3", ["start at 0 in 1", "start at 2 in 2", "done in 2"]),
    ],
)
def test_a_job_dies_and_the_manager_itself_converges(lab: Lab, name: str, journal: list[str] | None) -> None:
    lab.policy = Policy(heartbeat=0.5, ttl=20.0)
    lab.write(**RUNS)
    mark = lab.folder / "mark"
    manager = lab.start(OVIS_FAILPOINT=name, OVIS_FAILPOINT_MARK=str(mark))
    shown = manager.communicate(timeout=60)[0]
    assert mark.exists()
    assert manager.returncode == 0, shown
    others = [lines for lines in lab.journal().values() if lines == FRESH]
    assert len(others) == (3 if journal == FRESH else 2)
    if journal is not None:
        assert journal in lab.journal().values()
    lost = 1 if name != "outcome.published" else 0
    assert sum(record.lost for record in lab.records()) == lost
    check_converged(lab)


@pytest.mark.slow
def test_a_requeue_dies_between_the_ledger_and_the_outcomes(lab: Lab) -> None:
    lab.write(**RUNS)
    assert lab.run() == 0
    dbutils_dies(lab, "requeue.written", "--requeue_level", "10000")
    assert all(run.outcome.exists() for run in lab.runs())  # of the attempts that no longer count
    assert lab.counts() == {"queued": 3}
    for run in lab.runs():
        (run.folder / "checkpoint.txt").unlink()
    assert lab.run() == 0
    assert list(lab.journal().values()) == [[*FRESH, "start at 0 in 2", "done in 2"]] * 3
    assert lab.counts() == {"done": 3}


@pytest.mark.slow
def test_a_cancel_dies_behind_the_ledger(lab: Lab) -> None:
    lab.write(args=["--id wait"])
    manager = lab.start()
    lab.wait_for_steps(3, runs=1)
    dbutils_dies(lab, "cancel.written", "--cancel", lab.records()[0].key)
    manager.communicate(timeout=30)
    assert manager.returncode == 1
    assert lab.counts() == {"cancelled": 1}
    assert not processes_of(lab.paths.folder)


@pytest.mark.slow
def test_a_restart_from_scratch_dies_between_the_folders_and_the_ledger(lab: Lab) -> None:
    lab.write(**RUNS)
    assert lab.run() == 0
    manager = lab.start("--rf", "--yes", OVIS_FAILPOINT="clear.renamed")
    manager.communicate(timeout=30)
    assert manager.returncode == -signal.SIGKILL
    assert lab.counts() == {"done": 3}  # records without folders; never new runs in old folders
    assert lab.run("--rf", "--yes") == 0
    check_converged(lab)
    assert list(lab.journal().values()) == [FRESH] * 3


def test_every_failpoint_of_the_runner_is_tested() -> None:
    """A new failpoint wants a test; one that was renamed would leave a test that kills nothing."""
    root = Path(__file__).parents[3]
    there = {
        part.split('"')[0]
        for path in (root / "ovis").rglob("*.py")
        for part in path.read_text().split('failpoint("')[1:]
    }
    tests = "".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    assert there
    assert not {name for name in there if f'"{name}' not in tests}
