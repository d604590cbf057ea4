"""A Slurm engine whose jobs stand where a test says, by the commands of :mod:`fake_slurm`."""

from __future__ import annotations

import time
from pathlib import Path

from ovis.experiments.runner.engines.base import EngineRequest, JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.engines.options import SlurmOptions
from ovis.experiments.runner.engines.slurm import SlurmEngine
from ovis.experiments.runner.job import JobSpec


def engine_at(root: Path, *, device: str = "auto", processes: int | None = None, **options: object) -> SlurmEngine:
    engine = SlurmEngine(SlurmOptions(**options), EngineRequest(device, processes))  # type: ignore[arg-type]
    engine.check(root)
    return engine


def specs(root: Path, count: int) -> list[JobSpec]:
    return [JobSpec(root / "lab", f"key{number}", 1) for number in range(count)]


def submit(engine: SlurmEngine, root: Path, count: int = 1) -> list[str]:
    handles = engine.submit(specs(root, count))
    assert all(isinstance(handle, JobHandle) for handle in handles)
    return [handle.id for handle in handles if isinstance(handle, JobHandle)]


def poll(engine: SlurmEngine, *ids: str) -> dict[str, JobStatus]:
    """Where the jobs stand once squeue has been asked anew and has answered."""
    begin, deadline = time.monotonic(), time.monotonic() + 10
    while True:
        found = dict(engine.poll(ids))
        watch = engine._watch
        if watch.listing.asked > begin or watch.silence or all(s.phase is JobPhase.ENDED for s in found.values()):
            return found
        assert time.monotonic() < deadline
        time.sleep(0.01)
