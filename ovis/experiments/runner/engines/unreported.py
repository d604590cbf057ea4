"""How a job ended that has not said so in the run's folder."""

from __future__ import annotations

import time
from pathlib import Path

from ovis.experiments.runner.engines.base import Status
from ovis.experiments.runs.status import BUSY, HELD, AttemptResult, Outcome, Record, last_line

__all__ = ["unreported_outcome"]


def unreported_outcome(record: Record, status: Status, log: Path, stopping: bool) -> Outcome:
    """What the ledger takes for the job's end, should its run's folder hold no outcome.

    Args:
        record: the run, as it was claimed.
        status: what the engine knows of the job.
        log: where jobs print errors of their own.
        stopping: the user has asked to stop.
    """
    said = last_line(log, after=f"job {record.key}.{record.attempt}: ")
    if status.code == BUSY or said == HELD:
        ending, message = AttemptResult.BUSY, HELD
    elif stopping:
        ending, message = AttemptResult.ABORTED, "stopped on request"
    else:
        ending = AttemptResult.LOST
        code = "without an" if status.code is None else f"with code {status.code} and no"
        message = f"the job ended {code} outcome: {said or status.message or f'see {log}'}"
    return Outcome(ending, record.attempt, message=message, t=time.time())
