"""The code that runs on a node of a Ray cluster: the check of the node, and the execution of one job.

Ray calls these functions in the main thread of its worker processes. They are sent there (see ``ray_cluster.py``), so
that a worker imports no ovis: the one that it would find may be edited during the sweep. Therefore they use only the
standard library and functions of other modules that are sent, and return no objects of our classes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovis.experiments.runner.engines.environment import job_environment
from ovis.experiments.runner.engines.versions import difference, installed
from ovis.experiments.runs.atomic import no_link

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


def run_here(
    argv: Sequence[str], code: Path, ledger: Path, log: Path, versions: Mapping[str, str], node: str = ""
) -> tuple[int | None, str, str]:
    """Run a job as a child that dies with this process, and wait for it. A cancellation is passed on as SIGTERM.

    Args:
        argv: starts the job, as of :meth:`~ovis.experiments.runner.job.JobSpec.argv`, on the manager's machine. Its
            interpreter is replaced by this node's.
        code: the folder of the code that the job runs on.
        ledger: the ledger of the experiment.
        log: the file for the job's output.
        versions: the manager's versions.
        node: Ray's id of this node; empty: ask Ray.

    Returns:
        the fields of a :class:`RayReport`.
    """
    if not node:
        import ray

        node = ray.get_runtime_context().get_node_id()
    if fault := find_fault(ledger, versions):
        return None, fault, node
    *start, text = argv
    spec = json.loads(text)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if spec["device"] == "cuda" else ""  # as Ray has set it
    location = " ".join(filter(None, [node, f"cuda:{devices}" if devices else ""]))
    command = [sys.executable if word == start[0] else word for word in spec["command"][:1]] + spec["command"][1:]
    spec |= {"parent": os.getpid(), "location": location, "command": command}
    with open(log, "ab", opener=no_link) as output, _interrupts() as interrupts:
        process = subprocess.Popen(
            [sys.executable, *start[1:], json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=job_environment(
                1,  # as one core was booked
                code,
                CUDA_VISIBLE_DEVICES=devices,
                CUDA_DEVICE_ORDER=os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),  # Ray counts GPUs as NVML does
            ),
            cwd=code,
            start_new_session=True,
        )
        while True:
            if interrupts:
                interrupts.clear()
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=WAIT), "", node


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect the interrupts by which Ray cancels: an exception during a job's start would leave the job running."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
