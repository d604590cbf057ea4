"""Putting runs back, cancelling them, and forgetting them all: what a person asks of a queue."""

from __future__ import annotations

import pytest
from laboratory import record
from queue_by_hand import KEYS, ME, lost, publish, states

from ovis.runner.ledger import LedgerError
from ovis.runner.queue import Queue
from ovis.runner.status import Ending, State
from ovis.runner.transitions import Level


def test_requeueing_voids_the_outcome_even_if_it_could_not_be_removed(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, Ending.SUCCESS)
    queue.tick(ME, 0, ended=[lost(r)])
    assert [c.key for c in queue.requeue(Level.ALL)] == [r.key]
    assert not queue.paths.run(r.name).outcome.exists()
    publish(queue, r, Ending.SUCCESS)  # as if killed before the removal
    (again,) = queue.tick(ME, 1, keys={r.key}).claimed
    assert (again.key, again.attempt) == (r.key, 2)
    tick = queue.tick(ME, 0, ended=[lost(again)])
    assert tick.states[r.key] is State.QUEUED


def test_requeueing_leaves_the_outcome_of_a_newer_attempt(queue: Queue) -> None:
    (r,) = queue.tick(ME, 1).claimed
    publish(queue, r, Ending.EXCEPTION)
    queue.tick(ME, 0, ended=[lost(r)])
    publish(queue, r, Ending.SUCCESS, attempt=2)
    queue.requeue(Level.FAILED)
    assert queue.paths.run(r.name).outcome.exists()


def test_requeueing_never_touches_a_running_run(queue: Queue) -> None:
    queue.tick(ME, 2)
    assert queue.requeue(Level.ALL) == []
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
    with pytest.raises(LedgerError, match="1 runs are running"):
        queue.clear()
    assert queue.paths.run(r.name).folder.exists()
    assert len(queue.read()) == len(KEYS)
