"""Putting runs back, cancelling them, and forgetting them all: what a person asks of a queue."""

from __future__ import annotations

import fcntl
import shutil
import threading

import pytest
from laboratory import Lab, dead_owner, record
from queue_by_hand import KEYS, ME, get, lost, publish, settle, states
from slow_cases import slow_except

from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.queue.transitions import RequeueLevel
from ovis.experiments.runs.fencing import lock_run, take_fence, withdraw_outcome
from ovis.experiments.runs.status import AttemptResult, State


def test_requeueing_voids_the_outcome_even_if_it_could_not_be_removed(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, AttemptResult.SUCCESS)
    queue.tick(ME, 0, ended=[lost(r)])
    assert [c.key for c in queue.requeue(RequeueLevel.ALL)] == [r.key]
    assert not queue.paths.run(r.name).outcome.exists()
    publish(queue, r, AttemptResult.SUCCESS)  # as if killed before the removal
    (again,) = queue.tick(ME, 1, keys={r.key}).claimed
    assert (again.key, again.attempt) == (r.key, 2)
    tick = queue.tick(ME, 0, ended=[lost(again)])
    assert tick.states[r.key] is State.QUEUED


def test_requeueing_leaves_the_outcome_of_a_newer_attempt(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, AttemptResult.EXCEPTION)
    queue.tick(ME, 0, ended=[lost(r)])
    publish(queue, r, AttemptResult.SUCCESS, attempt=2)
    queue.requeue(RequeueLevel.FAILED)
    assert queue.paths.run(r.name).outcome.exists()


@pytest.mark.parametrize("by_manager", slow_except([True], [True, False]))
def test_done_runs_start_from_step_0_on_request(lab: Lab, capsys: pytest.CaptureFixture[str], by_manager: bool) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    assert lab.run() == 0
    (run,) = lab.runs()
    (run.folder / "states").mkdir()
    (run.folder / "states" / "of-a-plugin.pt").touch()
    level = ["--requeue_level", "10000"]
    capsys.readouterr()
    assert lab.run(*level) == 0  # as it always was: resumed at the last checkpoint
    assert "done before: 1 run, to be resumed at the last checkpoint" in capsys.readouterr().out
    assert lab.journal()[run.name] == ["start at 0 in 1", "done in 1", "start at 5 in 2", "done in 2"]
    if by_manager:
        assert lab.run(*level, "--fresh") == 0
    else:
        assert lab.dbutils("--requeue", run.name, "--fresh") == 0
        assert (run.folder / "checkpoint.txt").exists()  # until it starts
        assert lab.run() == 0
    assert "begin at step 0" in capsys.readouterr().out
    assert lab.journal()[run.name] == ["start at 0 in 3", "done in 3"]
    assert not (run.folder / "states").exists()
    assert [run.log(attempt).exists() for attempt in (1, 2, 3)] == [True] * 3
    assert lab.counts() == {"done": 1}


@pytest.mark.parametrize("point", slow_except(["job.cleared"], ["job.cleared", "job.fenced"]))
def test_a_run_killed_as_it_starts_from_step_0_does_so_again(lab: Lab, point: str) -> None:
    lab.policy = Policy(heartbeat=0.5, ttl=20.0)
    lab.write(args=["--estimator vimco --iw 2"])
    assert lab.run() == 0
    (run,) = lab.runs()
    assert lab.dbutils("--requeue", run.name, "--fresh") == 0
    manager = lab.start(OVIS_FAILPOINT=point, OVIS_FAILPOINT_MARK=str(lab.folder / "once"))
    manager.communicate(timeout=60)
    assert manager.returncode == 0
    assert lab.journal()[run.name] == ["start at 0 in 3", "done in 3"]


