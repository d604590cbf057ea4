"""The state machine of the queue: what each event does to one row. Pure: no files, no clock.

``queued -> running -> done | failed`` and back ``running -> queued`` (retry, abort, lost); ``queued | running ->
cancelled``. ``done``, ``failed`` and ``cancelled`` are left only by an explicit requeue.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from ovis.experiments.runner.queue.ledger import Row
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.status import AttemptResult, Outcome, State

__all__ = [
    "QUEUED",
    "REQUEUE_LEVELS",
    "RUNNING",
    "RequeueLevel",
    "accepts",
    "cancel",
    "claim",
    "due",
    "finish",
    "is_detached",
    "is_open",
    "lose_results",
    "requeue",
    "requeued_by",
    "settles",
]

QUEUED, RUNNING = State.QUEUED.value, State.RUNNING.value  # an attribute of an enum is slow, 10,000 times over


#: The engine whose jobs are on its manager's own host.
LOCAL = "local"


class RequeueLevel(IntEnum):
    """Which runs a requeue puts back; the numbers are those of the authors' code."""

    NOTHING = 0
    LOST = 1  # aborted or lost
    FAILED = 2  # and failed by an error
    INCOMPLETE = 100  # and cancelled: everything that is not done
    ALL = 10_000  # and done


#: The levels, for the help text.
REQUEUE_LEVELS = "0: none; 1: aborted or lost; 2: also failed; 100: all that are not done; 10000: all"


def due(row: Row, policy: Policy, now: float) -> float | None:
    """When a run may be started, seconds since 1970; None: it is not queued.

    That is ``not_before``, unless it is further away than the longest pause: then the clock was set back.
    """
    if row["state"] != QUEUED:
        return None
    not_before = float(row["not_before"])
    return not_before if not_before <= now + max(policy.max_backoff, policy.ttl) else now


def claim(row: Row, owner: str, now: float, snapshot: str = "", engine: Mapping[str, str] | None = None) -> None:
    """``queued -> running``, as attempt n+1, on this snapshot of the code, by this engine."""
    row.update(
        state=RUNNING,
        reason="",
        attempt=row["attempt"] + 1,
        owner=owner,
        snapshot=snapshot,
        started=now,
        ended=0.0,
        engine=None if engine is None else dict(engine),
        device="",
    )


def is_detached(row: Row) -> bool:
    """Whether the run's job outlives its manager."""
    return "detached" in (row["engine"] or {})


def settles(row: Row, outcome: Outcome) -> bool:
    """Whether an outcome found in the run's folder is the run's end, whichever attempt came to it."""
    return bool(outcome.status.final and outcome.attempt >= row["valid_from"])


def accepts(row: Row, outcome: Outcome, attempt: int) -> bool:
    """Whether an outcome found in the run's folder settles attempt ``attempt``.

    It does if it is that attempt's own, or if an earlier attempt that was considered lost has ended after all.
    """
    return outcome.attempt == attempt or settles(row, outcome)


def finish(row: Row, outcome: Outcome, policy: Policy, now: float) -> None:
    """``running -> done | failed | queued``, by how the attempt ended."""
    ending = outcome.status
    row.update(reason=ending.value, ended=now, owner="", error=outcome.message)
    if ending is AttemptResult.SUCCESS:
        row.update(state=State.DONE.value, reason="")
    elif ending is AttemptResult.ABORTED:
        _queue(row, now)
    elif ending is AttemptResult.BUSY:  # not counted: the process that holds the folder must end or be found lost first
        _queue(row, now + policy.ttl, supersede=False)
    elif ending is AttemptResult.ORPHANED:  # not counted; on this host the job is dead, or keeps the folder locked
        elsewhere = (row["engine"] or {}).get("kind", LOCAL) != LOCAL
        _queue(row, now + (policy.heartbeat if elsewhere else 0.0), supersede=False)
    else:
        counter = "failures" if ending.final else "lost"
        row[counter] += 1
        if not policy.allows_retry(counter, row[counter]):
            row["state"] = State.FAILED.value
        else:  # an attempt considered lost may still publish
            revoked = policy.heartbeat if ending is AttemptResult.LOST else 0.0  # it may live until its next heartbeat
            _queue(row, now + max(policy.pause(row[counter]), revoked), supersede=ending.final)


def lose_results(row: Row, now: float, message: str) -> None:
    """``done -> failed``, as its files were deleted: a requeue of level 1 puts it back."""
    row.update(state=State.FAILED.value, reason=AttemptResult.LOST.value, ended=now, error=message)


def is_open(row: Row) -> bool:
    """Whether the run has not ended yet: only a requeue leaves all other states."""
    return row["state"] in (QUEUED, RUNNING)


def cancel(row: Row, now: float) -> None:
    """``queued | running -> cancelled``. What a running attempt still publishes does not count.

    Only a running row takes an outcome, and a requeue voids every earlier one.
    """
    if row["state"] == RUNNING:
        row.update(ended=now, owner="")
    row.update(state=State.CANCELLED.value, reason="")


def requeued_by(row: Row, level: RequeueLevel) -> bool:
    """Whether a requeue at ``level`` puts this run back. Running and queued ones are left as they are."""
    state = State(row["state"])
    if state is State.FAILED:
        own_error = row["reason"] == AttemptResult.EXCEPTION.value
        return level >= (RequeueLevel.FAILED if own_error else RequeueLevel.LOST)
    if state is State.CANCELLED:
        return level >= RequeueLevel.INCOMPLETE
    return state is State.DONE and level >= RequeueLevel.ALL


def requeue(row: Row, now: float, fresh: bool = False) -> None:
    """``done | failed | cancelled -> queued``; every outcome published so far is void.

    Args:
        row: the run.
        now: seconds since 1970.
        fresh: the next attempt begins at step 0, instead of at the last checkpoint.
    """
    row.update(reason="requeued", failures=0, lost=0, error="", ended=0.0)
    _queue(row, now)
    if fresh:
        row["fresh_from"] = row["valid_from"]


def _queue(row: Row, not_before: float, supersede: bool = True) -> None:
    row.update(state=QUEUED, not_before=not_before)
    if supersede:
        row["valid_from"] = row["attempt"] + 1
