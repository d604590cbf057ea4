"""Load, memory and processes of GPUs from NVIDIA's management library (NVML), without torch or a CUDA context."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["GpuReading", "Nvml", "NvmlError", "NvmlMissingError", "ProcessUse"]

T = TypeVar("T")

#: Seconds that a sample of a process' load counts for: the driver takes about one a second, and only of busy processes.
WINDOW = 5.0


class NvmlError(Exception):
    """NVML has no answer: one line that says why."""


class NvmlMissingError(NvmlError):
    """NVML or its Python package is not installed; there may be GPUs nevertheless."""


@dataclass(frozen=True)
class ProcessUse:
    """A process' share of a GPU's load and memory, fractions in [0, 1]; None: unknown."""

    load: float | None
    memory: float | None


@dataclass(frozen=True)
class GpuReading:
    """A GPU at one moment.

    Attributes:
        load: the fraction of the last second or less in which it computed; None: not supported (MIG, some cards).
        memory: the fraction of its memory in use; None: not supported.
        processes: those that compute on it, by process id: in a container perhaps the host's ids, or none at all.
    """

    load: float | None
    memory: float | None
    processes: Mapping[int, ProcessUse]


class Nvml:
    """The library: loaded at the first call, kept open, and reopened after an error, as the driver may be reset."""

    def __init__(self) -> None:
        self._is_open = False

    def gpus(self) -> list[str]:
        """The UUIDs of the GPUs in the order of their PCI buses, which is that of nvidia-smi.

        Raises:
            NvmlMissingError: the package or the library is not installed.
            NvmlError: the library doesn't work.
        """

        def ask(library: Any) -> list[str]:
            handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
            return [str(library.nvmlDeviceGetUUID(handle)) for handle in handles]

        return self._ask(ask)

    def read(self, gpu: str) -> GpuReading:
        """Read the state of a GPU.

        Args:
            gpu: its UUID, or that of a MIG instance.

        Raises:
            NvmlError: it can't be read.
        """

        def ask(library: Any) -> GpuReading:
            handle = library.nvmlDeviceGetHandleByUUID(gpu)  # each time: a handle doesn't outlive a reset
            load = _if_supported(library, lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            used, total = _if_supported(library, lambda: _memory(library, handle)) or (None, None)
            memory = used / total if used is not None and total else None
            return GpuReading(load, memory, _processes(library, handle, total))

        return self._ask(ask)

    def _ask(self, question: Callable[[Any], T]) -> T:
        try:
            library: Any = importlib.import_module("pynvml")  # here: the manager's --help need not wait for it
        except ImportError:
            raise NvmlMissingError("the package nvidia-ml-py is not installed") from None
        try:
            if not self._is_open:
                library.nvmlInit()
                self._is_open = True
            return question(library)
        except library.NVMLError as error:
            if self._is_open:
                self._is_open = False
                with contextlib.suppress(library.NVMLError):
                    library.nvmlShutdown()
            missing = isinstance(error, library.NVMLError_LibraryNotFound)
            raise (NvmlMissingError if missing else NvmlError)(str(error)) from None


def _if_supported(library: Any, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except (library.NVMLError_NotSupported, library.NVMLError_NoPermission):
        return None


def _memory(library: Any, handle: Any) -> tuple[int, int]:
    info = library.nvmlDeviceGetMemoryInfo(handle)
    return info.used, info.total


def _processes(library: Any, handle: Any, total: int | None) -> dict[int, ProcessUse]:
    """The processes on the GPU; errors are ignored, because the GPU may be usable nevertheless."""
    try:
        running = library.nvmlDeviceGetComputeRunningProcesses(handle)
    except Exception:  # a driver that is too old raises an error that is no NVMLError
        return {}
    loads = _process_loads(library, handle) if running else None
    uses = {}
    for process in running:
        used = process.usedGpuMemory  # None under Windows
        memory = used / total if used is not None and total else None
        uses[int(process.pid)] = ProcessUse(None if loads is None else loads.get(process.pid, 0.0), memory)
    return uses


def _process_loads(library: Any, handle: Any) -> dict[int, float] | None:
    """The newest sample of each process that was busy a moment ago; None: not supported."""
    try:
        samples = library.nvmlDeviceGetProcessUtilization(handle, int((time.time() - WINDOW) * 1e6))
    except library.NVMLError_NotFound:  # nobody was busy
        return {}
    except Exception:
        return None
    return {int(s.pid): s.smUtil / 100 for s in sorted(samples, key=lambda s: int(s.timeStamp)) if s.smUtil <= 100}
