"""The queue's transactions, its files, and what a kill or a full disk leaves of them."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from filelock import FileLock
from laboratory import Lab, dead_owner, record
from queue_by_hand import KEYS, ME, get, lost, publish, settle, states

from ovis.experiments.runner.queue import queue as queue_module
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.queue import Launched, Queue
from ovis.experiments.runs.atomic import TEMPORARY
from ovis.experiments.runs.process import new_owner
from ovis.experiments.runs.status import AttemptResult, State


def test_adding_keeps_what_is_known(queue: Queue) -> None:
    (first,) = queue.tick(ME, 1).claimed
    assert queue.add([record(key) for key in (*KEYS, "f" * 12)]) == 1
    assert len(queue.read()) == 9
    assert get(queue, first.key) == first


def test_runs_are_claimed_in_their_order_up_to_the_limit(queue: Queue) -> None:
    assert [r.key for r in queue.tick(ME, 3).claimed] == KEYS[:3]
    assert [r.key for r in queue.tick(ME, 2).claimed] == KEYS[3:5]
    assert queue.tick(ME, 0).claimed == []
    assert [r.key for r in queue.tick(ME, 99).claimed] == KEYS[5:]
    assert queue.tick(ME, 99).claimed == []


def test_priority_goes_first_and_other_keys_are_left_alone(queue: Queue) -> None:
    queue.add([record("e" * 12, priority=5), record("f" * 12, priority=9)])
    tick = queue.tick(ME, 2, keys={*KEYS, "e" * 12})
    assert [r.key for r in tick.claimed] == ["e" * 12, KEYS[0]]
    assert "f" * 12 not in tick.states


def test_a_running_record_has_a_lease(queue: Queue) -> None:
    (claimed,) = queue.tick(ME, 1).claimed
    assert (claimed.state, claimed.attempt, claimed.owner) == (State.RUNNING, 1, ME)
    assert queue.paths.lease(claimed.key, 1).exists()


def test_the_lease_is_made_before_the_claim_is_written(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(key: str, attempt: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(queue.leases, "create", refuse)
    with pytest.raises(OSError, match="full"):
        queue.tick(ME, 1)
    assert set(states(queue).values()) == {"queued"}


def test_an_outcome_settles_a_run(queue: Queue) -> None:
    good, bad, silent = queue.tick(ME, 3).claimed
    publish(queue, good, AttemptResult.SUCCESS)
    publish(queue, bad, AttemptResult.EXCEPTION)
    tick = queue.tick(ME, 0, ended=[lost(good), lost(bad), lost(silent)])
    assert [event.outcome.status for event in tick.events] == [
        AttemptResult.SUCCESS,
        AttemptResult.EXCEPTION,
        AttemptResult.LOST,
    ]
    assert [tick.states[r.key].value for r in (good, bad, silent)] == ["done", "failed", "queued"]
    assert get(queue, bad.key).error == "some reason"
    assert get(queue, silent.key).lost == 1
    assert not any(queue.paths.lease(r.key, 1).exists() for r in (good, bad, silent))


def test_a_late_finish_changes_nothing(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, AttemptResult.SUCCESS)
    assert len(queue.tick(ME, 0, ended=[lost(r)]).events) == 1
    before = queue.paths.ledger.read_bytes()
    assert queue.tick(ME, 0, ended=[lost(r)]).events == []
    assert queue.paths.ledger.read_bytes() == before


def test_runs_of_a_dead_manager_are_put_back_at_once(queue: Queue) -> None:
    (r,) = queue.tick(dead_owner(), 1).claimed
    tick = queue.tick(ME, 1, keys={r.key})
    (again,) = tick.claimed
    assert (again.key, again.attempt, again.lost) == (r.key, 2, 0)
    assert [event.outcome.status for event in tick.events] == [AttemptResult.ORPHANED]
    assert not queue.paths.lease(r.key, 1).exists()  # revoked: should its job live after all, it stops


def test_the_end_of_an_attempt_that_was_given_up_changes_nothing(queue: Queue) -> None:
    (first,) = queue.tick(dead_owner(), 1).claimed
    (second,) = queue.tick(ME, 1, keys={first.key}).claimed
    assert queue.tick(ME, 0, ended=[lost(first)]).events == []
    assert get(queue, first.key) == second


def test_runs_of_a_living_manager_stay_its_own(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    tick = queue.tick(new_owner(), 9)
    assert tick.events == []
    assert r.key not in [c.key for c in tick.claimed]


def test_a_silent_job_is_lost(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    (r,) = queue.tick(ME, 1).claimed
    old = time.time() - queue.policy.ttl - 5
    os.utime(queue.paths.lease(r.key, 1), (old, old))
    assert queue.tick(ME, 0).events == []  # first it gets the time to renew its lease before our eyes
    later = time.monotonic() + 2 * queue.policy.heartbeat
    monkeypatch.setattr(time, "monotonic", lambda: later)
    (event,) = queue.tick(ME, 0).events
    assert (event.outcome.status, event.record.state, event.record.lost) == (AttemptResult.LOST, State.QUEUED, 1)
    assert event.record.not_before > time.time() + queue.policy.heartbeat - 2
    assert queue.leases.beat(r.key, 1) is False


def test_a_machine_that_slept_loses_no_job(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    (r,) = queue.tick(ME, 1).claimed
    lease, now = queue.paths.lease(r.key, 1), time.monotonic()
    for beat in range(1, 5):  # an hour has passed on the wall; the job gets to its heartbeat after the manager's look
        os.utime(lease, (time.time() - 3600 - beat, time.time() - 3600 - beat))
        assert queue.tick(ME, 0).events == []
        monkeypatch.setattr(time, "monotonic", lambda: now + beat * queue.policy.heartbeat)  # noqa: B023


def test_ages_do_not_depend_on_our_clock(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.tick(ME, 1)
    assert queue.tick(ME, 0).events == []  # watched from here on
    future, later = time.time() + 1e6, time.monotonic() + 2 * queue.policy.heartbeat
    monkeypatch.setattr(time, "time", lambda: future)
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert queue.tick(ME, 0).events == []


def test_finished_but_unmarked_is_done_and_not_run_again(queue: Queue) -> None:
    (r,) = queue.tick(dead_owner(), 1).claimed
    publish(queue, r, AttemptResult.SUCCESS)
    tick = queue.tick(ME, 99)
    assert tick.states[r.key] is State.DONE
    assert r.key not in [c.key for c in tick.claimed]


def test_an_attempt_taken_for_lost_may_still_bring_the_outcome(queue: Queue) -> None:
    (first,) = queue.tick(dead_owner(), 1).claimed
    (second,) = queue.tick(ME, 1, keys={first.key}).claimed
    publish(queue, first, AttemptResult.SUCCESS)  # an orphan nobody could kill
    tick = queue.tick(ME, 0, ended=[lost(second)])
    assert tick.states[first.key] is State.DONE


def test_what_was_launched_is_noted(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    queue.tick(ME, 0, launched=[Launched(r.key, 1, {"kind": "local", "id": "77"}, "cuda:1")])
    assert (get(queue, r.key).engine, get(queue, r.key).device) == ({"kind": "local", "id": "77"}, "cuda:1")


def test_the_next_start_time_is_known(queue: Queue) -> None:
    assert queue.tick(ME, 0).next_start == 0.0
    assert queue.tick(ME, 99).next_start is None


def test_sweeping_removes_strays_only(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    stray, young = queue.paths.leases / "stray.3", queue.paths.leases / "young.1"
    temporary = queue.paths.folder / f"{TEMPORARY}.db.json123"
    trash = queue.paths.trash("1")
    trash.mkdir()
    for path in (stray, young, temporary, trash / "x"):
        path.touch()
    for path in (stray, temporary, trash, queue.paths.lease(r.key, 1)):
        os.utime(path, (1, 1))
    queue.remove_stale()
    assert [path.exists() for path in (stray, temporary, trash)] == [False] * 3
    assert queue.paths.lease(r.key, 1).exists()
    assert young.exists()


def test_readers_need_no_lock(queue: Queue) -> None:
    with FileLock(str(queue.paths.lock)):
        assert len(queue.read()) == len(KEYS)


def test_the_ledger_leaves_out_what_is_at_its_default(queue: Queue) -> None:
    (claimed,) = queue.tick(ME, 1).claimed
    settle(queue, claimed, AttemptResult.SUCCESS)
    done, *waiting = json.loads(queue.paths.ledger.read_text())["runs"].values()
    assert all(row.keys() == {"key", "name", "settings", "state", "created"} for row in waiting)
    # Its owner, which it had, is gone again.
    assert done.keys() - waiting[0].keys() == {"attempt", "started", "ended", "error"}


def test_a_ledger_may_say_what_is_at_its_default(queue: Queue) -> None:
    before = queue.read()
    data = {"runs": {str(number): r.to_row() for number, r in enumerate(before, 1)}}
    queue.paths.ledger.write_text(json.dumps(data))
    assert queue.read() == before
    queue.tick(ME, 1)
    assert states(queue) == {key: "running" if key == KEYS[0] else "queued" for key in KEYS}


def test_one_record_is_found_by_its_key(queue: Queue) -> None:
    assert queue.find(KEYS[3]) == get(queue, KEYS[3])
    assert queue.find("f" * 12) is None


def test_an_exception_within_a_transaction_changes_nothing(queue: Queue) -> None:
    before = queue.paths.ledger.read_bytes()

    def change() -> None:
        with queue.ledger.transaction() as transaction:
            transaction.rows[KEYS[0]]["state"] = "done"
            transaction.touch(KEYS[0])
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        change()
    assert queue.paths.ledger.read_bytes() == before
    queue.tick(ME, 1)  # and the lock is free


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failing_write_keeps_the_old_ledger(queue: Queue, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    before = queue.paths.ledger.read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(LedgerError, match=r"it stays as it was: .*No space left"):
            queue.tick(ME, 1)
    assert queue.paths.ledger.read_bytes() == before
    assert not list(queue.paths.folder.glob(f"{TEMPORARY}*"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runner.queue.queue import Launched, Queue
from ovis.experiments.runs.status import Record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
queue = Queue(ExperimentPaths(Path(sys.argv[1])))
size = queue.paths.ledger.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, size + 1000))
try:
    queue.add([Record(key=f"{n:012x}", name=f"run{n}", settings={}) for n in range(100, 400)])
except LedgerError as error:
    raise SystemExit(str(error))
"""


