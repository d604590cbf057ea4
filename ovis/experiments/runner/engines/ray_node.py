"""The code that runs on a node of a Ray cluster: the check of the node, and the execution of one job.

Ray calls these functions in the main thread of its worker processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ovis.experiments.runner.engines.interface import job_environment
from ovis.experiments.runner.engines.versions import difference, installed
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.atomic import no_link
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["RayNode", "RayReport", "find_fault", "run_here"]

#: Seconds between two checks whether Ray has asked the job to end.
WAIT = 0.5


@dataclass(frozen=True)
class RayNode:
    """A node that is alive.

    Attributes:
        id: Ray's identifier.
        name: for display.
        cpus: the CPUs that Ray may use.
        gpus: the GPUs that Ray may use.
    """

    id: str
    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class RayReport:
    """How a job on a node ended. The outcome of its run is in the run's folder.

    Attributes:
        code: the exit code of the job; None: it was not started.
        fault: what the node lacks; empty: nothing.
        node: Ray's id of the node.
    """

    code: int | None
    fault: str = ""
    node: str = ""


def find_fault(path: Path, versions: Mapping[str, str]) -> str:
    """What prevents this node from running a manager's jobs; empty: nothing.

    Args:
        path: a file that the manager sees.
        versions: the manager's versions, as of :func:`~ovis.experiments.runner.engines.versions.installed`.
    """
    if not path.exists():
        return f"does not see {path.parent}: --root must be on a file system that all nodes share"
    different = difference(versions, installed())
    return f"has {different}" if different else ""


def run_here(job: JobSpec, versions: Mapping[str, str], python: str, node: str) -> RayReport:
    """Run a job as a child that dies with this process, and wait for it. A cancellation is passed on as SIGTERM.

    Args:
        job: the job.
        versions: the manager's versions.
        python: the manager's interpreter, which is replaced by this node's.
        node: Ray's id of this node.
    """
    paths = ExperimentPaths(job.folder)
    if fault := find_fault(paths.ledger, versions):
        return RayReport(None, fault, node)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if job.device == "cuda" else ""  # as Ray has set it
    command = tuple(sys.executable if word == python else word for word in job.command[:1]) + job.command[1:]
    location = " ".join(filter(None, [node, f"cuda:{devices}" if devices else ""]))
    with open(paths.jobs_log, "ab", opener=no_link) as log, _interrupts() as interrupts:
        process = subprocess.Popen(
            replace(job, parent=os.getpid(), location=location, command=command).argv(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=job_environment(
                1,  # as one core was booked
                CUDA_VISIBLE_DEVICES=devices,
                CUDA_DEVICE_ORDER=os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),  # Ray counts GPUs as NVML does
            ),
            start_new_session=True,
        )
        while True:
            if interrupts:
                interrupts.clear()
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return RayReport(process.wait(timeout=WAIT), node=node)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect the interrupts by which Ray cancels: an exception during a job's start would leave the job running."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
