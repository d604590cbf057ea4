"""Whether a run is retried, and after which pause; and the other times of the queue.

:func:`ovis.experiments.runner.queue.transitions.finish` asks, once an attempt has failed or was lost.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Policy"]


@dataclass(frozen=True)
class Policy:
    """The queue's times and limits.

    Attributes:
        heartbeat: seconds between two signs of life of a job.
        ttl: seconds of silence after which a job counts as lost.
        max_failures: attempts that may fail by an error before the run does; 1: no retry, as an error tends to repeat.
        max_lost: attempts that may be killed or vanish before the run fails.
        backoff: seconds before the first retry; doubled for each further one.
        max_backoff: the longest of these pauses.
    """

    heartbeat: float = 10.0
    ttl: float = 60.0
    max_failures: int = 1
    max_lost: int = 20
    backoff: float = 1.0
    max_backoff: float = 300.0

    def allows_retry(self, counter: str, count: int) -> bool:
        """Whether a run is tried again after ``count`` attempts that failed (``failures``) or vanished (``lost``)."""
        return count < {"failures": self.max_failures, "lost": self.max_lost}[counter]

    def pause(self, count: int) -> float:
        """Seconds to wait after the ``count``-th failure."""
        return float(min(self.backoff * 2.0 ** min(max(count - 1, 0), 30), self.max_backoff))
