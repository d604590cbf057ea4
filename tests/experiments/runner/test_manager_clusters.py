"""The manager on a cluster: runs that wait in the cluster's queue, and jobs that outlive their manager."""

from __future__ import annotations

import time

import pytest
from hand_made import POLICY, HandMade, Watcher, orphan, queue_runs, succeed, work
from laboratory import Lab, dead_owner

from ovis.experiments.runner.engines.interface import JobPhase, JobStatus
from ovis.experiments.runner.queue.queue import Launched, Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.status import State, read_outcome


@pytest.mark.slow
def test_a_run_that_waits_for_a_node_is_not_lost(lab: Lab) -> None:
    """Twice as long as a lease lasts; its heartbeat can't come from the job, which is not there yet."""
    (run,) = queue_runs(lab)
    id, begin = f"{run.key}.1", time.monotonic()
    seen = []

    def play(engine: HandMade) -> None:
        age = time.monotonic() - begin
        if id in engine.jobs and engine.statuses[id].phase is JobPhase.PENDING and age > 2 * POLICY.ttl:
            (record,) = lab.records()
            seen.append((record.state, record.device, record.started, time.time()))
            engine.begin(id, "node-7 cuda:1")
        elif age > 2 * POLICY.ttl + 3.0:
            (record,) = lab.records()
            seen.append((record.state, record.device, record.started, time.time()))
            engine.succeed(id)
        if id in engine.jobs and engine.statuses[id].phase is JobPhase.RUNNING:
            lab.queue.leases.beat(run.key, 1)

    display = Watcher()
    assert work(lab, [run], HandMade(lab, play), display).complete
    (record,) = lab.records()
    assert (record.attempt, record.lost, record.device) == (1, 0, "node-7 cuda:1")
    (_, nowhere, _, placed), (_, device, started, _) = seen[0], seen[-1]
    assert (nowhere, device) == ("", "node-7 cuda:1")
    assert started == pytest.approx(placed, abs=0.3)  # not the time of its claim
    waiting = [view for view in display.views if view.pending]
    assert waiting[0].summary() == "1 running (1 without a node yet)"
    assert not waiting[0].running
    assert any([run.device for run in view.running] == ["node-7 cuda:1"] for view in display.views)
    assert display.lines == []


def test_an_attached_job_is_followed_to_its_end(lab: Lab) -> None:
    (run,) = queue_runs(lab)
    id = f"{run.key}.1"
    orphan(lab, run, {"kind": "toy", "detached": "yes"})
    lab.queue.tick(dead_owner(), 0)  # another manager's: it stands
    engine = HandMade(lab, lambda engine: polls.append(1) or (engine.succeed(id) if len(polls) > 5 else None), True)
    polls: list[int] = []
    (record,) = lab.records()
    assert record.state is State.RUNNING
    launched = Launched(run.key, 1, {"kind": "toy", "detached": "yes", "id": id}, "node-1")
    lab.queue.tick(dead_owner(), 0, launched=[launched])
    engine.known, engine.statuses = (id,), {id: JobStatus(JobPhase.RUNNING, device="node-1")}
    display = Watcher()
    assert work(lab, [run], engine, display).complete
    (record,) = lab.records()
    assert (record.attempt, engine.jobs, engine.cancelled) == (1, {}, [])
    assert display.lines == []


@pytest.mark.parametrize("finished", [True, False])
def test_the_outcome_file_decides_about_a_job_that_is_gone(lab: Lab, finished: bool) -> None:
    (run,) = queue_runs(lab)
    orphan(lab, run, {"kind": "toy", "detached": "yes", "id": "gone"})
    if finished:
        succeed(lab, run.key, 1)
    engine = HandMade(lab, lambda engine: [engine.succeed(id) for id in engine.jobs], True)
    assert work(lab, [run], engine).complete
    (record,) = lab.records()
    assert (record.attempt, record.lost) == ((1, 0) if finished else (2, 1))
    outcome = read_outcome(lab.paths.run(record.name))
    assert outcome is not None
    assert outcome.attempt == record.attempt


@pytest.mark.slow
def test_an_unrecorded_detached_job_keeps_its_run_while_it_renews_its_lease(lab: Lab) -> None:
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
    (record,) = lab.records()
    assert (record.state, record.reason) == (State.QUEUED, "lost")


def test_an_unrecorded_local_job_is_orphaned_at_once(lab: Lab) -> None:
    (run,) = queue_runs(lab)
    orphan(lab, run, {"kind": "local"})
    (event,) = lab.queue.tick("me:1:1:u", 0).events
    assert event.record.reason == "orphaned"
    assert event.record.not_before <= time.time()


def test_an_orphan_on_a_cluster_is_put_back_after_a_heartbeat(lab: Lab) -> None:
    """Another host may run it: its lease is gone, which it sees at its next heartbeat."""
    (run,) = queue_runs(lab)
    orphan(lab, run, {"kind": "ray"})
    (event,) = Queue(lab.paths, Policy(heartbeat=7.0)).tick("me:1:1:u", 1).events
    assert event.record.not_before - time.time() == pytest.approx(7.0, abs=1.0)
    assert not lab.queue.leases.beat(run.key, 1)


def test_no_more_runs_are_claimed_than_the_engine_accepts(lab: Lab) -> None:
    runs = queue_runs(lab, 5)
    running = []

    def play(engine: HandMade) -> None:
        running.append(len(engine.jobs))
        for id in [*engine.jobs][:1]:
            engine.succeed(id)
            engine.jobs.pop(id)

    assert work(lab, runs, HandMade(lab, play, limit=3)).complete
    assert max(running) == 3


@pytest.mark.parametrize("count", [2, 6])
def test_many_runs_of_a_dead_manager_share_one_line(lab: Lab, count: int) -> None:
    runs, display = queue_runs(lab, count), Watcher()
    owner = dead_owner()
    assert len(lab.queue.tick(owner, count, engine={"kind": "toy"}).claimed) == count

    def play(engine: HandMade) -> None:
        for id in list(engine.jobs):
            engine.succeed(id)
            engine.jobs.pop(id)

    assert work(lab, runs, HandMade(lab, play), display).complete
    if count == 6:
        assert display.lines == ["put back 6 runs, each orphaned: its manager ended before it did"]
    else:
        assert len(display.lines) == 2
