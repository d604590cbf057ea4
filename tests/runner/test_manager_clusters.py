"""The manager before a cluster: runs that wait in the cluster's queue, and jobs that outlive their manager.

The cluster is a list here; what its jobs do is done by hand.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from laboratory import Lab, dead_owner

from ovis.runner.engines.base import EngineError, Handle, NotNow, Phase, Status
from ovis.runner.events import Launched
from ovis.runner.grid import Run, load_experiment
from ovis.runner.guards import publish_outcome, take_fence
from ovis.runner.job import JobSpec
from ovis.runner.manager import Result, run_experiment
from ovis.runner.progress import View
from ovis.runner.queue import Queue
from ovis.runner.status import Ending, Outcome, State, read_outcome
from ovis.runner.transitions import Policy


@dataclass
class HandMade:
    """An engine whose jobs stand where they are put. A job that runs beats; one that ends is a success."""

    lab: Lab
    play: Callable[[HandMade], None]  # called at each poll
    detached: bool = False
    room: int = 100
    known: tuple[str, ...] = ()
    kind: str = "toy"
    place: str = "toys"
    slots: int = 1
    statuses: dict[str, Status] = field(default_factory=dict)
    jobs: dict[str, JobSpec] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    closed: bool = False

    def check(self, root: Path) -> None:
        pass

    def capacity(self) -> int:
        return self.room - len(self.jobs)

    def waiting(self) -> str:
        return ""

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[Handle | OSError]:
        ids = [f"{job.key}.{job.attempt}" for job in jobs]
        self.jobs |= dict(zip(ids, jobs, strict=True))
        self.statuses |= dict.fromkeys(ids, Status(Phase.PENDING))
        return [Handle(id) for id in ids]

    def poll(self, ids: Collection[str]) -> Mapping[str, Status]:
        self.play(self)
        return {id: self.statuses[id] for id in ids}

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        self.cancelled += ids

    def attach(self, ids: Collection[str]) -> Collection[str]:
        return [id for id in ids if id in self.known]

    def close(self) -> None:
        self.closed = True

    def begin(self, id: str, device: str) -> None:
        self.statuses[id] = Status(Phase.RUNNING, device=device)

    def succeed(self, id: str) -> None:
        key, _, attempt = id.partition(".")
        succeed(self.lab, key, int(attempt))
        self.statuses[id] = Status(Phase.ENDED)


def succeed(lab: Lab, key: str, attempt: int) -> None:
    """What a job does that has come to its end."""
    record = lab.queue.find(key)
    assert record is not None
    run = lab.paths.run(record.name)
    run.folder.mkdir(exist_ok=True)
    assert take_fence(run, attempt)
    publish_outcome(run, Outcome(Ending.SUCCESS, attempt, t=time.time()))


class Watcher:
    """A display that keeps what it was shown."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.said: list[str] = []

    def show(self, view: View) -> None:
        self.views.append(view)

    def say(self, line: str) -> None:
        self.said.append(line)

    def close(self) -> None:
        pass


POLICY = Policy(heartbeat=0.2, ttl=0.8, backoff=0.1)


def queue_runs(lab: Lab, count: int = 1) -> list[Run]:
    runs = load_experiment(lab.write(args=[""], seeds=count)).runs
    lab.queue.add([run.record() for run in runs])
    return list(runs)


def work(lab: Lab, runs: list[Run], engine: HandMade, display: Watcher | None = None) -> Result:
    template = JobSpec(lab.paths.folder, "", 0)
    return run_experiment(runs, Queue(lab.paths, POLICY), engine, display or Watcher(), template, interval=0.02)


def orphan(lab: Lab, run: Run, engine: Mapping[str, str], queue: Queue | None = None) -> None:
    """A run that was claimed by a manager which is dead."""
    queue = queue or lab.queue
    (record,) = queue.tick(dead_owner(), 1, keys=[run.key], engine=engine).claimed
    assert record.attempt == 1


