"""The context of one attempt at a run: its files, when to stop, whether it still owns the run, what is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from ovis.experiments.runs.paths import RunPaths

__all__ = ["RunContext", "WorkResult", "current_run"]

#: The run that log records are about, where several are trained at once; None: all of them.
current_run: ContextVar[RunPaths | None] = ContextVar("current_run", default=None)


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class WorkResult:
    """How the work of one attempt ended.

    Attributes:
        complete: whether nothing is left to do. False without an error: it was asked to stop.
        error: what ended it.
    """

    complete: bool
    error: Exception | None = None


@dataclass(frozen=True)
class RunContext:
    """Passed to the code that makes a run.

    Attributes:
        paths: the run's files; the folder exists, and nobody else writes to it.
        attempt: number of the attempt; 0: outside of any queue, as in tests.
        should_stop: asked between steps; once true, a checkpoint is written and the training left.
        check_ownership: called before anything is published; raises
            :class:`~ovis.experiments.runs.fencing.Superseded` where a later attempt has taken the run over.
        show_progress: whether to draw a progress bar.
    """

    paths: RunPaths
    attempt: int = 0
    should_stop: Callable[[], bool] = _never
    check_ownership: Callable[[], None] = _nothing
    show_progress: bool = False
