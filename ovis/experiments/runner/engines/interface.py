"""The interface between the manager and what starts its jobs. Only the manager writes the ledger."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.status import BUSY, LOCKED, AttemptResult, Outcome, Record, last_line

__all__ = [
    "Engine",
    "EngineError",
    "EngineRequest",
    "JobHandle",
    "JobPhase",
    "JobStatus",
    "SubmissionDeferred",
    "unreported_outcome",
]


class EngineError(RuntimeError):
    """The engine cannot be used, or no longer. The message is one line that says why and what to do."""


class SubmissionDeferred(OSError):
    """The cluster accepts no more jobs for now. Nothing is wrong with the job itself."""


class JobPhase(str, Enum):
    """The phase of a submitted job."""

    PENDING = "pending"  # in the cluster's queue, without a node
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class EngineRequest:
    """The options that every engine has.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or, on this machine, ``cuda:N``.
        processes: concurrent runs on each device; None: the engine's default.
    """

    device: str = "auto"
    processes: int | None = None


@dataclass(frozen=True)
class JobStatus:
    """What an engine knows about a job.

    Attributes:
        phase: the phase of the job.
        code: the exit code, if the job has ended and the engine knows it. The outcome is in the run's folder.
        message: why the job ended, if the cause was not the job itself: a lost node, a refusal by the cluster.
        device: where it runs, for display, as ``node-3 cuda:1``; empty: as in its handle.
    """

    phase: JobPhase
    code: int | None = None
    message: str = ""
    device: str = ""


@dataclass(frozen=True)
class JobHandle:
    """A submitted job.

    Attributes:
        id: the engine's identifier. Where jobs outlive the manager, the next manager finds them by it.
        device: where it runs, for display; empty: not known before its status says it.
    """

    id: str
    device: str = ""


class Engine(Protocol):
    """Starts jobs and watches them. It never retries a job: the ledger does."""

    @property
    def kind(self) -> str:
        """The engine's name in the ledger and in ``--engine``."""

    @property
    def detached(self) -> bool:
        """Whether its jobs outlive the manager, as those of Slurm do."""

    @property
    def location(self) -> str:
        """Where it runs jobs, for display: ``cpu``, ``Ray at 10.0.0.1:6379, 3 nodes, 8 GPUs``."""

    @property
    def slots(self) -> int:
        """How many of its jobs can run at the same time, as far as is known now."""

    def check(self, root: Path) -> None:
        """Find out whether jobs can run, before any file of the experiment is written.

        Args:
            root: the existing folder of all experiments, which every node must see. Files that the check writes there
                are removed.

        Raises:
            EngineError: no job can run.
        """

    def capacity(self) -> int:
        """How many more jobs it accepts now. A cluster accepts more than it can run, to keep its nodes busy."""

    def waiting(self) -> str:
        """Which devices it cannot use now, and why: ``cuda:0 load 97 %, memory 41 %; cuda:1 ...``.

        Empty if there are none, or if they are busy with its own jobs.
        """

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        """Start jobs, at most as many as its capacity.

        Returns:
            for each job its handle, or the error that prevented its start. The run is then put back into the queue and
            tried again later. This counts as a loss (too many losses fail the run), except for
            :class:`SubmissionDeferred`.

        Raises:
            EngineError: no job can be started, neither now nor later.
        """

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        """The status of each of these jobs. It is called ten times a second and must not block.

        Raises:
            EngineError: the cluster is gone.
        """

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        """Ask jobs to write their checkpoints and end; with ``force``, kill them. Ended jobs are ignored."""

    def attach(self, ids: Collection[str]) -> Collection[str]:
        """Take over the jobs of an earlier manager, where they outlive it.

        Returns:
            the jobs that it knows, whether pending, running or ended; the others are gone.
        """

    def close(self) -> None:
        """Kill the remaining jobs, unless they outlive the manager."""


def unreported_outcome(record: Record, status: JobStatus, log: Path, stopping: bool) -> Outcome:
    """The outcome of an ended job, in case it has written none into its run's folder.

    Args:
        record: the run, as it was claimed.
        status: what the engine knows about the job.
        log: the file to which jobs print their own errors.
        stopping: the user has asked to stop.
    """
    printed = last_line(log, after=f"job {record.key}.{record.attempt}: ")
    if status.code == BUSY or printed == LOCKED:
        ending, message = AttemptResult.BUSY, LOCKED
    elif stopping:
        ending, message = AttemptResult.ABORTED, "stopped on request"
    else:
        ending = AttemptResult.LOST
        code = "without an" if status.code is None else f"with code {status.code} and no"
        elsewhere = f"see {log}" if last_line(log) else "it printed no message"
        message = f"the job ended {code} outcome: {printed or status.message or elsewhere}"
    return Outcome(ending, record.attempt, message=message, t=time.time())