def test_a_run_that_waits_for_a_node_is_not_taken_for_lost(lab: Lab) -> None:
    """Twice as long as a lease lasts; its heartbeat can't come from the job, which is not there yet."""
    (run,) = queue_runs(lab)
    id, begin = f"{run.key}.1", time.monotonic()
    seen = []

    def play(engine: HandMade) -> None:
        age = time.monotonic() - begin
        if id in engine.jobs and engine.statuses[id].phase is Phase.PENDING and age > 2 * POLICY.ttl:
            record = lab.queue.find(run.key)
            assert record is not None
            seen.append((record.state, record.device, record.started, time.time()))
            engine.begin(id, "node-7 cuda:1")
        elif age > 2 * POLICY.ttl + 3.0:
            record = lab.queue.find(run.key)
            assert record is not None
            seen.append((record.state, record.device, record.started, time.time()))
            engine.succeed(id)
        if id in engine.jobs and engine.statuses[id].phase is Phase.RUNNING:
            lab.queue.leases.beat(run.key, 1)

    display = Watcher()
    assert work(lab, [run], HandMade(lab, play), display).complete
    record = lab.queue.find(run.key)
    assert record is not None
    assert (record.attempt, record.lost, record.device) == (1, 0, "node-7 cuda:1")
    (_, nowhere, _, placed), (_, device, started, _) = seen[0], seen[-1]
    assert (nowhere, device) == ("", "node-7 cuda:1")
    assert started == pytest.approx(placed, abs=0.3)  # not the time of its claim
    waiting = [view for view in display.views if view.pending]
    assert waiting[0].summary() == "1 running (1 without a node yet)"
    assert not waiting[0].running
    assert any([run.device for run in view.running] == ["node-7 cuda:1"] for view in display.views)
    assert display.said == []


def test_a_job_that_was_taken_over_is_followed_to_its_end(lab: Lab) -> None:
    (run,) = queue_runs(lab)
    id = f"{run.key}.1"
    orphan(lab, run, {"kind": "toy", "detached": "yes"})
    lab.queue.tick(dead_owner(), 0)  # another manager's: it stands
    engine = HandMade(lab, lambda engine: polls.append(1) or (engine.succeed(id) if len(polls) > 5 else None), True)
    polls: list[int] = []
    record = lab.queue.find(run.key)
    assert record is not None
    assert record.state is State.RUNNING
    launched = Launched(run.key, 1, {"kind": "toy", "detached": "yes", "id": id}, "node-1")
    lab.queue.tick(dead_owner(), 0, launched=[launched])
    engine.known, engine.statuses = (id,), {id: Status(Phase.RUNNING, device="node-1")}
    display = Watcher()
    assert work(lab, [run], engine, display).complete
    record = lab.queue.find(run.key)
    assert record is not None
    assert (record.attempt, engine.jobs, engine.cancelled) == (1, {}, [])
    assert display.said == []


@pytest.mark.parametrize("finished", [True, False])
def test_a_job_that_is_gone_is_settled_by_its_folder(lab: Lab, finished: bool) -> None:
    (run,) = queue_runs(lab)
    orphan(lab, run, {"kind": "toy", "detached": "yes", "id": "gone"})
    if finished:
        succeed(lab, run.key, 1)
    engine = HandMade(lab, lambda engine: [engine.succeed(id) for id in engine.jobs], True)
    assert work(lab, [run], engine).complete
    record = lab.queue.find(run.key)
    assert record is not None
    assert (record.attempt, record.lost) == ((1, 0) if finished else (2, 1))
    outcome = read_outcome(lab.paths.run(record.name))
    assert outcome is not None
    assert outcome.attempt == record.attempt