def test_only_the_first_attempt_after_it_deletes_files(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    done = settle(queue, r, AttemptResult.SUCCESS)
    take_fence(queue.paths.run(r.name), 4)  # trained by hand since
    (changed,) = queue.requeue(RequeueLevel.ALL, {done.key}, strict=True, fresh=True)
    assert (changed.state, changed.attempt, changed.valid_from, changed.fresh_from) == (State.QUEUED, 4, 5, 5)
    (again,) = queue.tick(ME, 1, keys={r.key}).claimed
    assert (again.attempt, again.fresh_from) == (5, 5)
    queue.requeue(RequeueLevel.ALL, {KEYS[7]}, strict=True, fresh=True)  # one that waits
    assert (get(queue, KEYS[7]).state, get(queue, KEYS[7]).fresh_from) == (State.QUEUED, 1)


@pytest.mark.parametrize("words", [["--cancel", "a"], ["--check"], []])
def test_fresh_goes_with_a_requeue_only(lab: Lab, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit):
        lab.dbutils(*words, "--fresh")
    assert "--fresh goes with" in capsys.readouterr().err


def test_requeueing_never_touches_a_running_run(queue: Queue) -> None:
    queue.tick(ME, 2)
    assert queue.requeue(RequeueLevel.ALL) == []
    assert list(states(queue).values()).count("running") == 2


def test_clearing_deletes_the_runs_and_nothing_else(queue: Queue) -> None:
    folder = queue.paths.run(record(KEYS[0]).name).folder
    folder.mkdir()
    (folder / "checkpoint.pt").touch()
    mine = queue.paths.folder / "notes.txt"
    mine.touch()
    assert queue.clear() == len(KEYS)
    assert queue.read() == []
    assert not folder.exists()
    assert mine.exists()
    assert not list(queue.paths.folder.glob(".trash-*"))


def test_clearing_waits_for_running_runs(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    queue.paths.run(r.name).folder.mkdir()
    with pytest.raises(LedgerError, match=f"{r.name} is running: stop the manager first"):
        queue.clear()
    assert queue.paths.run(r.name).folder.exists()
    assert len(queue.read()) == len(KEYS)


def test_clearing_names_the_command_that_ends_a_job_without_a_manager(queue: Queue) -> None:
    (r,) = queue.tick(dead_owner(), 1, engine={"kind": "slurm", "detached": "yes"}).claimed
    remedy = f"its job outlives its manager: dbutils.py --exp {queue.paths.folder.name} --cancel {r.key}"
    with pytest.raises(LedgerError, match=f"{r.name} is running: {remedy}$"):
        queue.clear()


def test_clearing_is_refused_while_a_process_has_locked_a_run(queue: Queue) -> None:
    """A training by hand, whose run the queue has never started."""
    run = queue.paths.run(record(KEYS[3]).name)
    run.folder.mkdir()
    with lock_run(run), pytest.raises(LedgerError, match=f"a process is at work in {run.folder}: stop it first"):
        queue.clear()
    assert run.folder.exists()
    assert len(queue.read()) == len(KEYS)
    assert queue.clear() == len(KEYS)


def test_locking_fails_if_the_folder_is_moved_at_the_same_time(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who holds it would write into a new folder of this name, beside whoever locks that."""
    run = queue.paths.run("run")
    run.folder.mkdir()
    flock = fcntl.flock

    def move(handle: int, operation: int) -> None:
        run.folder.rename(queue.paths.folder / "aside")
        flock(handle, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", move)
        with lock_run(run) as lock:
            assert lock is None
    run.folder.mkdir()
    with lock_run(run) as lock:
        assert lock is not None


def test_a_running_run_is_not_put_back_by_name_and_nothing_is(queue: Queue) -> None:
    done, running = queue.tick(ME, 2).claimed
    settle(queue, done, AttemptResult.SUCCESS)
    before = queue.paths.ledger.read_bytes()
    with pytest.raises(LedgerError, match=f"nothing was put back, as {running.name} is running: cancel"):
        queue.requeue(RequeueLevel.ALL, {done.key, running.key}, strict=True)
    assert queue.paths.ledger.read_bytes() == before
    assert queue.paths.run(done.name).outcome.exists()
    assert [r.key for r in queue.requeue(RequeueLevel.ALL, {done.key}, strict=True)] == [done.key]


def test_attempts_by_hand_do_not_make_the_next_one_stale(queue: Queue) -> None:
    """Each takes the next number, and the fence is never lowered; so does a manager whose ledger is of yesterday."""
    (r,) = queue.tick(ME, 1).claimed
    settle(queue, r, AttemptResult.EXCEPTION)
    queue.requeue(RequeueLevel.FAILED)
    run = queue.paths.run(r.name)
    run.fence.write_text("5\n")
    (again,) = queue.tick(ME, 1, keys={r.key}).claimed
    assert again.attempt == 6
    assert queue.paths.lease(r.key, 6).exists()
    assert take_fence(run, again.attempt)


def test_a_run_whose_manager_died_counts_as_put_back(queue: Queue) -> None:
    (orphan,) = queue.tick(dead_owner(), 1).claimed
    (other,) = queue.tick(ME, 1, keys={KEYS[1]}).claimed
    assert queue.requeue(RequeueLevel.LOST, {other.key}) == []
    assert get(queue, orphan.key).state is State.QUEUED
    (again,) = queue.tick(dead_owner(), 1, keys={orphan.key}).claimed
    assert [r.key for r in queue.requeue(RequeueLevel.ALL, {again.key}, strict=True)] == [orphan.key]
    assert queue.leases.beat(again.key, again.attempt) is False  # should its job live after all, it stops


def test_level_0_does_nothing_at_all(queue: Queue) -> None:
    queue.tick(dead_owner(), 1)
    before = queue.paths.ledger.read_bytes()
    assert queue.requeue(RequeueLevel.NOTHING) == []
    assert queue.paths.ledger.read_bytes() == before


def test_a_queued_run_that_is_cancelled_is_not_claimed(queue: Queue) -> None:
    assert [r.key for r in queue.cancel({KEYS[0]})] == [KEYS[0]]
    assert [r.key for r in queue.tick(ME, 1).claimed] == [KEYS[1]]
    assert queue.cancel({KEYS[0], "unknown"}) == []
    assert get(queue, KEYS[0]).state is State.CANCELLED


def test_cancelling_revokes_the_lease_and_a_late_outcome_changes_nothing(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    assert [c.key for c in queue.cancel({r.key})] == [r.key]
    assert queue.leases.beat(r.key, 1) is False
    publish(queue, r, AttemptResult.SUCCESS)
    before = queue.paths.ledger.read_bytes()
    tick = queue.tick(ME, 0, ended=[lost(r)])
    assert (tick.events, tick.states[r.key]) == ([], State.CANCELLED)
    assert r.key not in tick.attempts
    assert queue.paths.ledger.read_bytes() == before


def test_the_outcome_of_a_cancelled_attempt_does_not_settle_a_later_one(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    queue.cancel({r.key})
    assert [c.key for c in queue.requeue(RequeueLevel.INCOMPLETE)] == [r.key]
    (again,) = queue.tick(ME, 1, keys={r.key}).claimed
    publish(queue, r, AttemptResult.SUCCESS)  # the cancelled job was only slow to stop
    tick = queue.tick(ME, 0, ended=[lost(again)])
    assert [event.outcome.status for event in tick.events] == [AttemptResult.LOST]
    assert tick.states[r.key] is State.QUEUED
    tick = queue.tick(ME, 0, ended=[lost(r)])  # nor does its end, whenever it is seen
    assert tick.events == []


@pytest.mark.parametrize(("ending", "state"), [(AttemptResult.SUCCESS, "done"), (AttemptResult.EXCEPTION, "failed")])
def test_cancelling_a_run_that_has_ended_unmarked_settles_it(queue: Queue, ending: AttemptResult, state: str) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, ending)
    assert queue.cancel({r.key}) == []
    assert states(queue)[r.key] == state


def test_a_run_that_failed_and_would_be_tried_again_is_cancelled(queue: Queue) -> None:
    queue.policy = Policy(max_failures=3)
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, AttemptResult.EXCEPTION)
    assert [c.key for c in queue.cancel({r.key})] == [r.key]
    assert get(queue, r.key).failures == 1


def test_settled_runs_cannot_be_cancelled(queue: Queue) -> None:
    good, bad = queue.tick(ME, 2).claimed
    settle(queue, good, AttemptResult.SUCCESS)
    settle(queue, bad, AttemptResult.EXCEPTION)
    before = queue.paths.ledger.read_bytes()
    assert queue.cancel({good.key, bad.key}) == []
    assert queue.paths.ledger.read_bytes() == before


def test_an_outcome_is_withdrawn_only_where_no_job_is_at_work(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, AttemptResult.SUCCESS)
    run = queue.paths.run(r.name)
    with lock_run(run):
        withdraw_outcome(run, valid_from=2)
        assert run.outcome.exists()
    withdraw_outcome(run, valid_from=1)
    assert run.outcome.exists()
    withdraw_outcome(run, valid_from=2)
    assert not run.outcome.exists()
    withdraw_outcome(queue.paths.run("nobody"), valid_from=2)


@pytest.mark.parametrize("whole", [True, False])
def test_a_done_run_whose_results_are_gone_is_not_done(
    lab: Lab, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    lab.write(args=["", "--seed 2"])
    assert lab.run() == 0
    first, _ = lab.runs()
    shutil.rmtree(first.folder) if whole else first.outcome.unlink()
    capsys.readouterr()
    assert lab.run() == 1
    shown = capsys.readouterr().out
    assert f"the results of 1 run are gone, e.g. {first.name}: marked as failed" in shown
    what = "its folder" if whole else "outcome.json"
    assert f"failed: {first.name}: it was done, but {what} is gone, and with it the results" in shown
    assert [(r.state, r.reason, r.attempt) for r in lab.records()] == [(State.FAILED, "lost", 1), (State.DONE, "", 1)]
    assert lab.run("--resume") == 0  # level 1
    assert [(r.state, r.attempt) for r in lab.records()] == [(State.DONE, 2), (State.DONE, 1)]
    assert first.outcome.exists()


def test_results_that_are_deleted_during_the_sweep_are_noticed_at_its_end(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write(args=["--nsteps 3", "--nsteps 40 --id step50"])

    def delete() -> None:
        lab.wait(lambda: lab.counts().get("done") == 1)
        (done,) = (record.name for record in lab.records() if record.state is State.DONE)
        shutil.rmtree(lab.paths.run(done).folder)

    thread = threading.Thread(target=delete)
    thread.start()
    assert lab.run() == 1
    thread.join()
    assert lab.counts() == {"done": 1, "failed": 1}
    assert "log." not in capsys.readouterr().out  # the log is gone, too
