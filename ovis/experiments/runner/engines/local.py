"""Jobs as subprocesses of the manager, a fixed number on each free device of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovis.experiments.runner.engines.interface import JobHandle, JobPhase, JobStatus, job_environment
from ovis.experiments.runner.gpus.availability import Availability, DeviceSource
from ovis.experiments.runner.gpus.devices import Device, cores
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["LocalEngine"]


@dataclass(frozen=True)
class _LocalJob:
    process: subprocess.Popen[bytes]
    device: Device


@dataclass(frozen=True)
class _DeviceUse:
    device: Device
    jobs: int  # of this engine, on the device
    availability: Availability


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
        free = [use for use in self._usable() if use.availability.free]
        begun = sum(self._processes - use.jobs for use in free if use.jobs)
        fresh = sum(not use.jobs for use in free)
        return begun + self._processes * min(fresh, self._source.at_once - len(self._counts()))

    def waiting(self) -> str:
        reasons = {use.device.label: use.availability.reason for use in self._usable()}
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
        device = self._choose()
        local = replace(job, device=device.kind, parent=os.getpid())
        with ExperimentPaths(job.folder).jobs_log.open("ab") as log:
            process = subprocess.Popen(
                local.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=job_environment(self._threads, **device.environment),
                start_new_session=True,  # Ctrl-C is for the manager only
            )
        self._jobs[str(process.pid)] = _LocalJob(process, device)
        self._source.note_start(device)
        return JobHandle(str(process.pid), device.label)

    def _counts(self) -> Counter[str]:
        """The number of this engine's jobs on each device."""
        return Counter(job.device.label for job in self._jobs.values())

    def _usable(self) -> list[_DeviceUse]:
        """The devices that have a slot left and may be used, whether free or not."""
        counts = self._counts()
        more = len(counts) < self._source.at_once
        # The full devices are looked at too, for NVML to show processes that are known to be this engine's.
        jobs = [(device, counts[device.label]) for device in self._source.devices]
        uses = [_DeviceUse(device, count, self._source.availability(device, count)) for device, count in jobs]
        return [use for use in uses if use.jobs < self._processes and (use.jobs or more)]

    def _choose(self) -> Device:
        """The free device with the fewest of this engine's jobs, then with the lowest load.

        The job was claimed because a device was free. If none is free a moment later, a busy one has to do.
        """
        usable = self._usable()
        free = [use for use in usable if use.availability.free] or usable
        return min(free, key=lambda use: (use.jobs, self._source.load(use.device))).device