def test_a_detached_job_that_nobody_noted_keeps_its_run_while_it_beats(lab: Lab) -> None:
    """Its manager was killed between handing it over and noting that: only the lease can tell."""
    (run,) = queue_runs(lab)
    queue = Queue(lab.paths, POLICY)
    orphan(lab, run, {"kind": "toy", "detached": "yes"}, queue)
    end = time.monotonic() + 2 * POLICY.ttl
    while time.monotonic() < end:
        lab.queue.leases.beat(run.key, 1)
        assert not queue.tick("me:1:1:u", 0).events
        time.sleep(0.1)
    lab.wait(lambda: bool(queue.tick("me:1:1:u", 0).events), 5.0)
    record = lab.queue.find(run.key)
    assert record is not None
    assert (record.state, record.reason) == (State.QUEUED, "lost")


def test_the_same_of_a_local_job_is_settled_at_once(lab: Lab) -> None:
    (run,) = queue_runs(lab)
    orphan(lab, run, {"kind": "local"})
    (event,) = lab.queue.tick("me:1:1:u", 0).events
    assert event.record.reason == "orphaned"
    assert event.record.not_before <= time.time()


def test_on_a_cluster_an_orphan_gets_the_time_to_notice(lab: Lab) -> None:
    """Another host may run it: its lease is gone, which it sees at its next heartbeat."""
    (run,) = queue_runs(lab)
    orphan(lab, run, {"kind": "ray"})
    (event,) = Queue(lab.paths, Policy(heartbeat=7.0)).tick("me:1:1:u", 1).events
    assert event.record.not_before - time.time() == pytest.approx(7.0, abs=1.0)
    assert not lab.queue.leases.beat(run.key, 1)


@pytest.mark.parametrize("detached", [True, False])
def test_where_the_cluster_is_gone_only_jobs_that_need_the_manager_are_told(lab: Lab, detached: bool) -> None:
    (run,) = queue_runs(lab)

    def play(engine: HandMade) -> None:
        if engine.jobs:
            raise EngineError("--engine toy: the cluster is gone")

    engine = HandMade(lab, play, detached)
    with pytest.raises(EngineError, match="the cluster is gone"):
        work(lab, [run], engine)
    assert engine.cancelled == ([] if detached else [f"{run.key}.1"])
    assert engine.closed
    (record,) = lab.records()  # it had no node yet
    assert (record.state, record.reason, record.lost) == (State.QUEUED, "aborted", 0)
    assert record.error == "--engine toy: the cluster is gone"
    assert record.not_before <= time.time()


def test_a_cluster_that_goes_away_as_jobs_are_handed_over_strands_none(lab: Lab) -> None:
    """The one that runs is known to the next manager, the one that waits and the new ones may start at once."""
    runs = queue_runs(lab, 3)
    ids = [f"{run.key}.1" for run in runs]

    class Leaving(HandMade):
        def submit(self, jobs: Sequence[JobSpec]) -> Sequence[Handle | OSError]:
            if self.jobs:
                raise EngineError("--engine toy: refuses the jobs")
            return super().submit(jobs)

    def play(engine: HandMade) -> None:
        if len(engine.jobs) == 2:
            engine.begin(ids[0], "node-1")
            engine.room = 3

    engine = Leaving(lab, play, detached=True, room=2)
    with pytest.raises(EngineError, match="refuses the jobs"):
        work(lab, runs, engine)
    states = [(record.state, record.reason, record.lost) for record in lab.records()]
    assert states == [(State.RUNNING, "", 0), (State.QUEUED, "aborted", 0), (State.QUEUED, "aborted", 0)]
    assert lab.records()[0].engine == {"kind": "toy", "detached": "yes", "id": ids[0]}

    lab.queue.tick(dead_owner(), 0, launched=[Launched(runs[0].key, 1, lab.records()[0].engine or {}, "node-1")])
    second = HandMade(lab, lambda engine: [engine.succeed(id) for id in engine.statuses], True, known=(ids[0],))
    second.statuses[ids[0]] = Status(Phase.RUNNING, device="node-1")
    begin = time.monotonic()
    assert work(lab, runs, second).complete
    assert time.monotonic() - begin < POLICY.ttl  # nothing has had to be found lost
    assert [(record.attempt, record.lost) for record in lab.records()] == [(1, 0), (2, 0), (2, 0)]


