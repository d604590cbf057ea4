"""Ctrl-C and other signals to stop the manager.

Ctrl-C once: nothing more is started, and each running job writes a checkpoint and ends; its run is queued again. Twice:
the jobs are killed. The signals are only counted here; ``runner/manager.py`` (``_handle_stop``) acts on the count, and
``runs/attempt.py`` stops the training in the job.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopSignals"]


class StopSignals:
    """Counts the user's requests to stop instead of raising KeyboardInterrupt.

    A logout sends SIGHUP and SIGTERM at once: of signals other than Ctrl-C's, those of one second are one request.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        self.count = 0
        self._last = float("-inf")
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self.NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self.count += number == signal.SIGINT or now - self._last >= 1.0
        self._last = now
