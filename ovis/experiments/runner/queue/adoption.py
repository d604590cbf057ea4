"""What a run's folder knows that the ledger does not: it was lost, or the run was trained by hand."""

from __future__ import annotations

from ovis.experiments.runner.queue import transitions
from ovis.experiments.runner.queue.ledger import Row
from ovis.experiments.runner.queue.transitions import Policy
from ovis.experiments.runs.fencing import read_fence
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.status import Record, read_outcome

__all__ = ["last_attempt", "new_row"]


def new_row(paths: ExperimentPaths, record: Record, policy: Policy, now: float) -> Row:
    """A run's first row in the ledger. Where its folder is there, it goes on from that: its attempts count on, as their
    fence never goes down; and if it came to its end, that is its end.

    Args:
        paths: the experiment's files.
        record: the run as it is to be queued.
        policy: says what a failure means.
        now: seconds since 1970.
    """
    row: Row = {**record.to_row(), "created": now}
    run = paths.run(record.name)
    if run.folder.is_dir():
        outcome = read_outcome(run)
        # A copy of the folder may be without its hidden files, of which the fence is one.
        row["attempt"] = last_attempt(run, outcome.attempt if outcome else 0)
        if outcome is not None and transitions.settles(row, outcome):
            transitions.finish(row, outcome, policy, outcome.t)
    return row


def last_attempt(run: RunPaths, known: int) -> int:
    """The number of the last attempt there was: a training by hand takes the next one, and a ledger may be an old copy.

    Args:
        run: the run.
        known: the last one that is known of.
    """
    try:
        return max(known, read_fence(run))
    except OSError:  # what is wrong with the folder is the job's to say
        return known
