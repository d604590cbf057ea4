"""A box with NVIDIA GPUs, without any: stands in for the package ``pynvml``."""

from __future__ import annotations

import sys
import tempfile
import types
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ERRORS = ("NotSupported", "NoPermission", "LibraryNotFound", "NotFound", "GpuIsLost", "DriverNotLoaded")


class NVMLError(Exception):
    """As the package's own: every other one is a kind of it."""


@dataclass
class FakeGpu:
    """A GPU: ``load`` and ``processes``' loads in percent, memory in units of which it has 100.

    ``processes`` are by process id: (load, memory). A figure that is None is not supported; ``lost``: it can't be read.
    """

    uuid: str
    load: int | None = 0
    memory: int | None = 1
    processes: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    lost: bool = False


class FakeNvml(types.ModuleType):
    """The module. ``reads`` counts looks at a GPU, ``inits`` how often it was opened; ``broken``: it can't be."""

    def __init__(self, *gpus: FakeGpu) -> None:
        super().__init__("pynvml")
        self.gpus = list(gpus)
        self.reads = self.inits = 0
        self.broken = ""
        self.NVMLError = NVMLError
        for name in ERRORS:
            setattr(self, f"NVMLError_{name}", type(f"NVMLError_{name}", (NVMLError,), {}))

    def nvmlInit(self) -> None:
        if self.broken:
            raise getattr(self, f"NVMLError_{self.broken}")("broken")
        self.inits += 1

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        self.reads += 1
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise self.NVMLError_NotFound("Not Found")

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._figure(gpu, gpu.load), memory=0)

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(used=self._figure(gpu, gpu.memory), total=100)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, (_, memory) in gpu.processes.items()]

    def nvmlDeviceGetProcessUtilization(self, gpu: FakeGpu, since: int) -> list[SimpleNamespace]:
        loads = {pid: self._figure(gpu, load) for pid, (load, _) in gpu.processes.items()}
        old = [SimpleNamespace(pid=pid, smUtil=99, timeStamp=since + 1) for pid in loads]
        return [*(SimpleNamespace(pid=p, smUtil=load, timeStamp=since + 2) for p, load in loads.items()), *old]

    def _figure(self, gpu: FakeGpu, figure: int | None) -> int:
        if gpu.lost:
            raise self.NVMLError_GpuIsLost("GPU is lost")
        if figure is None:
            raise self.NVMLError_NotSupported("Not Supported")
        return figure


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, *gpus: FakeGpu) -> FakeNvml:
    """Make this process believe in these GPUs. ``folder``: for what managers tell each other."""
    fake = FakeNvml(*gpus)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return fake


class Clock:
    """``time.monotonic`` of a module, by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def stop(self, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> Clock:
        for module in modules:
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        return self
