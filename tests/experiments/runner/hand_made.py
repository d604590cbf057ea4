"""An engine without processes, whose jobs a test moves from state to state, and a display that keeps what it shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from laboratory import Lab, dead_owner

from ovis.experiments.runner.display.progress import ProgressView
from ovis.experiments.runner.engines.interface import JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.experiment_file import ExperimentRun, load_experiment
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import Result, run_experiment
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.fencing import publish_outcome, take_fence
from ovis.experiments.runs.status import AttemptResult, Outcome


@dataclass
class HandMade:
    """An engine whose jobs are in the states that a test has set."""

    lab: Lab
    play: Callable[[HandMade], None]  # called at each poll
    detached: bool = False
    limit: int = 100
    known: tuple[str, ...] = ()
    kind: str = "toy"
    location: str = "toys"
    slots: int = 1
    statuses: dict[str, JobStatus] = field(default_factory=dict)
    jobs: dict[str, JobSpec] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    closed: bool = False

    def check(self, root: Path) -> None:
        pass

    def capacity(self) -> int:
        return self.limit - len(self.jobs)

    def waiting(self) -> str:
        return ""

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        ids = [f"{job.key}.{job.attempt}" for job in jobs]
        self.jobs |= dict(zip(ids, jobs, strict=True))
        self.statuses |= dict.fromkeys(ids, JobStatus(JobPhase.PENDING))
        return [JobHandle(id) for id in ids]

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        self.play(self)
        return {id: self.statuses[id] for id in ids}

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        self.cancelled += ids

    def attach(self, ids: Collection[str]) -> Collection[str]:
        return [id for id in ids if id in self.known]

    def close(self) -> None:
        self.closed = True

    def begin(self, id: str, device: str) -> None:
        self.statuses[id] = JobStatus(JobPhase.RUNNING, device=device)

    def succeed(self, id: str) -> None:
        key, _, attempt = id.partition(".")
        succeed(self.lab, key, int(attempt))
        self.statuses[id] = JobStatus(JobPhase.ENDED)


def succeed(lab: Lab, key: str, attempt: int) -> None:
    """Publish a success, as the job would."""
    record = lab.queue.find(key)
    assert record is not None
    run = lab.paths.run(record.name)
    run.folder.mkdir(exist_ok=True)
    assert take_fence(run, attempt)
    publish_outcome(run, Outcome(AttemptResult.SUCCESS, attempt, t=time.time()))


class Watcher:
    """A display that keeps what it was shown."""

    def __init__(self) -> None:
        self.views: list[ProgressView] = []
        self.lines: list[str] = []

    def show(self, view: ProgressView) -> None:
        self.views.append(view)

    def print(self, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None:
        pass


POLICY = Policy(heartbeat=0.2, ttl=0.8, backoff=0.1)


def queue_runs(lab: Lab, count: int = 1) -> list[ExperimentRun]:
    runs = load_experiment(lab.write(args=[""], seeds=count)).runs
    lab.queue.add([run.record() for run in runs])
    return list(runs)


def work(lab: Lab, runs: list[ExperimentRun], engine: HandMade, display: Watcher | None = None) -> Result:
    template = JobSpec(lab.paths.folder, "", 0)
    return run_experiment(runs, Queue(lab.paths, POLICY), engine, display or Watcher(), template, interval=0.02)


def orphan(lab: Lab, run: ExperimentRun, engine: Mapping[str, str], queue: Queue | None = None) -> None:
    """A run that was claimed by a manager which is dead."""
    queue = queue or lab.queue
    (record,) = queue.tick(dead_owner(), 1, keys=[run.key], engine=engine).claimed
    assert record.attempt == 1
