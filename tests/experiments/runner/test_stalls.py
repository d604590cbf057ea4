"""Runs whose progress stands still are reported, or put back; those that are slow are left alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from hand_made import POLICY, HandMade, Watcher, queue_runs
from laboratory import Lab, command_of, processes_of

from ovis.experiments.runner import stalls
from ovis.experiments.runner.engines.interface import JobPhase, JobStatus
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import run_experiment
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.stalls import FACTOR, LIMIT, StallWatch
from ovis.experiments.runs.status import Progress, State


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A job that is looked at every second."""

    def __init__(self, limit: float | None) -> None:
        self.clock = Clock()
        self.watch = StallWatch(limit, self.clock)
        self.progress: Progress | None = None

    def step(self) -> None:
        step = 1 if self.progress is None else self.progress.step + 1
        self.progress = Progress(step, 1000, 0.0, self.clock.now)

    def wait(self, seconds: int, lost: int = 0) -> list[float]:
        """When a stall was reported, in seconds since the call."""
        begin, times = self.clock.now, []
        for _ in range(seconds):
            self.clock.now += 1.0
            if self.watch.look("1", self.progress, lost) is not None:
                times.append(self.clock.now - begin)
        return times


@pytest.mark.parametrize("limit", [None, 60])
def test_a_run_may_take_long_to_begin(limit: float | None) -> None:
    job = Watched(limit)
    (time,) = job.wait(2000)
    assert time == pytest.approx(LIMIT, abs=2)


def test_a_stall_is_reported_once_and_the_next_one_again() -> None:
    job = Watched(30)
    job.wait(1)
    job.step()
    assert job.wait(100) == [pytest.approx(30, abs=2)]
    job.step()
    assert job.wait(5000) == [pytest.approx(FACTOR * 100, abs=12)]  # the last pause says that this run may pause


def test_the_limit_follows_the_pace_of_the_run() -> None:
    """A pause is no stall if there was one a tenth as long, as those of evaluations are."""
    job = Watched(60)
    job.wait(1)
    job.step()
    for pause in (50, 450, 4000):
        assert job.wait(pause) == []
        job.step()
    assert job.wait(50_000) == [pytest.approx(FACTOR * 4000, abs=12)]


def test_each_loss_doubles_the_limit() -> None:
    job = Watched(60)
    job.wait(1)
    job.step()
    (time,) = job.wait(1000, lost=3)
    assert time == pytest.approx(480, abs=2)


def test_the_time_in_which_nobody_looked_does_not_count() -> None:
    """The watching process was stopped, and perhaps the job with it."""
    job = Watched(300)
    job.wait(1)
    job.step()
    assert job.wait(10) == []
    job.clock.now += 7200
    assert job.wait(200) == []
    assert job.wait(200) != []


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a second."""
    monkeypatch.setattr(stalls, "FACTOR", 1.0)
    monkeypatch.setattr(stalls, "LIMIT", 1.0)


def trainings_of(lab: Lab) -> list[int]:
    return [pid for pid in processes_of(lab.paths.folder) if "--run_dir=" in command_of(pid)]


def stop_the_training(lab: Lab, then: Callable[[int], None] = lambda pid: None) -> threading.Thread:
    """A thread that sends SIGSTOP to the training when it has begun; ``then`` is called with its process id."""

    def stop() -> None:
        lab.wait_for_steps(2, runs=1)
        (pid,) = trainings_of(lab)
        os.kill(pid, signal.SIGSTOP)
        then(pid)

    thread = threading.Thread(target=stop)
    thread.start()
    return thread


SLOW = {"args": ["--estimator vimco --iw 2 --nsteps 6 --id step100"]}


@pytest.mark.parametrize("limit", [None, 0.2])
@pytest.mark.usefixtures("hasty")
def test_the_manager_reports_a_stall_and_puts_the_run_back_by_choice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    monkeypatch.setattr(stalls, "LIMIT", 0.2)
    monkeypatch.setattr("ovis.experiments.runner.manager.VIEW_INTERVAL", 0.01)
    (run,) = queue_runs(lab)
    display, begin = Watcher(), time.monotonic()

    def play(engine: HandMade) -> None:
        for id in engine.jobs:
            lab.queue.leases.beat(*split(id))
            if engine.statuses[id].phase is JobPhase.PENDING:
                engine.begin(id, "node-1")
                paths = lab.paths.run(run.identity.name)
                paths.folder.mkdir(exist_ok=True)
                paths.progress.write_text('{"step": 1, "nsteps": 5, "t": 9e9}')
            elif id.endswith(".2") or time.monotonic() > begin + 1.0 + 10 * bool(limit):
                engine.succeed(id)
            elif id in engine.cancelled:
                engine.statuses[id] = JobStatus(JobPhase.ENDED)

    engine = HandMade(lab, play)
    template = JobSpec(lab.paths.folder, "", 0)
    result = run_experiment(
        [run], Queue(lab.paths, POLICY), engine, display, template, stall_limit=limit, interval=0.02
    )
    assert result.complete
    (record,) = lab.records()
    assert (record.attempt, record.lost) == ((1, 0) if limit is None else (2, 1))
    assert engine.cancelled == ([] if limit is None else [f"{run.key}.1"])
    lines = [line for line in display.lines if "no progress for" in line]
    assert len(lines) == 1
    assert lines[0].startswith(
        "no progress for 00:00: " if limit is None else f"put back {record.name}, attempt 1 lost: "
    )


def split(id: str) -> tuple[str, int]:
    key, _, attempt = id.partition(".")
    return key, int(attempt)


@pytest.mark.slow
def test_a_stopped_training_is_reported(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stalls, "FACTOR", 0.1)  # of a slow beginning on a busy machine
    monkeypatch.setattr(stalls, "LIMIT", 1.0)
    lab.write(**SLOW)

    def go_on(pid: int) -> None:
        time.sleep(2.5)
        os.kill(pid, signal.SIGCONT)

    thread = stop_the_training(lab, go_on)
    assert lab.run() == 0
    thread.join()
    (run,) = lab.runs()
    lines = [line for line in capfd.readouterr().err.splitlines() if "no progress" in line]
    lines = [line for line in lines if "it has not begun" not in line]  # on a busy machine
    assert lines
    assert f": {run.name}, step " in lines[0]
    assert f" of 6; log: {run.log(1)}, which ends with: step " in lines[0]
    assert [(record.attempt, record.lost) for record in lab.records()] == [(1, 0)]


@pytest.mark.slow
def test_a_stopped_training_is_put_back_by_choice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stalls, "FACTOR", 0.1)  # of a slow beginning on a busy machine, which may take LIMIT
    lab.policy = Policy(heartbeat=0.2, ttl=5.0, backoff=0.1)
    lab.write(**SLOW)
    thread = stop_the_training(lab)
    assert lab.run("--stall_limit", "3") == 0
    thread.join()
    assert [(record.state, record.attempt, record.lost) for record in lab.records()] == [(State.DONE, 2, 1)]
    assert "attempt 1 lost: no progress for 3 s" in capfd.readouterr().err
    (journal,) = lab.journal().values()
    assert not any(line.startswith("overlap") for line in journal)
    assert not trainings_of(lab)