def test_a_full_disk_keeps_the_old_ledger(queue: Queue) -> None:
    before = queue.paths.ledger.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, queue.paths.folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "it stays as it was" in done.stderr
    assert queue.paths.ledger.read_bytes() == before
    assert len(queue.read()) == len(KEYS)


ADD = """
import sys
from pathlib import Path
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runner.queue.queue import Launched, Queue
from ovis.experiments.runs.status import Record
print(Queue(ExperimentPaths(Path(sys.argv[1]))).add([Record(f"{n:012x}", f"run{n}", {}) for n in range(300)]))
"""


def test_two_managers_adding_one_grid_add_it_once(lab: Lab) -> None:
    command = [sys.executable, "-c", ADD, str(lab.paths.folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    added = [int(process.communicate()[0]) for process in both]
    assert sum(added) == 300
    assert len(lab.queue.read()) == 300


@pytest.mark.parametrize(
    "content",
    [
        *('{"runs": {"1": {"key": "a"', "[]", '{"runs": 3}', '{"runs": []}', "\0\0\0", ""),
        *('{"runs": {"1": {}}}', '{"runs": {"1": {"key": "a"}}}', '{"runs": {"1": 3}}', '{"runs": {"one": {}}}'),
    ],
)
def test_a_broken_ledger_is_one_clear_line_and_stays(queue: Queue, content: str) -> None:
    queue.paths.ledger.write_text(content)
    for request in (queue.read, lambda: queue.tick(ME, 1), lambda: queue.add([record()])):
        with pytest.raises(LedgerError, match=r"the queue .*\.db\.json is broken: [^\n]+ move it aside[^\n]+$"):
            request()
    assert queue.paths.ledger.read_text() == content


@pytest.mark.parametrize("name", ["../../etc", "/etc", "..", ".hidden", ""])
def test_a_ledger_cannot_lead_out_of_the_run_root(queue: Queue, name: str) -> None:
    data = json.loads(queue.paths.ledger.read_text())
    data["runs"]["1"]["name"] = name
    queue.paths.ledger.write_text(json.dumps(data))
    for request in (queue.read, lambda: queue.tick(ME, 1), queue.clear):
        with pytest.raises(LedgerError, match="unsafe run name"):
            request()


def test_a_queue_has_its_limit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "MAX_RUNS", 3)
    with pytest.raises(LedgerError, match="8 runs in one experiment"):
        lab.queue.add([record(key) for key in KEYS])
    assert lab.queue.read() == []


def test_a_ledger_of_an_earlier_version_is_refused_in_one_line(queue: Queue) -> None:
    data = json.loads(queue.paths.ledger.read_text())
    for row in data["runs"].values():
        del row["settings"]
        row["arg"] = "--estimator=vimco"
    queue.paths.ledger.write_text(json.dumps(data))
    line = (
        f"the queue {queue.paths.ledger} is of an earlier version, which kept a run's settings as one string; "
        f"move it aside, and manager.py makes it anew from the run folders"
    )
    with pytest.raises(LedgerError, match=f"^{re.escape(line)}$"):
        queue.read()


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, {"a": 1}) for name in ("attempt", "created", "started", "ended", "device", "error", "snapshot")]
    + [("attempt", None), ("owner", 3), ("settings", []), ("state", "gone"), ("priority", "1")],
)
def test_an_invalid_field_is_named_in_one_line(queue: Queue, field: str, value: object) -> None:
    data = json.loads(queue.paths.ledger.read_text())
    data["runs"]["2"][field] = value
    queue.paths.ledger.write_text(json.dumps(data))
    message = "record 2 has an unknown state 'gone'" if value == "gone" else f"record 2 has no valid '{field}'"
    with pytest.raises(LedgerError, match=rf"^[^\n]*{message}[^\n]*$"):
        queue.read()
