"""What the manager tells the queue, and what the queue tells the manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ovis.experiments.runs.status import Outcome, Record, State

__all__ = ["Ended", "Event", "Launched", "Tick"]


@dataclass(frozen=True)
class Ended:
    """A job that ended: how, if its folder holds no outcome of its own."""

    key: str
    attempt: int
    otherwise: Outcome


@dataclass(frozen=True)
class Launched:
    """A job that was handed to the engine, or that has left its queue for a node, or that was taken over.

    Attributes:
        key: the run.
        attempt: its number.
        engine: what the ledger says of the job: ``{"kind", "id"}``, and ``"detached"`` where it outlives its manager.
        device: where it runs; empty: nowhere yet.
        started: when it began, seconds since 1970; 0: as it was claimed.
    """

    key: str
    attempt: int
    engine: Mapping[str, str]
    device: str
    started: float = 0.0


@dataclass(frozen=True)
class Event:
    """An attempt that was settled, and the run's record after it."""

    record: Record
    outcome: Outcome


@dataclass(frozen=True)
class Tick:
    """What one transaction of the manager found and did.

    Attributes:
        claimed: the runs to start now.
        events: the attempts that were settled.
        states: where each run stands, of those the manager asked about.
        next_due: when the next queued run may start, seconds since 1970; None: none is queued.
        attempts: of the runs under way, by key: a job of any other attempt was given up.
    """

    claimed: list[Record]
    events: list[Event]
    states: dict[str, State]
    next_due: float | None
    attempts: dict[str, int]
