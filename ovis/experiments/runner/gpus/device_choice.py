"""Chooses the GPU of the next run: which ones are free, by load and memory, and which of these is used least."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovis.experiments.runner.gpus.devices import Device
from ovis.experiments.runner.gpus.nvml import GpuReading, Nvml, NvmlError, ProcessUse
from ovis.experiments.runner.gpus.reservations import Reservations

__all__ = ["Availability", "DeviceSource", "DeviceUse", "GpuLimits"]

#: Seconds for which a reading of a GPU is valid.
LOOK = 1.0

#: Seconds until a GPU that could not be read is tried again.
RETRY = 10.0

#: Seconds for which a GPU's counters may still show a run that has ended: their averaging window, and a reading's age.
ECHO = 2.0


@dataclass(frozen=True)
class GpuLimits:
    """How much of a shared machine a manager may use.

    Attributes:
        max_gpus: GPUs in use at once; None: all.
        max_load: a GPU with a larger load, 0..1, counts as used by somebody else.
        max_memory: so does one with a larger fraction of its memory in use, 0..1.
    """

    max_gpus: int | None = None
    max_load: float = 0.5
    max_memory: float = 0.5


@dataclass(frozen=True)
class Availability:
    """Whether a device can take another run.

    Attributes:
        free: whether it can.
        reason: why not; empty where that passes in a moment.
    """

    free: bool
    reason: str = ""


@dataclass(frozen=True)
class DeviceUse:
    """A device, the number of jobs that the manager has there, and whether it can take another one."""

    device: Device
    jobs: int
    availability: Availability


@dataclass(frozen=True)
class _Look:
    """The last reading of a GPU or its error, and what processes of others use."""

    until: float
    reading: GpuReading | None
    others: ProcessUse
    problem: str = ""


class DeviceSource:
    """The devices of this machine, and which of them are free.

    A GPU without runs of this manager is free when neither its load nor its memory exceeds the limits. With runs of
    this manager the figures mean little, as new runs show none: its slots are counted instead, and only the use by
    other processes is compared with the limits, where NVML's process ids can be read (in most containers they can't). A
    figure that NVML doesn't support doesn't count; a GPU that can't be read at all isn't free until it can.

    Args:
        devices: the devices; those without a GPU's name are always free.
        limits: how much of them may be used.
        reservations: keep managers of one user from starting runs on one GPU at the same moment.
    """

    def __init__(
        self, devices: Sequence[Device], limits: GpuLimits | None = None, reservations: Reservations | None = None
    ) -> None:
        self.devices = tuple(devices)
        self._limits = limits or GpuLimits()
        self._reservations = reservations or Reservations()
        self._nvml = Nvml()
        self._looks: dict[str, _Look] = {}
        self._left: dict[str, float] = {}  # by GPU: when the last run of this manager there ended
        self._sees_processes = False

    @property
    def at_once(self) -> int:
        """How many devices may be in use at the same time."""
        limit = self._limits.max_gpus if all(device.kind == "cuda" for device in self.devices) else None
        return len(self.devices) if limit is None else min(limit, len(self.devices))

    def __str__(self) -> str:
        labels = ", ".join(device.label for device in self.devices)
        return labels if self.at_once == len(self.devices) else f"{self.at_once} of {labels}"

    def availability(self, device: Device, jobs: int) -> Availability:
        """Whether a device can take another run now.

        Args:
            device: one of the devices.
            jobs: how many runs of this manager are on it.
        """
        if not device.gpu:
            return Availability(True)
        look = self._look(device.gpu)
        if look.reading is None:
            return Availability(False, f"can't be read: {look.problem}")
        just_left = time.monotonic() - self._left.get(device.gpu, float("-inf")) < ECHO
        if self._sees_processes and (jobs or just_left):
            availability = self._judge(look.others.load, look.others.memory, "others' ")
        elif jobs:
            availability = Availability(True)
        else:
            availability = self._judge(look.reading.load, look.reading.memory)
            if just_left:  # no reason while it may be the load of the run that ended
                availability = Availability(availability.free)
        if availability.free and self._reservations.is_taken(device.gpu):
            return Availability(False, "another manager has just started a run there")
        return availability

    def usable(self, jobs: Mapping[str, int], slots: int) -> list[DeviceUse]:
        """The devices that have a slot left and may be used, whether free or not.

        Args:
            jobs: the number of this manager's jobs by the label of their device.
            slots: jobs that a device takes at the same time.
        """
        more = len([count for count in jobs.values() if count]) < self.at_once
        # The full devices are looked at too, for NVML to show processes that are known to be this manager's.
        counts = [(device, jobs.get(device.label, 0)) for device in self.devices]
        uses = [DeviceUse(device, count, self.availability(device, count)) for device, count in counts]
        return [use for use in uses if use.jobs < slots and (use.jobs or more)]

    def choose(self, jobs: Mapping[str, int], slots: int) -> Device:
        """The free device with the fewest of this manager's jobs, then with the lowest load.

        The run was claimed because a device was free. If none is free a moment later, a busy one has to do.

        Args:
            jobs, slots: as for :meth:`usable`.
        """
        usable = self.usable(jobs, slots)
        free = [use for use in usable if use.availability.free] or usable
        return min(free, key=lambda use: (use.jobs, self.load(use.device))).device

    def load(self, device: Device) -> float:
        """The fraction of the time the device was busy at the last reading, 0..1; 0 where that is unknown."""
        reading = self._look(device.gpu).reading if device.gpu else None
        return (reading.load or 0.0) if reading else 0.0

    def note_start(self, device: Device) -> None:
        """Note that this manager has started a run on the device."""
        if device.gpu:
            self._reservations.take(device.gpu)

    def note_end(self, device: Device) -> None:
        """Note that a run of this manager on the device has ended."""
        if device.gpu:
            self._left[device.gpu] = time.monotonic()

    def close(self) -> None:
        """Release all reservations: all runs have ended."""
        self._reservations.close()

    def _judge(self, load: float | None, memory: float | None, whose: str = "") -> Availability:
        if (load or 0.0) <= self._limits.max_load and (memory or 0.0) <= self._limits.max_memory:
            return Availability(True)
        figures = {"load": load, "memory": memory}
        reason = ", ".join(f"{name} {100 * figure:.0f} %" for name, figure in figures.items() if figure is not None)
        return Availability(False, whose + reason)

    def _look(self, gpu: str) -> _Look:
        look = self._looks.get(gpu)
        if look is None or look.until <= time.monotonic():
            look = self._looks[gpu] = self._read(gpu)
        return look

    def _read(self, gpu: str) -> _Look:
        try:
            reading = self._nvml.read(gpu)
        except NvmlError as error:
            return _Look(time.monotonic() + RETRY, None, ProcessUse(None, None), str(error))
        descent = {pid: _is_own_process(pid) for pid in reading.processes}
        # A process id of this manager in the reading shows that NVML's ids are those of this namespace.
        self._sees_processes |= any(descent.values())
        others = [use for pid, use in reading.processes.items() if descent[pid] is False]
        use = ProcessUse(sum(use.load or 0.0 for use in others), sum(use.memory or 0.0 for use in others))
        return _Look(time.monotonic() + LOOK, reading, use)


def _is_own_process(pid: int) -> bool | None:
    """Whether it is this process or a descendant; None: there is no such process, or it is invisible here."""
    while pid > 0:
        if pid == os.getpid():
            return True
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        pid = int(status.rpartition(")")[2].split()[1])  # the parent
    return False
