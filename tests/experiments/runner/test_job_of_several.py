"""A job of several runs: each has its own lock, fence, lease and outcome; what befalls one leaves the others alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovis.experiments.runner.experiment_file import parse_experiment
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.fencing import lock_run, read_fence
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.status import BUSY, Outcome, Record, read_outcome

STUB = (sys.executable, str(Path(__file__).parent / "stub_ensemble.py"))
FILE = {"description": "", "parameters": {"dataset": ["gmm"], "seed": [1, 2, 3]}}


@pytest.fixture
def queue(tmp_path) -> Queue:
    queue = Queue(ExperimentPaths(tmp_path / "lab"))
    queue.paths.folder.mkdir()
    queue.add([run.record() for run in parse_experiment(FILE).runs])
    return queue


@pytest.fixture
def claimed(queue) -> list[Record]:
    return queue.tick("me", 3).claimed


def start(queue: Queue, records: list[Record], does: str = "", **more: int) -> subprocess.Popen[bytes]:
    first, *others = records
    companions = tuple((record.key, record.attempt) for record in others)
    spec = JobSpec(queue.paths.folder, first.key, first.attempt, heartbeat=0.1, companions=companions, command=STUB)
    return subprocess.Popen(spec.argv(), env={**os.environ, "STUB": does}, **more)


def paths_of(queue: Queue, records: list[Record]) -> list[RunPaths]:
    return [queue.paths.run(record.name) for record in records]


def outcomes(queue: Queue, records: list[Record]) -> list[Outcome | None]:
    return [read_outcome(run) for run in paths_of(queue, records)]


def statuses(queue: Queue, records: list[Record]) -> list[str]:
    return [outcome.status.value if outcome else "none" for outcome in outcomes(queue, records)]


def calls(queue: Queue, records: list[Record]) -> list[list[int]]:
    files = [run.folder / "call.json" for run in paths_of(queue, records)]
    return [json.loads(file.read_text()) if file.exists() else [] for file in files]


def test_one_training_makes_them_all(queue, claimed):
    assert start(queue, claimed).wait(30) == 0
    assert calls(queue, claimed) == [[1, 1, 3], [2, 1, 3], [3, 1, 3]]
    assert statuses(queue, claimed) == ["success"] * 3
    assert all(run.success.exists() for run in paths_of(queue, claimed))


@pytest.mark.parametrize(("does", "others"), [("publish", "success"), ("publish die", "signal")])
def test_an_outcome_that_the_training_has_published_stands(does, others, queue, claimed):
    start(queue, claimed, does).wait(30)
    assert statuses(queue, claimed) == ["exception", others, others]
    assert outcomes(queue, claimed)[0].message == "its own"


def test_a_training_that_fails_is_the_end_of_all(queue, claimed):
    assert start(queue, claimed, "fail").wait(30) == 0
    assert [outcome.message for outcome in outcomes(queue, claimed)] == ["error: out of luck"] * 3


def test_a_request_to_stop_reaches_it(queue, claimed):
    job = start(queue, claimed, "stop")
    ready = paths_of(queue, claimed)[0].folder / "ready"
    while not ready.exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0
    assert statuses(queue, claimed) == ["aborted"] * 3


def test_a_run_that_is_revoked_may_publish_nothing_more(queue, claimed):
    job = start(queue, claimed, "fence")
    second = paths_of(queue, claimed)[1]
    while not (second.folder / "call.json").exists():
        time.sleep(0.05)
    Leases(queue.paths).revoke(claimed[1].key, claimed[1].attempt)
    assert job.wait(30) == 0
    assert read_fence(second) == claimed[1].attempt + 1
    assert statuses(queue, claimed) == ["success", "none", "success"]


def test_when_all_are_revoked_it_is_killed(queue, claimed):
    job = start(queue, claimed, "stop")
    ready = paths_of(queue, claimed)[0].folder / "ready"
    while not ready.exists():
        time.sleep(0.05)
    for record in claimed:
        Leases(queue.paths).revoke(record.key, record.attempt)
    job.wait(30)
    assert statuses(queue, claimed) == ["none"] * 3


def test_a_run_that_another_process_holds_is_left_out(queue, claimed):
    second = paths_of(queue, claimed)[1]
    second.folder.mkdir(exist_ok=True)
    with lock_run(second):
        job = start(queue, claimed, stderr=subprocess.PIPE)
        _, errors = job.communicate(timeout=30)
    assert job.returncode == 0
    held = claimed[1]
    assert f"job {held.key}.{held.attempt}: another process holds the run's folder" in errors.decode().splitlines()
    assert calls(queue, claimed) == [[1, 1, 2], [], [3, 1, 2]]
    assert statuses(queue, claimed) == ["success", "none", "success"]


def test_where_none_can_be_held_it_says_so(queue, claimed):
    locks = [lock_run(run) for run in paths_of(queue, claimed) if run.folder.mkdir(exist_ok=True) is None]
    for lock in locks:
        lock.__enter__()
    assert start(queue, claimed).wait(30) == BUSY
    for lock in locks:
        lock.__exit__(None, None, None)