def test_a_second_stop_ends_the_manager_though_the_cluster_does_not_answer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs' leases go with their attempts: where a job lives, it ends by that."""
    monkeypatch.setattr("ovis.runner.manager.GRACE", 0.5)
    (run,) = queue_runs(lab)
    polls: list[int] = []

    def play(engine: HandMade) -> None:
        if engine.jobs:
            engine.begin(f"{run.key}.1", "node-1")
            polls.append(1)
            lab.queue.leases.beat(run.key, 1)
        if len(polls) in (5, 10):
            signal.raise_signal(signal.SIGINT)

    result = work(lab, [run], HandMade(lab, play, detached=True))
    assert result.interrupted
    (record,) = lab.records()
    assert (record.state, record.reason, record.lost) == (State.QUEUED, "aborted", 0)
    assert record.error == "killed on request, and not heard of since"
    assert not lab.queue.leases.beat(run.key, 1)


def test_a_run_of_several_that_another_process_holds_waits_for_it(lab: Lab) -> None:
    """The exit code of a job of several runs is that of its first one; of the others it says so in a line."""
    (run,) = queue_runs(lab)

    def play(engine: HandMade) -> None:
        if engine.jobs:
            (id,) = engine.jobs
            lab.paths.jobs_log.write_text(f"job {id}: another process holds the run's folder\n")
            engine.statuses[id] = Status(Phase.ENDED, 0)
            signal.raise_signal(signal.SIGINT)  # it would be tried again

    work(lab, [run], HandMade(lab, play))
    (record,) = lab.records()
    assert (record.state, record.reason, record.lost) == (State.QUEUED, "busy", 0)


def test_more_is_claimed_than_runs_at_once_but_no_more_than_the_engine_takes(lab: Lab) -> None:
    runs = queue_runs(lab, 5)
    most = []

    def play(engine: HandMade) -> None:
        most.append(len(engine.jobs))
        for id in [*engine.jobs][:1]:
            engine.succeed(id)
            engine.jobs.pop(id)

    assert work(lab, runs, HandMade(lab, play, room=3)).complete
    assert max(most) == 3


@pytest.mark.parametrize(("refusal", "lost"), [(NotNow("come back later"), 0), (OSError("no more processes"), 1)])
def test_a_cluster_that_takes_no_job_for_a_while_counts_against_none(lab: Lab, refusal: OSError, lost: int) -> None:
    """Where the fault may be the job's own, it does."""
    refused: list[OSError] = []

    class Busy(HandMade):
        def submit(self, jobs: Sequence[JobSpec]) -> Sequence[Handle | OSError]:
            if not refused:
                refused.append(refusal)
                return [refusal]
            return super().submit(jobs)

    def play(engine: HandMade) -> None:
        for id in engine.jobs:
            engine.succeed(id)

    assert work(lab, queue_runs(lab), Busy(lab, play)).complete
    (record,) = lab.records()
    assert (record.attempt, record.lost, record.failures) == (2, lost, 0)


@pytest.mark.parametrize("count", [2, 6])
def test_runs_whose_manager_died_are_one_line_where_they_are_many(lab: Lab, count: int) -> None:
    runs, display = queue_runs(lab, count), Watcher()
    owner = dead_owner()
    assert len(lab.queue.tick(owner, count, engine={"kind": "toy"}).claimed) == count

    def play(engine: HandMade) -> None:
        for id in list(engine.jobs):
            engine.succeed(id)
            engine.jobs.pop(id)

    assert work(lab, runs, HandMade(lab, play), display).complete
    if count == 6:
        assert display.said == ["put back 6 runs, each orphaned: its manager ended before it did"]
    else:
        assert len(display.said) == 2
