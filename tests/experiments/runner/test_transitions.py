"""The state machine: what each event does to a run, row by row."""

from __future__ import annotations

from typing import Any

import pytest
from laboratory import record

from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.queue.transitions import (
    RequeueLevel,
    accepts,
    cancel,
    claim,
    due,
    finish,
    is_open,
    requeue,
    requeued_by,
)
from ovis.experiments.runs.status import AttemptResult, Outcome, State

NOW = 1000.0
POLICY = Policy(heartbeat=10.0, ttl=60.0, max_failures=2, max_lost=3, backoff=2.0)


def running(**changes: Any) -> dict[str, Any]:
    row = record(**changes).to_row()
    claim(row, "host:1:2:me", NOW)
    return row


def test_claiming_makes_a_new_attempt() -> None:
    row = running(attempt=4, reason="lost", ended=3.0)
    assert (row["state"], row["attempt"], row["owner"], row["started"]) == ("running", 5, "host:1:2:me", NOW)
    assert (row["reason"], row["ended"]) == ("", 0.0)


@pytest.mark.parametrize(
    ("state", "not_before", "expected"),
    [("queued", 0.0, 0.0), ("queued", NOW + 1, NOW + 1)]
    + [(state, 0.0, None) for state in ("running", "done", "failed", "cancelled")],
)
def test_only_a_queued_run_is_due(state: str, not_before: float, expected: float | None) -> None:
    assert due(record(state=State(state), not_before=not_before).to_row(), POLICY, NOW) == expected


def test_a_clock_set_back_does_not_put_a_run_off_for_hours() -> None:
    longest = max(POLICY.max_backoff, POLICY.ttl)
    row = record(not_before=NOW + longest).to_row()
    assert due(row, POLICY, NOW) == NOW + longest
    assert due(row, POLICY, NOW - 3600) == NOW - 3600


#: ending, counters before -> state, failures, lost, pause, whether earlier outcomes are void from now on
FINISHES = [
    (AttemptResult.SUCCESS, {}, ("done", 0, 0, 0.0, False)),
    (AttemptResult.EXCEPTION, {}, ("queued", 1, 0, 2.0, True)),
    (AttemptResult.EXCEPTION, {"failures": 1}, ("failed", 2, 0, 0.0, False)),
    (AttemptResult.EXCEPTION, {"lost": 2}, ("queued", 1, 2, 2.0, True)),
    (AttemptResult.SIGNAL, {}, ("queued", 0, 1, 2.0, False)),
    (AttemptResult.SIGNAL, {"lost": 1}, ("queued", 0, 2, 4.0, False)),
    (AttemptResult.SIGNAL, {"lost": 2, "failures": 1}, ("failed", 1, 3, 0.0, False)),
    (AttemptResult.EXHAUSTED, {}, ("queued", 0, 1, 2.0, False)),
    (AttemptResult.EXHAUSTED, {"lost": 2}, ("failed", 0, 3, 0.0, False)),
    (AttemptResult.LOST, {}, ("queued", 0, 1, 10.0, False)),
    (AttemptResult.LOST, {"lost": 2}, ("failed", 0, 3, 0.0, False)),
    (AttemptResult.ABORTED, {"failures": 1, "lost": 2}, ("queued", 1, 2, 0.0, True)),
    (AttemptResult.ORPHANED, {"failures": 1, "lost": 2}, ("queued", 1, 2, 0.0, False)),
    (AttemptResult.BUSY, {"failures": 1, "lost": 2}, ("queued", 1, 2, 60.0, False)),
]


@pytest.mark.parametrize(("ending", "before", "after"), FINISHES)
def test_finishing(ending: AttemptResult, before: dict[str, int], after: tuple[str, int, int, float, bool]) -> None:
    row = running(**before)
    finish(row, Outcome(ending, 1, message="why"), POLICY, NOW)
    pause = max(row["not_before"] - NOW, 0.0) if row["state"] == "queued" else 0.0
    assert (row["state"], row["failures"], row["lost"], pause, row["valid_from"] == 2) == after
    assert (row["owner"], row["ended"], row["error"]) == ("", NOW, "why")
    assert row["reason"] == ("" if ending is AttemptResult.SUCCESS else ending.value)


def test_every_ending_is_listed_above() -> None:
    assert {ending for ending, _, _ in FINISHES} == set(AttemptResult)


def test_pauses_grow_and_stay_bounded() -> None:
    policy = Policy(backoff=1.0, max_backoff=300.0)
    assert [policy.pause(n) for n in (1, 2, 3, 9, 10, 10_000)] == [1, 2, 4, 256, 300, 300]


@pytest.mark.parametrize(
    ("ending", "attempt", "expected"),
    [
        (AttemptResult.SUCCESS, 5, True),
        (AttemptResult.ABORTED, 5, True),
        (AttemptResult.SUCCESS, 4, True),  # taken for lost, and came to its end after all
        (AttemptResult.EXCEPTION, 4, True),
        (AttemptResult.ABORTED, 4, False),  # says nothing about attempt 5
        (AttemptResult.SIGNAL, 4, False),
        (AttemptResult.SUCCESS, 2, False),  # before the requeue
    ],
)
def test_which_outcomes_count(ending: AttemptResult, attempt: int, expected: bool) -> None:
    row = record(attempt=5, valid_from=3, state=State.RUNNING).to_row()
    assert accepts(row, Outcome(ending, attempt), 5) is expected


@pytest.mark.parametrize(
    ("state", "reason", "lowest"),
    [
        (State.FAILED, "lost", 1),
        (State.FAILED, "signal", 1),
        (State.FAILED, "exception", 2),
        (State.CANCELLED, "", 100),
        (State.DONE, "", 10_000),
        (State.QUEUED, "aborted", None),
        (State.RUNNING, "", None),
    ],
)
def test_levels_of_requeueing(state: State, reason: str, lowest: int | None) -> None:
    row = record(state=state, reason=reason).to_row()
    levels = [level.value for level in RequeueLevel if requeued_by(row, level)]
    assert levels == [level.value for level in RequeueLevel if lowest is not None and level >= lowest]


def test_requeueing_starts_afresh_but_counts_on() -> None:
    row = record(state=State.FAILED, attempt=7, failures=2, lost=3, error="x", reason="exception").to_row()
    requeue(row, NOW)
    assert (row["state"], row["attempt"], row["valid_from"], row["failures"], row["lost"]) == ("queued", 7, 8, 0, 0)
    assert row["error"] == ""


def test_cancelling_ends_an_attempt_under_way() -> None:
    row = running()
    cancel(row, NOW + 5)
    assert (row["state"], row["owner"], row["ended"], row["attempt"]) == ("cancelled", "", NOW + 5, 1)
    requeue(row, NOW + 6)
    claim(row, "host:1:2:me", NOW + 7)
    assert not accepts(row, Outcome(AttemptResult.SUCCESS, 1), 2)


def test_cancelling_a_queued_run_leaves_the_times_of_its_last_attempt() -> None:
    row = record(attempt=1, started=NOW, ended=NOW + 1).to_row()
    cancel(row, NOW + 5)
    assert (row["state"], row["ended"]) == ("cancelled", NOW + 1)


@pytest.mark.parametrize("state", State)
def test_open_runs_are_those_that_will_still_end(state: State) -> None:
    assert is_open(record(state=state).to_row()) is (state in (State.QUEUED, State.RUNNING))
