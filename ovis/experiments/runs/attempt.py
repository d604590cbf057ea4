"""The lifecycle of an attempt at a run: lock and fence it, clear the last outcome, do the work, publish the outcome.

The same for a run started by hand, for a run of the manager's job (which keeps the lock and the fence itself, as it
outlives the process that does the work), and for several runs whose work one process does at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

import ovis
from ovis.experiments.runs.atomic import no_link
from ovis.experiments.runs.context import RunContext, WorkResult, current_run
from ovis.experiments.runs.fencing import (
    Superseded,
    check_fence,
    clear_outcome,
    lock_run,
    publish_outcome,
    read_fence,
    take_fence,
)
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.retrying import describe_file_error, is_transient, retry
from ovis.experiments.runs.status import ABORTED, BUSY, EXHAUSTED, STALE, AttemptResult, Outcome
from ovis.experiments.settings import SettingsError

__all__ = ["Work", "make_attempts"]

log = logging.getLogger(__name__)

RESULTS = {0: AttemptResult.SUCCESS, ABORTED: AttemptResult.ABORTED, EXHAUSTED: AttemptResult.EXHAUSTED}

#: Exit codes of one of several runs, the one that is returned for all of them first.
BY_IMPORTANCE = (1, 2, EXHAUSTED, ABORTED, 0, STALE)


#: Does the work of one or several runs; an exception that it raises itself is the error of all of them.
Work = Callable[[Sequence[RunContext]], Sequence[WorkResult]]


class _BusyError(RuntimeError):
    """Another process is at work in a run's folder."""


def make_attempts(runs: Sequence[RunPaths], work: Work, attempts: Sequence[int] = ()) -> int:
    """Make one attempt at each of the runs, whose work is done together.

    SIGTERM and Ctrl-C ask the work to stop; a second Ctrl-C ends the process.

    Args:
        runs: their files.
        work: called once, with a context for each run.
        attempts: numbers of the attempts, where the manager's job has locked and fenced the runs and keeps the log of
            the first one; empty: started by hand, which is done here.

    Returns:
        the exit code, of several runs the first that applies: 1: it failed; 2: its options are wrong; 74: the disk or
        the memory is full, or another error that may pass; 75: another process is at work in its folder; 3: it was
        asked to stop; 0: it is complete; 76: another attempt has taken the run over, and nothing was written since. An
        error is one line on stderr.
    """
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    logging.raiseExceptions = False  # a full disk is reported once, not at each line of the log
    try:
        with contextlib.ExitStack() as locks:
            for run in runs:
                if not attempts:
                    run.folder.mkdir(parents=True, exist_ok=True)
            numbers = attempts or _claim(runs, locks)
            codes = _work_and_publish(runs, numbers, work, by_hand=not attempts)
    except _BusyError as error:
        _print_error(str(error))
        return BUSY
    except OSError as error:
        _print_error(describe_file_error(error))
        return _code_of(error)
    return min(codes, key=BY_IMPORTANCE.index)


def _claim(runs: Sequence[RunPaths], locks: contextlib.ExitStack) -> list[int]:
    """Lock and fence runs for the next attempt, the number of which is returned, and clear the outcome of the last."""
    for run in runs:
        if locks.enter_context(lock_run(run)) is None:
            raise _BusyError(f"another process is at work in {run.folder}")
    attempts = [read_fence(run) + 1 for run in runs]
    for run, attempt in zip(runs, attempts, strict=True):
        take_fence(run, attempt)
        clear_outcome(run)
    return attempts


def _work_and_publish(runs: Sequence[RunPaths], attempts: Sequence[int], work: Work, by_hand: bool) -> list[int]:
    """The exit code of each run."""
    codes = []
    with _asked_to_stop() as signals, logging_redirect_tqdm():
        contexts = [
            RunContext(
                run,
                attempt,
                should_stop=lambda: bool(signals),
                check_ownership=functools.partial(check_fence, run, attempt),
                show_progress=sys.stderr.isatty(),
            )
            for run, attempt in zip(runs, attempts, strict=True)
        ]
        with _log_files(contexts if by_hand else contexts[1:]):  # a job's output is the first run's log
            results = _results(work, contexts)
            retry(sys.stdout.flush)  # the log is on the disk, too
            for context, result in zip(contexts, results, strict=True):
                prefix = f"{context.paths.name}: " if len(runs) > 1 else ""
                token = current_run.set(context.paths)
                codes.append(_publish(context, result, prefix))
                current_run.reset(token)
                if by_hand and codes[-1] == 0:
                    print(f"done: {context.paths.folder}")
    return codes


def _results(work: Work, contexts: Sequence[RunContext]) -> Sequence[WorkResult]:
    try:
        return work(contexts)
    except Exception as error:  # whatever it is becomes one line, and a traceback in the log
        return [WorkResult(False, error)] * len(contexts)


def _publish(context: RunContext, result: WorkResult, prefix: str) -> int:
    """Publish how an attempt ended, unless it was superseded; its exit code."""
    code, message = (0, "") if result.complete else (ABORTED, "stopped on request")
    if result.error is not None:
        code, message = _explain(result.error)
        _print_error(prefix + message)
    if code == STALE:
        return STALE
    status = RESULTS.get(code, AttemptResult.EXCEPTION)
    try:
        if retry(lambda: read_fence(context.paths)) != context.attempt:
            return STALE
        publish_outcome(context.paths, Outcome(status, context.attempt, exit=code, message=message, t=time.time()))
    except OSError as failure:
        if result.error is None:  # else it was reported already, and was perhaps about this full disk
            _print_error(prefix + describe_file_error(failure))
            return _code_of(failure)
    return code


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code for what has ended a run, and one line; the log gets a traceback where that helps."""
    if isinstance(error, SettingsError):
        return 2, str(error)
    if isinstance(error, Superseded):
        return STALE, str(error)
    known = isinstance(error, OSError) and error.filename is not None  # else only a traceback says where it came from
    line = describe_file_error(error) if isinstance(error, OSError) else _first_line(error)
    log.error("the run failed: %s", line, exc_info=None if known else error)
    return _code_of(error), line


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _code_of(error: Exception) -> int:
    """The exit code: a disk or a memory that is full now may have free space later."""
    return EXHAUSTED if is_transient(error) or _is_without_code(error) else 1


def _is_without_code(error: Exception) -> bool:
    """Whether a module of this package could not be imported as the package is gone: deleted, or unmounted."""
    ours = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == ovis.__name__
    return ours and not Path(ovis.__file__).exists()


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C during the block; a second Ctrl-C raises KeyboardInterrupt."""
    received: list[int] = []

    def remember(signum: int, frame: object) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _log_files(contexts: Sequence[RunContext]) -> Iterator[None]:
    """During the block, keep each run's log: the records about the run, and those about all runs."""
    root = logging.getLogger()
    with contextlib.ExitStack() as opened:
        files = [
            opened.enter_context(open(context.paths.log(context.attempt), "a", encoding="utf-8", opener=no_link))
            for context in contexts
        ]
        level, handlers = root.level, [logging.StreamHandler(file) for file in files]
        root.setLevel(logging.INFO)
        for context, handler in zip(contexts, handlers, strict=True):
            handler.addFilter(functools.partial(_concerns, context.paths))
            root.addHandler(handler)
        try:
            yield
        finally:
            for handler in handlers:
                root.removeHandler(handler)
                handler.close()
            root.setLevel(level)


def _concerns(run: RunPaths, record: logging.LogRecord) -> bool:
    return current_run.get() in (None, run)
