"""Which devices runs can be placed on, found out without torch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Device", "DeviceError", "default_processes", "list_devices"]


class DeviceError(ValueError):
    """A device that isn't there: one line that names it."""


@dataclass(frozen=True)
class Device:
    """A place for runs.

    Attributes:
        label: what people read: ``cpu`` or ``cuda:3``.
        kind: what the training is told by ``--device``: ``cpu`` or ``cuda``.
        environment: the variables that show a process this device and no other.
    """

    label: str
    kind: str
    environment: Mapping[str, str] = field(default_factory=dict)


def list_devices(request: str = "auto", environment: Mapping[str, str] = os.environ) -> list[Device]:
    """The devices that ``request`` stands for.

    Args:
        request: ``cpu``; ``cuda``: every visible CUDA device; ``cuda:N``: one of them; ``auto``: CUDA where there is
            any, else the CPU.
        environment: its ``CUDA_VISIBLE_DEVICES`` limits and numbers the CUDA devices.

    Raises:
        DeviceError: an unknown request, or CUDA was asked for and is not there.
    """
    kind, _, index = request.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise DeviceError(f"--device: unknown device {request!r}; valid: auto, cpu, cuda, cuda:N")
    cpu = [Device("cpu", "cpu", {"CUDA_VISIBLE_DEVICES": ""})]
    if kind == "cpu":
        return cpu
    cuda = _cuda_devices(environment)
    if kind == "auto":
        return cuda or cpu
    if not cuda:
        raise DeviceError(f"--device {request}: there is no CUDA device here")
    if not index:
        return cuda
    if int(index) >= len(cuda):
        raise DeviceError(f"--device {request}: the CUDA devices here are 0 to {len(cuda) - 1}")
    return [cuda[int(index)]]


def default_processes(devices: list[Device]) -> int:
    """How many runs to place on one device: one on a CUDA device; on the CPU one per core, each with one thread.

    Small models gain nothing from more threads, and lose a lot where somebody else wants the cores: on two busy cores
    four runs of a small sigmoid belief network took 23 s as two at once with one thread, 243 s one by one with two.
    """
    return cores() if all(device.kind == "cpu" for device in devices) else 1


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuda_devices(environment: Mapping[str, str]) -> list[Device]:
    count = _count_cuda_devices()
    if count == 0:
        return []
    inherited = environment.get("CUDA_VISIBLE_DEVICES")
    if inherited is None:  # numbered by us, so the order is ours to say
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return [Device(f"cuda:{i}", "cuda", {"CUDA_VISIBLE_DEVICES": str(i), **order}) for i in range(count)]
    tokens = [token.strip() for token in inherited.split(",")]
    visible = tokens[: tokens.index("-1")] if "-1" in tokens else tokens  # CUDA ignores what follows an invalid one
    named = [token for token in visible if token]
    return [Device(f"cuda:{i}", "cuda", {"CUDA_VISIBLE_DEVICES": token}) for i, token in enumerate(named)]


def _count_cuda_devices() -> int:
    """How many there are, by NVIDIA's library if its Python module is installed, else by the driver's device files."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            return int(nvml.nvmlDeviceGetCount())
        finally:
            nvml.nvmlShutdown()
    except Exception:  # not installed, no driver, a driver of another version: each has an exception of its own
        return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
