"""The devices of this machine, listed without torch; ``device_choice.py`` chooses a free one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovis.experiments.runner.gpus.nvml import Nvml, NvmlError, NvmlMissingError

__all__ = ["Device", "DeviceError", "default_processes", "list_devices"]


#: Values of CUDA_VISIBLE_DEVICES that hide all GPUs, as set by users, Slurm and NVIDIA's container runtime.
NO_GPU = ("", "-1", "NoDevFiles", "none", "void")


class DeviceError(ValueError):
    """A device that isn't there or can't be identified: one line that names it."""


@dataclass(frozen=True)
class Device:
    """A device for runs.

    Attributes:
        label: its name in messages: ``cpu`` or ``cuda:3``.
        kind: the training's ``--device``: ``cpu`` or ``cuda``.
        environment: the variables that show a process this device and no other.
        gpu: its UUID in NVML; empty: the CPU, or a GPU whose load can't be read.
    """

    label: str
    kind: str
    environment: Mapping[str, str] = field(default_factory=dict)
    gpu: str = ""


def list_devices(request: str = "auto", environment: Mapping[str, str] = os.environ) -> list[Device]:
    """The devices that ``request`` stands for, free or not.

    Args:
        request: ``cpu``; ``cuda``: every visible CUDA device; ``cuda:N``: one of them; ``auto``: CUDA where there is
            any, else the CPU.
        environment: its ``CUDA_VISIBLE_DEVICES`` limits and numbers the CUDA devices, its ``CUDA_DEVICE_ORDER`` says
            what an integer there means.

    Raises:
        DeviceError: an unknown request; CUDA was asked for and is not there; ``CUDA_VISIBLE_DEVICES`` begins with a
            GPU that is not there; there are GPUs but their driver doesn't work.
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
    nvml = Nvml()
    try:
        gpus = nvml.gpus()
    except NvmlMissingError:
        gpus = [""] * _count_device_files()  # they may well work, but their load can't be read
    except NvmlError as error:
        if _count_device_files() == 0:
            return []
        raise DeviceError(f"the GPUs here can't be read: {error}; --device cpu does without them") from None
    if not gpus:
        return []
    mask = environment.get("CUDA_VISIBLE_DEVICES")
    tokens = [str(index) for index in range(len(gpus))] if mask is None else [t.strip() for t in mask.split(",")]
    order = environment.get("CUDA_DEVICE_ORDER") if mask is not None else None
    devices: list[Device] = []
    for token in tokens:
        gpu = _find(token, gpus, nvml)
        if gpu is None:  # CUDA ignores an invalid one and what follows
            break
        variables = {"CUDA_VISIBLE_DEVICES": token}  # as inherited, e.g. from Slurm or Ray
        if token.isdigit() and order is None:
            # CUDA's own order is "fastest first", which only CUDA knows; NVML counts by PCI bus, and so do nvidia-smi,
            # Slurm and Ray, where the number comes from. The training is made to count that way too: it then gets the
            # GPU whose load was read.
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        elif token.isdigit() and order != "PCI_BUS_ID":
            gpu = ""  # CUDA's own order was requested: which GPU that is can't be known
        devices.append(Device(f"cuda:{len(devices)}", "cuda", variables, gpu))
    if not devices and tokens[0] not in NO_GPU:  # a mistake: better an error than a week on the CPU
        raise DeviceError(f"CUDA_VISIBLE_DEVICES: there is no GPU {tokens[0]!r} here; valid: {_names(gpus)}, or empty")
    return devices


def _find(token: str, gpus: Sequence[str], nvml: Nvml) -> str | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names; empty: unknown which; None: there is none."""
    if token.isdigit():
        return gpus[int(token)] if int(token) < len(gpus) else None
    if token.startswith("MIG-"):
        try:
            nvml.read(token)
        except NvmlError:  # an old driver's way to write it
            return ""
        return token
    if not token.startswith("GPU-"):
        return None
    if not any(gpus):
        return ""
    matches = [gpu for gpu in gpus if gpu.startswith(token)]  # the first few digits will do, as for CUDA
    return matches[0] if len(matches) == 1 else None


def _names(gpus: Sequence[str]) -> str:
    numbers = f"0 to {len(gpus) - 1}" if len(gpus) > 1 else "0"
    return ", ".join([numbers, *filter(None, gpus)])


def _count_device_files() -> int:
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
