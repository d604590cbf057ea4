"""Notice runs whose progress stands still, as that of a training that was stopped or that waits for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ovis.experiments.runs.status import Progress

__all__ = ["StallWatch"]

#: Seconds without progress after which a run is reported, and that a run may take to begin.
LIMIT = 600.0

#: A run may pause for this many times as long as it has paused before.
FACTOR = 10.0

#: Most seconds that are counted between two looks: meanwhile this process may have been stopped itself.
SLICE = 60.0


@dataclass
class _Pause:
    """How long a job has shown no progress."""

    progress: Progress | None
    looked: float  # monotonic clock
    still: float = 0.0
    longest: float = 0.0  # of the earlier pauses, the beginning of the attempt included
    begun: bool = False
    told: bool = False


class StallWatch:
    """Says when a job has shown no progress for longer than its own pace explains.

    That is longer than ``limit``, and ten times longer than any pause before: the first pause lasts until the first
    steps are taken, and so includes loading the data and compiling. Only the time between looks counts, at most a
    minute each, as the watching process may have been stopped itself.

    Args:
        limit: seconds; None: ten minutes.
        clock: the monotonic clock.
    """

    def __init__(self, limit: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit or LIMIT, clock
        self._pauses: dict[str, _Pause] = {}

    def look(self, id: str, progress: Progress | None, lost: int = 0) -> float | None:
        """Look at a job.

        Args:
            id: the job.
            progress: as its run's folder has it now; None: there is none.
            lost: how many attempts at its run were lost: each doubles the limit, so that none is too short for ever.

        Returns:
            the seconds without progress, once for each pause that is too long; else None.
        """
        now = self._clock()
        pause = self._pauses.setdefault(id, _Pause(progress, now))
        pause.still += min(now - pause.looked, SLICE)
        pause.looked = now
        if progress != pause.progress:
            pause.longest, pause.still = max(pause.longest, pause.still), 0.0
            pause.progress, pause.begun, pause.told = progress, True, False
        limit = max(self._limit * 2.0 ** min(lost, 30), FACTOR * pause.longest, 0.0 if pause.begun else LIMIT)
        if pause.told or pause.still <= limit:
            return None
        pause.told = True
        return pause.still

    def forget(self, id: str) -> None:
        """Forget a job that has ended."""
        self._pauses.pop(id, None)
