"""Steps of a queue of eight runs, taken by hand: no manager, no jobs."""

from __future__ import annotations

from ovis.experiments.runner.queue.queue import Ended, Queue
from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.process import new_owner
from ovis.experiments.runs.status import AttemptResult, Outcome, Record

ME = new_owner()
KEYS = [f"{n:012x}" for n in range(8)]


def states(queue: Queue) -> dict[str, str]:
    return {r.key: r.state.value for r in queue.read()}


def get(queue: Queue, key: str) -> Record:
    return next(r for r in queue.read() if r.key == key)


def publish(queue: Queue, r: Record, ending: AttemptResult, attempt: int | None = None) -> None:
    """What a job of this run says at its end."""
    run = queue.paths.run(r.name)
    run.folder.mkdir(exist_ok=True)
    write_json(run.outcome, Outcome(ending, attempt or r.attempt, message="some reason").to_json())


def lost(r: Record) -> Ended:
    return Ended(r.key, r.attempt, Outcome(AttemptResult.LOST, r.attempt, message="no word"))


def settle(queue: Queue, r: Record, ending: AttemptResult) -> Record:
    """A claimed run comes to this end; its record after it."""
    publish(queue, r, ending)
    queue.tick(ME, 0, ended=[lost(r)])
    return get(queue, r.key)
