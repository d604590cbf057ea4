"""Jobs as subprocesses of the manager, in a number of slots on each device of this machine that is free."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ovis
from ovis.experiments.runner.engines.base import Handle, Phase, Status
from ovis.experiments.runner.gpus.availability import Availability, DeviceSource
from ovis.experiments.runner.gpus.devices import Device, cores
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["LocalEngine"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class _Placed:
    process: subprocess.Popen[bytes]
    device: Device


@dataclass(frozen=True)
class _Place:
    device: Device
    ours: int  # jobs of ours on it
    availability: Availability


class LocalEngine:
    """Subprocess slots. Its jobs die with the manager; use it from the main thread.

    Args:
        source: the devices, and which of them are free.
        processes: slots on each device.
    """

    kind = "local"
    detached = False

    def __init__(self, source: DeviceSource, processes: int) -> None:
        self._source = source
        self._processes = processes
        self._threads = max(1, cores() // (processes * source.at_once))
        self._jobs: dict[str, _Placed] = {}  # by the process id of the job

    @property
    def place(self) -> str:
        return str(self._source)

    @property
    def slots(self) -> int:
        return self._processes * self._source.at_once

    def check(self, root: Path) -> None:
        pass  # a job sees what the manager sees

    def capacity(self) -> int:
        free = [place for place in self._places() if place.availability.free]
        begun = sum(self._processes - place.ours for place in free if place.ours)
        fresh = sum(not place.ours for place in free)
        return begun + self._processes * min(fresh, self._source.at_once - len(self._counts()))

    def waiting(self) -> str:
        reasons = {place.device.label: place.availability.reason for place in self._places()}
        return "; ".join(f"{label} {reason}" for label, reason in reasons.items() if reason)

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[Handle | OSError]:
        started: list[Handle | OSError] = []
        for job in jobs:
            try:
                started.append(self._start(job))
            except OSError as error:
                started.append(error)
        return started

    def poll(self, ids: Collection[str]) -> Mapping[str, Status]:
        found = {}
        for id, job in list(self._jobs.items()):
            code = job.process.poll()
            if id in ids:
                found[id] = Status(Phase.RUNNING if code is None else Phase.ENDED, code)
            if code is not None:
                del self._jobs[id]
                self._source.note_end(job.device)
        return {id: found.get(id, Status(Phase.ENDED)) for id in ids}

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

    def _start(self, job: JobSpec) -> Handle:
        device = self._choose()
        placed = replace(job, device=device.kind, parent=os.getpid())
        with ExperimentPaths(job.folder).jobs_log.open("ab") as log:
            process = subprocess.Popen(
                placed.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(device),
                start_new_session=True,  # Ctrl-C reaches the manager only
            )
        self._jobs[str(process.pid)] = _Placed(process, device)
        self._source.note_start(device)
        return Handle(str(process.pid), device.label)

    def _counts(self) -> Counter[str]:
        """Our jobs by device."""
        return Counter(job.device.label for job in self._jobs.values())

    def _places(self) -> list[_Place]:
        """The devices that have a slot left and may be used, be they free or not."""
        counts = self._counts()
        more = len(counts) < self._source.at_once
        # All are looked at, the full ones too: so NVML gets to show us processes that we know to be ours.
        ours = [(device, counts[device.label]) for device in self._source.devices]
        places = [_Place(device, count, self._source.availability(device, count)) for device, count in ours]
        return [place for place in places if place.ours < self._processes and (place.ours or more)]

    def _choose(self) -> Device:
        """The free device with the fewest of our jobs, then with the lowest load.

        The job has been claimed because one was free. Should none be, a moment later, one that isn't has to do.
        """
        places = self._places()
        free = [place for place in places if place.availability.free] or places
        return min(free, key=lambda place: (place.ours, self._source.load(place.device))).device

    def _environment(self, device: Device) -> dict[str, str]:
        """The child's variables: its device and no other, its share of the cores, and this very package."""
        package = str(Path(ovis.__file__).resolve().parent.parent)
        search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        threads = dict.fromkeys(THREADS, str(self._threads))
        return {**os.environ, **device.environment, **threads, "PYTHONPATH": search}
