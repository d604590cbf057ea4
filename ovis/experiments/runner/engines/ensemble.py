"""Ensembles on any engine: jobs whose runs differ only in the seed are started as one, and watched as many."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovis.experiments.runner.engines.base import Engine, EngineError, JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.experiment_file import Run
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.status import Record
from ovis.experiments.settings import TrainSettings

__all__ = ["EnsembleEngine"]


@dataclass
class _Pack:
    """Jobs that are one for the engine."""

    jobs: list[JobSpec]
    inner: JobHandle | None = None  # None: not started yet
    status: JobStatus = field(default_factory=lambda: JobStatus(JobPhase.PENDING))
    unwanted: set[str] = field(default_factory=set)  # our ids of those that were cancelled


class EnsembleEngine:
    """An engine that packs what it is given.

    A run that is cancelled alone is dropped by its job, which finds the lease gone; only when nothing is left of a pack
    is its job cancelled.

    Args:
        engine: starts the packs.
        queue: knows the runs' options.
        runs: of the experiment: the largest pack is what a place of the engine takes.

    Raises:
        EngineError: an engine whose jobs outlive their manager.
    """

    detached = False

    def __init__(self, engine: Engine, queue: Queue, runs: Sequence[Run]) -> None:
        if engine.detached:
            raise EngineError(
                f"--ensemble: jobs of --engine {engine.kind} are of one run each; leave one of the two out"
            )
        self._engine, self._queue = engine, queue
        settings = [run.settings for run in runs]
        sizes = Counter(_without_seed(each) for each in settings if isinstance(each, TrainSettings))
        self._largest = max(sizes.values(), default=1)
        self._numbers = itertools.count(1)
        self._packs: dict[str, _Pack] = {}  # by our id of each run

    @property
    def kind(self) -> str:
        return self._engine.kind

    @property
    def location(self) -> str:
        return f"{self._engine.location}, in ensembles of up to {self._largest}"

    @property
    def slots(self) -> int:
        return self._engine.slots * self._largest

    def check(self, root: Path) -> None:
        self._engine.check(root)

    def capacity(self) -> int:
        waiting = any(pack.inner is None for pack in self._packs.values())
        return 0 if waiting else self._engine.capacity() * self._largest

    def waiting(self) -> str:
        return self._engine.waiting()

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        records = {record.key: record for record in self._queue.read()}
        packs: dict[object, _Pack] = {}
        ids = []
        for job in jobs:
            pack = packs.setdefault(_configuration(records[job.key]), _Pack([]))
            pack.jobs.append(job)
            ids.append(f"{next(self._numbers)}")
            self._packs[ids[-1]] = pack
        self._start_waiting()
        return [self._handle(id) for id in ids]

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        self._start_waiting()
        packs = {id: self._packs[id] for id in ids if id in self._packs}
        started = {pack.inner.id: pack for pack in packs.values() if pack.inner is not None}
        for inner, status in self._engine.poll(list(started)).items():
            handle = started[inner].inner
            device = status.device or (handle.device if handle is not None else "")
            started[inner].status = replace(status, device=device)
        found = {id: packs[id].status if id in packs else JobStatus(JobPhase.ENDED) for id in ids}
        for id, status in found.items():
            if status.phase is JobPhase.ENDED:
                self._packs.pop(id, None)
        return found

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        told = set()
        for id in ids:
            if id in self._packs:
                self._packs[id].unwanted.add(id)
        for id, pack in self._packs.items():
            if id in ids and len(pack.unwanted) == len(pack.jobs):
                if pack.inner is None:
                    pack.status = JobStatus(JobPhase.ENDED)
                else:
                    told.add(pack.inner.id)
        if told:
            self._engine.cancel(told, force)

    def attach(self, ids: Collection[str]) -> Collection[str]:
        return []

    def close(self) -> None:
        self._engine.close()
        self._packs.clear()

    def _start_waiting(self) -> None:
        """Start as many packs as the engine takes now."""
        waiting = {id(pack): pack for pack in self._packs.values() if pack.inner is None}
        ready = [pack for pack in waiting.values() if pack.status.phase is JobPhase.PENDING]
        ready = ready[: max(0, self._engine.capacity())] if ready else []
        handles = self._engine.submit([_joined(pack.jobs) for pack in ready]) if ready else []
        for pack, handle in zip(ready, handles, strict=True):
            if isinstance(handle, JobHandle):
                pack.inner = handle
            else:
                pack.status = JobStatus(JobPhase.ENDED, message=f"can't start the job: {handle}")

    def _handle(self, id: str) -> JobHandle:
        inner = self._packs[id].inner
        return JobHandle(id, "" if inner is None else inner.device)


def _joined(jobs: Sequence[JobSpec]) -> JobSpec:
    first, *others = jobs
    return replace(first, companions=tuple((job.key, job.attempt) for job in others))


def _configuration(record: Record) -> object:
    """What runs have in common that may be trained at once: their options but for the seed, and their code."""
    return frozenset((name, value) for name, value in record.settings.items() if name != "seed"), record.snapshot


def _without_seed(settings: TrainSettings) -> TrainSettings:
    return dataclasses.replace(settings, seed=0)
