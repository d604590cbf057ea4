"""Ensembles on any engine: runs that differ only in the seed become one job, whose status is that of each run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovis.experiments.runner.engines.interface import Engine, EngineError, JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.experiment_file import ExperimentRun
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.retrying import retry

__all__ = ["EnsembleEngine"]


@dataclass
class _Ensemble:
    """The jobs of several runs that are one job of the wrapped engine."""

    jobs: list[JobSpec]
    handle: JobHandle | None = None  # None: not started yet
    status: JobStatus = field(default_factory=lambda: JobStatus(JobPhase.PENDING))
    cancelled: set[str] = field(default_factory=set)  # the ids of its cancelled runs

    def joint_job(self) -> JobSpec:
        first, *others = self.jobs
        return replace(first, companions=tuple((job.key, job.attempt) for job in others))


class EnsembleEngine:
    """Wraps an engine and gives it one job for all runs that differ only in the seed.

    If one run of an ensemble is cancelled, its job finds that the run's lease is gone and drops the run. The job itself
    is cancelled with the last of its runs.

    Args:
        engine: starts the ensembles.
        queue: the queue with the runs' settings.
        runs: the runs of the experiment, which determine the size of the largest ensemble.

    Raises:
        EngineError: the engine's jobs outlive the manager.
    """

    detached = False

    def __init__(self, engine: Engine, queue: Queue, runs: Sequence[ExperimentRun]) -> None:
        if engine.detached:
            raise EngineError(f"--ensemble: jobs of --engine {engine.kind} have one run each; leave out one of the two")
        self._engine, self._queue = engine, queue
        settings = [run.record().settings for run in runs]
        self._largest = max(Counter(map(_without_seed, settings)).values(), default=1)
        self._numbers = itertools.count(1)
        self._ensembles: dict[str, _Ensemble] = {}  # by the id of each run

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
        waiting = any(ensemble.handle is None for ensemble in self._ensembles.values())
        return 0 if waiting else self._engine.capacity() * self._largest

    def waiting(self) -> str:
        return self._engine.waiting()

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        records = {record.key: record for record in retry(self._queue.read)}
        ensembles: dict[object, _Ensemble] = {}
        ids = []
        for job in jobs:
            record = records[job.key]
            ensemble = ensembles.setdefault((_without_seed(record.settings), record.snapshot), _Ensemble([]))
            ensemble.jobs.append(job)
            ids.append(str(next(self._numbers)))
            self._ensembles[ids[-1]] = ensemble
        self._start_waiting()
        return [self._handle(id) for id in ids]

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        self._start_waiting()
        ensembles = {id: self._ensembles[id] for id in ids if id in self._ensembles}
        started = {each.handle.id: each for each in ensembles.values() if each.handle is not None}
        for id, status in self._engine.poll(list(started)).items():
            handle = started[id].handle
            device = status.device or (handle.device if handle is not None else "")
            started[id].status = replace(status, device=device)
        statuses = {id: ensembles[id].status if id in ensembles else JobStatus(JobPhase.ENDED) for id in ids}
        for id, status in statuses.items():
            if status.phase is JobPhase.ENDED:
                self._ensembles.pop(id, None)
        return statuses

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        ensembles = {id: self._ensembles[id] for id in ids if id in self._ensembles}
        for id, ensemble in ensembles.items():
            ensemble.cancelled.add(id)
        jobs = set()
        for ensemble in ensembles.values():
            if len(ensemble.cancelled) == len(ensemble.jobs):
                if ensemble.handle is None:
                    ensemble.status = JobStatus(JobPhase.ENDED)
                else:
                    jobs.add(ensemble.handle.id)
        if jobs:
            self._engine.cancel(jobs, force)

    def attach(self, ids: Collection[str]) -> Collection[str]:
        return []

    def close(self) -> None:
        self._engine.close()
        self._ensembles.clear()

    def _start_waiting(self) -> None:
        """Start as many of the waiting ensembles as the engine accepts now."""
        waiting = {id(each): each for each in self._ensembles.values() if each.handle is None}
        ready = [each for each in waiting.values() if each.status.phase is JobPhase.PENDING]
        ready = ready[: max(0, self._engine.capacity())] if ready else []
        handles = self._engine.submit([each.joint_job() for each in ready]) if ready else []
        for ensemble, handle in zip(ready, handles, strict=True):
            if isinstance(handle, JobHandle):
                ensemble.handle = handle
            else:
                ensemble.status = JobStatus(JobPhase.ENDED, message=f"can't start the job: {handle}")

    def _handle(self, id: str) -> JobHandle:
        handle = self._ensembles[id].handle
        return JobHandle(id, "" if handle is None else handle.device)


def _without_seed(settings: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The settings that the runs of an ensemble share."""
    return frozenset((name, value) for name, value in settings.items() if name != "seed")
