"""Times in which the manager can't change the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable

from ovis.experiments.runner.queue.ledger import TOLD_AFTER, LedgerError, LedgerLocked
from ovis.experiments.runs.retrying import describe_file_error, is_transient

__all__ = ["Outage"]

#: Seconds between two tries of a transaction that has failed, and for how long it is tried again.
TRY_INTERVAL, TRY_SECONDS = 1.0, 600.0


class Outage:
    """A time in which the ledger can't be changed: the transaction is tried again, and the jobs go on meanwhile.

    Args:
        print_line: shows a line.
    """

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print = print_line
        self.since: float | None = None  # None: there is none
        self._locked, self._told, self._next_try = False, False, 0.0

    def note(self, error: LedgerError | OSError) -> None:
        """Note that a transaction has failed.

        Raises:
            LedgerError, OSError: the error, if it will not pass, or has not passed for too long.
        """
        now, locked = time.monotonic(), isinstance(error, LedgerLocked)
        if self.since is None or locked != self._locked:
            self.since, self._locked, self._told = now, locked, False
        waited = now - self.since
        if not locked and (not is_transient(error) or waited >= TRY_SECONDS):
            raise error
        self._next_try = now if locked else now + TRY_INTERVAL
        if not self._told and (not locked or waited >= TOLD_AFTER):
            self._told = True
            line = describe_file_error(error) if isinstance(error, OSError) else error
            self._print(f"waiting: {line}" if locked else f"{line}; tried again for up to {TRY_SECONDS:.0f} s")

    def try_is_due(self) -> bool:
        """Whether to try the transaction now."""
        return time.monotonic() >= self._next_try

    def end(self) -> None:
        """Note that a transaction has succeeded."""
        self.since, self._next_try = None, 0.0
