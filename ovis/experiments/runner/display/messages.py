"""Messages of a manager beside its progress: how attempts ended, and why queued runs don't start."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ovis.experiments.runner.display.text import clock, runs_text
from ovis.experiments.runner.queue.queue import Event
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import AttemptResult, Progress, Record, State, last_line

__all__ = ["RunMessages", "describe_start"]

#: Seconds between two messages on why queued runs don't start.
WAIT_INTERVAL = 60.0

#: A figure in such a message, which changes all the time; not the number of a device.
FIGURE = re.compile(r"(?<![\w:.-])\d+")

#: Runs put back for the same reason that are named one by one.
MANY = 4


def describe_start(before: Iterable[Record], changed: Sequence[Record], fresh: bool) -> str:
    """Where runs that were put back begin, in one line; empty: at the last checkpoint, and there is more to do.

    Args:
        before: the records before they were put back.
        changed: those put back.
        fresh: whether they begin at step 0.
    """
    if fresh and changed:
        return "they begin at step 0: all files of their earlier attempts but the logs are deleted when they start"
    keys = {record.key for record in changed}
    done = sum(record.key in keys and record.state is State.DONE for record in before)
    if not done:
        return ""
    begin = f"done before: {runs_text(done)}, to be resumed at the last checkpoint"
    return f"{begin}, where nothing is left to train; with --fresh, they begin at step 0"


class RunMessages:
    """Prints what happens to runs.

    Args:
        print_line: shows a line.
        paths: where the runs' logs are.
    """

    def __init__(self, print_line: Callable[[str], None], paths: ExperimentPaths) -> None:
        self._print, self._paths = print_line, paths
        self._wait, self._last_wait = "", float("-inf")
        self._refusal = ""

    def waiting(self, text: str) -> None:
        """Report why queued runs don't start: once, and again when the reason changes, at most once a minute.

        Args:
            text: the engine's reason; empty: only this manager's own jobs are in the way.
        """
        reason, now = FIGURE.sub("", text), time.monotonic()
        if not reason:
            self._wait = ""
        elif reason != self._wait and now - self._last_wait >= WAIT_INTERVAL:
            self._wait, self._last_wait = reason, now
            self._print(f"waiting: {text}")

    def stall(self, record: Record, progress: Progress | None, seconds: float) -> None:
        """Report that a run's progress stands still.

        Args:
            record: the run.
            progress: where it stands; None: it has not begun.
            seconds: for how long.
        """
        where = "it has not begun" if progress is None else f"step {progress.step} of {progress.nsteps}"
        log = self._paths.run(record.name).log(record.attempt)
        last = last_line(log)
        ends = f", which ends with: {last}" if last else ""
        self._print(f"no progress for {clock(seconds)}: {record.name}, {where}; log: {log}{ends}")

    def ends(self, events: Sequence[Event], stopping: bool) -> None:
        """Report how attempts ended, a line each; many that were put back for the same reason share one.

        A reason why no more jobs can be started is not repeated: it is tried again every minute.

        Args:
            events: the attempts.
            stopping: the user has asked to stop, so runs that are put back are not reported.
        """
        back = [event for event in events if event.record.state is State.QUEUED and not stopping]
        alike = Counter(map(_reason, back))
        refusals = {_reason(event) for event in back if event.outcome.status is AttemptResult.ABORTED}
        alike.pop(self._refusal if self._refusal in refusals else "", None)
        self._refusal = min(refusals, default=self._refusal)
        for event in events:
            record, outcome = event.record, event.outcome
            if record.state is State.FAILED:
                log = self._paths.run(record.name).log(outcome.attempt)
                self._print(f"FAILED {record.name}: {outcome.message}\n       log: {log}")
            elif record.state is State.QUEUED and 0 < alike[_reason(event)] <= MANY:
                self._print(f"put back {record.name}, attempt {outcome.attempt} {_reason(event)}")
        for reason, count in alike.items():
            if count > MANY:
                self._print(f"put back {runs_text(count)}, each {reason}")


def _reason(event: Event) -> str:
    return f"{event.outcome.status.value}: {event.record.error}"
