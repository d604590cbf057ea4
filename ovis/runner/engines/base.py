"""What the manager asks of whatever starts its jobs. The manager alone writes the ledger; the engine owns placement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ovis.runner.job import JobSpec

__all__ = ["Engine", "Handle", "Phase", "Status"]


class Phase(str, Enum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Status:
    """What an engine knows of a job.

    Attributes:
        phase: where it stands.
        code: its exit code, where it has ended and the engine can tell. The outcome is read from the run's folder.
    """

    phase: Phase
    code: int | None = None


@dataclass(frozen=True)
class Handle:
    """A submitted job.

    Attributes:
        id: the engine's name for it.
        device: where it runs, for people.
    """

    id: str
    device: str


class Engine(Protocol):
    """Starts jobs and watches them. It never retries one: the ledger does."""

    @property
    def kind(self) -> str:
        """Its name in the ledger."""

    @property
    def detached(self) -> bool:
        """Whether its jobs outlive the manager (a cluster's do)."""

    def capacity(self) -> int:
        """How many more jobs it can take now."""

    def waiting(self) -> str:
        """What it can't use for now though it would, and why: ``cuda:0 load 97 %, memory 41 %; cuda:1 ...``.

        Empty where there is nothing, or only jobs of its own to wait for.
        """

    def submit(self, job: JobSpec) -> Handle:
        """Start a job.

        Raises:
            OSError: it could not be started.
        """

    def poll(self, ids: Collection[str]) -> Mapping[str, Status]:
        """Where these jobs stand."""

    def cancel(self, id: str, force: bool = False) -> None:
        """Ask a job to write its checkpoint and end; with ``force``, kill it."""

    def attach(self, id: str) -> bool:
        """Take over a job of an earlier manager; False where there is none."""

    def close(self) -> None:
        """Kill what is left of jobs that must not outlive the manager."""
