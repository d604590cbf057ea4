"""Jobs as subprocesses of the manager, in a fixed number of slots on each device of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ovis
from ovis.runner.devices import Device, cores
from ovis.runner.engines.base import Handle, Phase, Status
from ovis.runner.job import JobSpec
from ovis.runner.paths import ExperimentPaths

__all__ = ["LocalEngine"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalEngine:
    """Subprocess slots. Its jobs die with the manager; use it from the main thread.

    Args:
        devices: where to run.
        processes: slots on each device.
    """

    kind = "local"
    detached = False

    def __init__(self, devices: Sequence[Device], processes: int) -> None:
        self._slots = [device for _ in range(processes) for device in devices]  # the first slots spread over devices
        self._threads = max(1, cores() // len(self._slots))
        self._jobs: dict[int, subprocess.Popen[bytes]] = {}

    def capacity(self) -> int:
        return len(self._slots) - len(self._jobs)

    def submit(self, job: JobSpec) -> Handle:
        slot = next(index for index in range(len(self._slots)) if index not in self._jobs)
        device = self._slots[slot]
        placed = replace(job, device=device.kind, parent=os.getpid())
        with ExperimentPaths(job.folder).jobs_log.open("ab") as log:
            self._jobs[slot] = subprocess.Popen(
                placed.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(device),
                start_new_session=True,  # Ctrl-C reaches the manager only
            )
        return Handle(str(self._jobs[slot].pid), device.label)

    def poll(self, ids: Collection[str]) -> Mapping[str, Status]:
        found = {}
        for slot, process in list(self._jobs.items()):
            code = process.poll()
            if str(process.pid) in ids:
                found[str(process.pid)] = Status(Phase.RUNNING if code is None else Phase.ENDED, code)
            if code is not None:
                del self._jobs[slot]
        return {id: found.get(id, Status(Phase.ENDED)) for id in ids}

    def cancel(self, id: str, force: bool = False) -> None:
        for process in self._jobs.values():
            if str(process.pid) == id and process.poll() is None:
                if force:
                    os.killpg(process.pid, signal.SIGKILL)  # its training dies with it
                else:
                    process.terminate()

    def attach(self, id: str) -> bool:
        return False  # a job of another manager died with it

    def close(self) -> None:
        for process in self._jobs.values():
            self.cancel(str(process.pid), force=True)
            process.wait()
        self._jobs.clear()

    def _environment(self, device: Device) -> dict[str, str]:
        """The child's variables: its device and no other, its share of the cores, and this very package."""
        package = str(Path(ovis.__file__).resolve().parent.parent)
        search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        threads = dict.fromkeys(THREADS, str(self._threads))
        return {**os.environ, **device.environment, **threads, "PYTHONPATH": search}
