"""Measurements in separate processes: each has its own peak memory, and can be killed without affecting the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ovis.experiments.runs.process import die_with_parent
from ovis.experiments.runs.retrying import is_out_of_memory

__all__ = ["CallResult", "PeakMemory", "peak_memory", "run_apart"]


@dataclass(frozen=True)
class CallResult:
    """The result of a call in another process.

    Attributes:
        state: ``ok``; ``memory`` or ``time``: it ran out of it; ``failed``: any other error.
        message: one line; empty where it is ``ok``.
        value: what the function returned; None where the state is not ``ok``.
    """

    state: str
    message: str = ""
    value: Any = None


def run_apart(function: Callable[..., Any], arguments: tuple[Any, ...], limit: float) -> CallResult:
    """Call a function in a fresh process.

    The processes are forked from a server that has torch imported and has done nothing with it: each starts in
    milliseconds, with none of the memory or threads of another.

    Args:
        function: of a module, which the new process imports.
        arguments: of the function; they and what it returns are sent between the processes.
        limit: seconds it may take.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(function, arguments, sender), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return CallResult("time", f"took more than {limit:g} s")
        answer: CallResult = receiver.recv()
        return answer
    except EOFError:  # it ended without an answer
        child.join()
        if child.exitcode == -signal.SIGKILL:
            return CallResult("memory", "killed by the system, which was out of memory")
        return CallResult("failed", f"ended with exit code {child.exitcode}")
    finally:
        child.kill()
        child.join()
        receiver.close()


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], sender: Connection) -> None:
    """What the child process executes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which kills this process
    die_with_parent(os.getppid())
    with contextlib.suppress(OSError):  # if memory runs out, the kernel kills this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        answer = CallResult("ok", value=function(*arguments))
    except Exception as error:
        words = (str(error).splitlines() or [""])[0][:300]
        full = is_out_of_memory(error)
        answer = CallResult("memory", words) if full else CallResult("failed", f"{type(error).__name__}: {words}")
    sender.send(answer)


class PeakMemory(ABC):
    """The largest amount of memory in use, in bytes."""

    @abstractmethod
    def start(self) -> None:
        """Count from now on."""

    @abstractmethod
    def peak(self) -> int:
        """The peak since the start."""


def peak_memory(device: torch.device) -> PeakMemory:
    """Measures the memory of a device; create it after loading the data and before anything else."""
    return _CudaMemory(device) if device.type == "cuda" else _HostMemory()


class _CudaMemory(PeakMemory):
    """Memory of all tensors on a GPU, minus that of the tensors that exist when this object is created."""

    def __init__(self, device: torch.device):
        self.device = device
        self.before = torch.cuda.memory_allocated(device)

    def start(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) - self.before


class _HostMemory(PeakMemory):
    """Resident memory of this process, minus that at the start (torch, data, parameters)."""

    def start(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.anew, self.before = True, _status("VmRSS")
        except OSError:  # not Linux: the peak since the start of the process
            self.anew, self.before = False, _peak_since_start()

    def peak(self) -> int:
        return max((_status("VmHWM") if self.anew else _peak_since_start()) - self.before, 0)


def _status(name: str) -> int:
    """An entry of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _peak_since_start() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
