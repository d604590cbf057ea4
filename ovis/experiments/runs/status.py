"""States, outcomes and progress of runs as data, and how to read them from a run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from ovis.experiments.runs.paths import RunPaths

__all__ = [
    "ABORTED",
    "BUSY",
    "DEFAULTS",
    "EXHAUSTED",
    "LOCKED",
    "STALE",
    "AttemptResult",
    "Outcome",
    "Progress",
    "Record",
    "State",
    "count_states",
    "last_line",
    "parse_attempt",
    "read_object",
    "read_outcome",
    "read_progress",
]

#: Exit code of a training that has written its checkpoint and stopped on request.
ABORTED = 3
#: Exit code of a training that ended because the disk or the memory was full, or by another error that may pass.
EXHAUSTED = 74
#: Exit code of a job whose run another process has locked.
BUSY = 75
#: Message of a job of several runs about a run that another process has locked.
LOCKED = "another process holds the run's folder"
#: Exit code of a job whose attempt was revoked: another one may be running.
STALE = 76


#: Larger numbers of attempts are invalid: the ledger would not hold them.
LARGEST_ATTEMPT = 10**9

#: Larger numbers of steps are invalid: a float would not hold them exactly.
LARGEST_STEP = 2**53


class State(str, Enum):
    """State of a run in the queue."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptResult(str, Enum):
    """Result of one attempt at a run."""

    SUCCESS = "success"
    EXCEPTION = "exception"  # the training left with an exit code of its own
    EXHAUSTED = "exhausted"  # not the training's fault, and may pass: the disk or the memory is full, a server is away
    SIGNAL = "signal"  # the training was killed
    LOST = "lost"  # the job vanished
    ORPHANED = "orphaned"  # its manager ended, and it with it
    ABORTED = "aborted"  # asked to stop, checkpointed
    BUSY = "busy"  # another process has locked the run

    @property
    def final(self) -> bool:
        """Whether the training ended by itself: such an outcome counts, whichever process reports it."""
        return self in (AttemptResult.SUCCESS, AttemptResult.EXCEPTION)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the content of ``outcome.json``.

    Attributes:
        status: the result.
        attempt: number of the attempt.
        exit: exit code of the training, if it left by itself.
        signal: number of the signal that ended it, if one did.
        message: one line; empty on success.
        t: when, in seconds since 1970.
    """

    status: AttemptResult
    attempt: int
    exit: int | None = None
    signal: int | None = None
    message: str = ""
    t: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status.value}


@dataclass(frozen=True)
class Record:
    """One run in the queue.

    Attributes:
        key: hash of the run's settings; no two records share one.
        name: name of the run's folder.
        settings: the run's settings that differ from the defaults, by name.
        state: its state.
        reason: of the state, if there is one: ``aborted``, ``lost``, ``exception``, ``requeued``...
        attempt: number of the last attempt; only grows.
        valid_from: outcomes of earlier attempts no longer count.
        failures: how often it failed by an error of its own.
        lost: how often it was killed or vanished.
        not_before: not to be started before this time, seconds since 1970.
        priority: higher ones start first.
        owner: the manager that runs it, ``host:pid:starttime:uuid``.
        engine: ``{"kind", "id"}`` of the job.
        device: where it runs.
        snapshot: the code it runs on.
        created, started, ended: seconds since 1970; 0: not yet.
        error: one line about its last failure.
        fresh_from: the first attempt of the last start from step 0: it deletes the files of earlier ones. 0: none.
    """

    key: str
    name: str
    settings: Mapping[str, Any]
    state: State = State.QUEUED
    reason: str = ""
    attempt: int = 0
    valid_from: int = 1
    failures: int = 0
    lost: int = 0
    not_before: float = 0.0
    priority: int = 0
    owner: str = ""
    engine: Mapping[str, str] | None = None
    device: str = ""
    snapshot: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    error: str = ""
    fresh_from: int = 0

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """A record from its JSON object, as the ledger has checked it; fields of later versions are dropped."""
        known = {name: value for name, value in row.items() if name in _RECORD_FIELDS}
        return cls(**{**known, "state": _STATES[row["state"]]})

    def to_row(self) -> dict[str, Any]:
        return {**vars(self), "state": self.state.value}


_RECORD_FIELDS = frozenset(item.name for item in fields(Record))
_STATES = {state.value: state for state in State}

#: Defaults of the fields that a row of the ledger may leave out. Changing one changes the meaning of existing ledgers.
DEFAULTS = {item.name: item.default for item in fields(Record) if item.default is not MISSING and item.name != "state"}


@dataclass(frozen=True)
class Progress:
    """How far a run has come: the content of ``progress.json``.

    Attributes:
        step: steps taken.
        nsteps: steps in all.
        loss: the last one; None where it is not finite.
        t: time of writing, in seconds since 1970.
        begin: the step that this attempt began at; None: not known.
    """

    step: int
    nsteps: int
    loss: float | None = None
    t: float = 0.0
    begin: int | None = None

    @property
    def fraction(self) -> float:
        return min(max(self.step / self.nsteps, 0.0), 1.0) if self.nsteps > 0 else 0.0

    @property
    def carried(self) -> float:
        """The part of the fraction that this attempt began with."""
        return replace(self, step=min(self.begin or 0, self.step)).fraction


def read_outcome(run: RunPaths) -> Outcome | None:
    """The outcome of the run's last attempt that published one; None where there is none that can be read."""
    data = read_object(run.outcome)
    try:
        if data is None:
            return None
        return Outcome(
            AttemptResult(data["status"]),
            parse_attempt(data["attempt"]),
            data.get("exit"),
            data.get("signal"),
            str(data.get("message") or ""),
            float(data.get("t", 0.0)),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def read_progress(run: RunPaths, since: float = 0.0) -> Progress | None:
    """The run's progress; None where none was written.

    Args:
        run: its folder.
        since: when its attempt started. Progress written earlier shows where the attempt began.
    """
    data = read_object(run.progress)
    try:
        if data is None:
            return None
        loss, written = data.get("loss"), float(data.get("t", 0.0))
        begin = data["step"] if written < since else data.get("begin")
        return Progress(
            _step(data["step"]),
            _step(data["nsteps"]),
            None if loss is None else float(loss),
            written,
            None if begin is None else _step(begin),
        )
    except (KeyError, TypeError, ValueError, OverflowError):  # int of an infinity
        return None


def parse_attempt(value: Any) -> int:
    """The number of an attempt, as it is in a file of the run.

    Raises:
        TypeError, ValueError, OverflowError: it is none.
    """
    return _whole_number(value, LARGEST_ATTEMPT)


def _step(value: Any) -> int:
    """A number of steps.

    Raises:
        TypeError, ValueError, OverflowError: it is none.
    """
    return _whole_number(value, LARGEST_STEP)


def _whole_number(value: Any, largest: int) -> int:
    number = int(value)
    if not 0 <= number <= largest:
        raise ValueError(f"not from 0 to {largest}")
    return number


def last_line(path: Path, size: int = 8192, width: int = 300, after: str = "") -> str:
    """The last line of a log that is not empty, cut to ``width`` characters; empty where there is none.

    Args:
        path: the log.
        size: bytes to look at, from its end.
        width: most characters to give.
        after: of the lines that begin with this, what follows it.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - size, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line.removeprefix(after) for line in lines if line.startswith(after)]
    return "".join(c if c.isprintable() else " " for c in lines[-1])[:width] if lines else ""


def count_states(states: Iterable[State]) -> dict[State, int]:
    """How many runs are in each state, all states listed."""
    counts = dict.fromkeys(State, 0)
    for state in states:
        counts[state] += 1
    return counts


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file, or it holds anything else."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
