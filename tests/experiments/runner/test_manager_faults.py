"""The manager before a cluster that refuses jobs, goes away, or does not answer: nothing is stranded or lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

import pytest
from hand_made import POLICY, HandMade, Watcher, queue_runs, succeed, work
from laboratory import Lab, dead_owner

from ovis.experiments.runner.engines.interface import EngineError, JobHandle, JobPhase, JobStatus, SubmissionDeferred
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import run_experiment
from ovis.experiments.runner.queue.queue import Launched, Queue
from ovis.experiments.runs.status import State


@pytest.mark.parametrize("detached", [True, False])
def test_if_the_cluster_is_gone_only_jobs_that_need_the_manager_are_cancelled(lab: Lab, detached: bool) -> None:
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
    assert (record.state, record.reason, record.lost) == (State.QUEUED, "orphaned", 0)
    assert record.error == "--engine toy: the cluster is gone"
    assert record.not_before <= time.time() + POLICY.heartbeat


def test_a_cluster_that_goes_away_as_jobs_are_handed_over_strands_none(lab: Lab) -> None:
    """The one that runs is known to the next manager, the one that waits and the new ones may start at once."""
    runs = queue_runs(lab, 3)
    ids = [f"{run.key}.1" for run in runs]

    class Leaving(HandMade):
        def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
            if self.jobs:
                raise EngineError("--engine toy: refuses the jobs")
            return super().submit(jobs)

    def play(engine: HandMade) -> None:
        if len(engine.jobs) == 2:
            engine.begin(ids[0], "node-1")
            engine.limit = 3

    engine = Leaving(lab, play, detached=True, limit=2)
    with pytest.raises(EngineError, match="refuses the jobs"):
        work(lab, runs, engine)
    states = [(record.state, record.reason, record.lost) for record in lab.records()]
    assert states == [(State.RUNNING, "", 0), (State.QUEUED, "orphaned", 0), (State.QUEUED, "aborted", 0)]
    assert lab.records()[0].engine == {"kind": "toy", "detached": "yes", "id": ids[0]}

    lab.queue.tick(dead_owner(), 0, launched=[Launched(runs[0].key, 1, lab.records()[0].engine or {}, "node-1")])
    second = HandMade(lab, lambda engine: [engine.succeed(id) for id in engine.statuses], True, known=(ids[0],))
    second.statuses[ids[0]] = JobStatus(JobPhase.RUNNING, device="node-1")
    begin = time.monotonic()
    assert work(lab, runs, second).complete
    assert time.monotonic() - begin < POLICY.ttl  # nothing had to be considered lost
    assert [(record.attempt, record.lost) for record in lab.records()] == [(1, 0), (2, 0), (2, 0)]


def test_a_job_that_had_begun_as_the_cluster_went_away_is_left_to_its_end(lab: Lab) -> None:
    """Its lease says so, before the engine does."""
    (run,) = queue_runs(lab)

    def play(engine: HandMade) -> None:
        if engine.jobs:
            assert lab.queue.leases.set_location(run.key, 1, "n1")
            raise EngineError("--engine toy: refuses the jobs")

    with pytest.raises(EngineError, match="refuses the jobs"):
        work(lab, [run], HandMade(lab, play, detached=True))
    (record,) = lab.records()
    assert (record.state, (record.engine or {})["id"]) == (State.RUNNING, f"{run.key}.1")


def test_a_late_success_of_an_attempt_that_was_put_back_counts(lab: Lab) -> None:
    (run,) = queue_runs(lab)

    def play(engine: HandMade) -> None:
        if engine.jobs:
            raise EngineError("--engine toy: the cluster is gone")

    with pytest.raises(EngineError, match="the cluster is gone"):
        work(lab, [run], HandMade(lab, play, detached=True))
    succeed(lab, run.key, 1)  # it had just begun
    second = HandMade(lab, lambda engine: [engine.begin(id, "n1") for id in engine.jobs], True)

    def end(engine: HandMade) -> None:  # what a job does that finds the outcome of an earlier attempt
        engine.statuses |= dict.fromkeys(engine.jobs, JobStatus(JobPhase.ENDED, 0))

    second.play = end
    assert work(lab, [run], second).complete
    (record,) = lab.records()
    assert (record.attempt, record.lost) == (2, 0)


def test_refusals_use_up_no_budget_and_are_reported_once(lab: Lab) -> None:
    class Small(HandMade):
        def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
            count = 0 if self.jobs else 1
            return [*super().submit(jobs[:count]), *(SubmissionDeferred("a limit") for _ in jobs[count:])]

    def play(engine: HandMade) -> None:
        for id in list(engine.jobs):
            engine.succeed(id)
            engine.jobs.pop(id)

    display = Watcher()
    runs = queue_runs(lab, 8)
    result = run_experiment(
        runs, Queue(lab.paths, POLICY), Small(lab, play), display, JobSpec(lab.paths.folder, "", 0), 6, interval=0.02
    )
    assert (result.counts[State.DONE], result.counts[State.QUEUED]) == (6, 2)
    assert display.lines == ["put back 5 runs, each aborted: can't start the job: a limit"]


def test_a_second_stop_ends_the_manager_though_the_cluster_does_not_answer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs' leases go with their attempts: where a job lives, it ends by that."""
    monkeypatch.setattr("ovis.experiments.runner.manager.GRACE", 0.5)
    (run,) = queue_runs(lab)
    polls: list[int] = []

    def play(engine: HandMade) -> None:
        if engine.jobs:
            engine.begin(f"{run.key}.1", "node-1")
            polls.append(1)
            lab.queue.leases.beat(run.key, 1)
        if len(polls) in (5, 10) or len(polls) > 15:  # again and again: that is no reason to wait longer
            signal.raise_signal(signal.SIGINT)

    result = work(lab, [run], HandMade(lab, play, detached=True))
    assert result.interrupted
    (record,) = lab.records()
    assert (record.state, record.reason, record.lost) == (State.QUEUED, "orphaned", 0)
    assert record.error == "killed on request, and not heard of since"
    assert not lab.queue.leases.beat(run.key, 1)


def test_a_run_of_several_that_another_process_holds_waits_for_it(lab: Lab) -> None:
    """The exit code of a job of several runs is that of its first one; of the others it says so in a line."""
    (run,) = queue_runs(lab)

    def play(engine: HandMade) -> None:
        if engine.jobs:
            (id,) = engine.jobs
            lab.paths.jobs_log.write_text(f"job {id}: another process holds the run's folder\n")
            engine.statuses[id] = JobStatus(JobPhase.ENDED, 0)
            signal.raise_signal(signal.SIGINT)  # it would be tried again

    work(lab, [run], HandMade(lab, play))
    (record,) = lab.records()
    assert (record.state, record.reason, record.lost) == (State.QUEUED, "busy", 0)


@pytest.mark.parametrize(
    ("refusal", "lost"), [(SubmissionDeferred("come back later"), 0), (OSError("no more processes"), 1)]
)
def test_a_cluster_that_takes_no_job_for_a_while_counts_against_none(lab: Lab, refusal: OSError, lost: int) -> None:
    """Where the fault may be the job's own, it does."""
    refused: list[OSError] = []

    class Busy(HandMade):
        def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
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
