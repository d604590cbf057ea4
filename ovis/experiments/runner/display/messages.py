"""What a manager says beside its progress bar: how attempts ended, and why queued runs don't start."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ovis.experiments.runner.display.text import runs_text
from ovis.experiments.runner.queue.queue import Event
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import AttemptResult, State

__all__ = ["RunMessages"]

#: Seconds between two lines that say why queued runs don't start.
WAIT_INTERVAL = 60.0

#: A figure in such a line, which changes from look to look; not the number of a device.
FIGURE = re.compile(r"(?<![\w:.-])\d+")

#: Runs put back for the same reason that are named one by one.
MANY = 4


class RunMessages:
    """Turns what happens to runs into lines.

    Args:
        say: shows a line.
        paths: where the runs' logs are.
    """

    def __init__(self, say: Callable[[str], None], paths: ExperimentPaths) -> None:
        self._say, self._paths = say, paths
        self._wait, self._last_wait = "", float("-inf")
        self._refusal = ""

    def waiting(self, text: str) -> None:
        """Say why queued runs don't start: once, and again when the reason is another one, at most once a minute.

        Args:
            text: the reason, as of the engine; empty: there is none but our own jobs.
        """
        reason, now = FIGURE.sub("", text), time.monotonic()
        if not reason:
            self._wait = ""
        elif reason != self._wait and now - self._last_wait >= WAIT_INTERVAL:
            self._wait, self._last_wait = reason, now
            self._say(f"waiting: {text}")

    def ends(self, events: Sequence[Event], stopping: bool) -> None:
        """Say how attempts ended, a line each; many that were put back for the same reason share one.

        That no more can be started for a reason that was said last is not said again: it is tried every minute.

        Args:
            events: the attempts.
            stopping: the user has asked to stop: that runs are put back goes without saying.
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
                self._say(f"FAILED {record.name}: {outcome.message}\n       log: {log}")
            elif record.state is State.QUEUED and 0 < alike[_reason(event)] <= MANY:
                self._say(f"put back {record.name}, attempt {outcome.attempt} {_reason(event)}")
        for reason, count in alike.items():
            if count > MANY:
                self._say(f"put back {runs_text(count)}, each {reason}")


def _reason(event: Event) -> str:
    return f"{event.outcome.status.value}: {event.record.error}"
