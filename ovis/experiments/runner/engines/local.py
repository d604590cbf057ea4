"""Jobs as subprocesses of the manager, a fixed number on each free device of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovis.experiments.runner.engines.environment import job_environment
from ovis.experiments.runner.engines.interface import JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.gpus.device_choice import DeviceSource
from ovis.experiments.runner.gpus.devices import Device, cores
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.atomic import no_link
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["LocalEngine"]


@dataclass(frozen=True)
class _LocalJob:
    process: subprocess.Popen[bytes]
    device: Device


class LocalEngine:
    """Runs jobs as subprocesses, which die with the manager. Use it from the main thread.

    Args:
        source: the devices, and their current load.
        processes: slots on each device.
    """

    kind = "local"
    detached = False

    def __init__(self, source: DeviceSource, processes: int) -> None:
        self._source = source
        self._processes = processes
        self._threads = max(1, cores() // (processes * source.at_once))
        self._jobs: dict[str, _LocalJob] = {}  # by the process id of the job

    @property
    def location(self) -> str:
        return str(self._source)

    @property
    def slots(self) -> int:
        return self._processes * self._source.at_once

    def check(self, root: Path) -> None:
        pass  # a job sees what the manager sees

    def capacity(self) -> int:
        free = [use for use in self._source.usable(self._counts(), self._processes) if use.availability.free]
        begun = sum(self._processes - use.jobs for use in free if use.jobs)
        fresh = sum(not use.jobs for use in free)
        return begun + self._processes * min(fresh, self._source.at_once - len(self._counts()))

    def waiting(self) -> str:
        reasons = {
            use.device.label: use.availability.reason for use in self._source.usable(self._counts(), self._processes)
        }
        return "; ".join(f"{label} {reason}" for label, reason in reasons.items() if reason)

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        started: list[JobHandle | OSError] = []
        for job in jobs:
            try:
                started.append(self._start(job))
            except OSError as error:
                started.append(error)
        return started

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        statuses = {}
        for id, job in list(self._jobs.items()):
            code = job.process.poll()
            if id in ids:
                statuses[id] = JobStatus(JobPhase.RUNNING if code is None else JobPhase.ENDED, code)
            if code is not None:
                del self._jobs[id]
                self._source.note_end(job.device)
        return {id: statuses.get(id, JobStatus(JobPhase.ENDED)) for id in ids}

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        for id in ids:
            process = self._jobs[id].process if id in self._jobs else None
            if process is not None and process.poll() is None:
                if force:
                    os.killpg(process.pid, signal.SIGKILL)  # its training dies with it
                else:
                    process.terminate()

    def attach(self, ids: Collection[str]) -> Collection[str]:
        return []  # a job of another manager died with it

    def close(self) -> None:
        self.cancel(self._jobs, force=True)
        for job in self._jobs.values():
            job.process.wait()
        self._jobs.clear()
        self._source.close()

    def _start(self, job: JobSpec) -> JobHandle:
        device = self._source.choose(self._counts(), self._processes)
        local = replace(job, device=device.kind, parent=os.getpid())
        with open(ExperimentPaths(job.folder).jobs_log, "ab", opener=no_link) as log:
            process = subprocess.Popen(
                local.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=job_environment(self._threads, local.code, **device.environment),
                cwd=local.code,
                start_new_session=True,  # Ctrl-C is for the manager only
            )
        self._jobs[str(process.pid)] = _LocalJob(process, device)
        self._source.note_start(device)
        return JobHandle(str(process.pid), device.label)

    def _counts(self) -> Counter[str]:
        """The number of this engine's jobs on each device."""
        return Counter(job.device.label for job in self._jobs.values())
