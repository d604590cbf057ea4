"""What the manager asks of whatever starts its jobs. The manager alone writes the ledger; the engine owns placement."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from ovis.experiments.runner.job import JobSpec

__all__ = ["Engine", "EngineError", "Handle", "NotNow", "Phase", "Request", "Status"]


class EngineError(RuntimeError):
    """The engine can't be used, or no longer: one line that says why and what to do."""


class NotNow(OSError):
    """The cluster takes no job for a while; nothing is wrong with this one."""


class Phase(str, Enum):
    """Where a job stands."""

    PENDING = "pending"  # the cluster has it, no node yet
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Request:
    """What the user wants of an engine, whichever it is.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or, on this machine, ``cuda:N``.
        processes: runs at once on each device; None: the engine's choice.
    """

    device: str = "auto"
    processes: int | None = None


@dataclass(frozen=True)
class Status:
    """What an engine knows of a job.

    Attributes:
        phase: where it stands.
        code: its exit code, where it has ended and the engine can tell. The outcome is read from the run's folder.
        message: why it ended, where that was not its own doing: its node was lost, the cluster refused it.
        device: where it runs, for people, as ``node-3 cuda:1``; empty: as its handle says.
    """

    phase: Phase
    code: int | None = None
    message: str = ""
    device: str = ""


@dataclass(frozen=True)
class Handle:
    """A submitted job.

    Attributes:
        id: the engine's name for it. Where jobs outlive the manager, the next manager knows them by it.
        device: where it runs, for people; empty: the engine's status will say.
    """

    id: str
    device: str = ""


class Engine(Protocol):
    """Starts jobs and watches them. It never retries one: the ledger does."""

    @property
    def kind(self) -> str:
        """Its name in the ledger, as of ``--engine``."""

    @property
    def detached(self) -> bool:
        """Whether its jobs outlive the manager (Slurm's do)."""

    @property
    def place(self) -> str:
        """Where it runs jobs, for people: ``cpu``, ``Ray at 10.0.0.1:6379, 3 nodes, 8 GPUs``."""

    @property
    def slots(self) -> int:
        """How many of its jobs can run at the same time, as far as it knows now."""

    def check(self, root: Path) -> None:
        """Find out whether jobs can work here, before anything of the experiment is written.

        Args:
            root: the folder of all experiments, which every node must see; it is there. What is written in it for this
                check is removed.

        Raises:
            EngineError: they can't.
        """

    def capacity(self) -> int:
        """How many more jobs it takes now. A cluster takes more than it can run, so that its nodes never idle."""

    def waiting(self) -> str:
        """What it can't use for now though it would, and why: ``cuda:0 load 97 %, memory 41 %; cuda:1 ...``.

        Empty where there is nothing, or only jobs of its own to wait for.
        """

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[Handle | OSError]:
        """Start jobs, at most as many as its capacity is.

        Returns:
            for each of them its handle, or why it could not be started: it is then put back, and tried again later.
            That counts as a loss, as many of which fail the run, unless it is a :class:`NotNow`.

        Raises:
            EngineError: none can be started, now or later.
        """

    def poll(self, ids: Collection[str]) -> Mapping[str, Status]:
        """Where these jobs stand: every one of ``ids`` is in the answer. Called ten times a second: it may not wait.

        Raises:
            EngineError: the cluster is gone.
        """

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        """Ask jobs to write their checkpoints and end; with ``force``, kill them. Those that have ended are ignored."""

    def attach(self, ids: Collection[str]) -> Collection[str]:
        """Take over jobs of an earlier manager, where they outlive it.

        Returns:
            those that it knows, be they pending, running or ended; the others are gone.
        """

    def close(self) -> None:
        """Kill what is left of jobs that must not outlive the manager."""
