"""Jobs as tasks of a Ray cluster. Ray chooses the node and the GPU, or the share of one."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovis.experiments.runner.engines.engine_options import RayOptions
from ovis.experiments.runner.engines.interface import EngineError, EngineRequest, JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.engines.ray_node import RayNode, RayReport
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runs.paths import ExperimentPaths

if TYPE_CHECKING:
    from ovis.experiments.runner.engines.ray_cluster import RayCluster

__all__ = ["RayEngine"]

#: Jobs in the cluster for each that can run: enough to keep all nodes busy, few enough that a cancelled run, or one of
#: a higher priority, need not wait for hours.
WINDOW = 2

#: Seconds for which the list of nodes is reused.
LOOK = 2.0

#: Waiting jobs whose leases are read in one poll; on a network file system each read takes time.
READ = 32


@dataclass
class _Task:
    ref: Any
    job: JobSpec
    device: str = ""  # empty: it has not started yet


class RayEngine:
    """Runs tasks with one CPU each and, on GPUs, a GPU or a share of one. They die with the manager.

    Args:
        options: which cluster.
        request: the device, and how many runs share a GPU.
        cluster: an open connection; None: connect.

    Raises:
        EngineError: there is no such cluster, or it has no resources for such a job.
    """

    kind = "ray"
    detached = False

    def __init__(self, options: RayOptions, request: EngineRequest, cluster: RayCluster | None = None) -> None:
        if request.device not in ("auto", "cpu", "cuda"):
            raise EngineError(f"--device {request.device}: with --engine ray auto, cpu or cuda; Ray chooses which GPU")
        self._cluster = cluster or _connect(options.address)
        self._tasks: dict[str, _Task] = {}
        self._numbers = itertools.count(1)
        self._unfit: dict[str, str] = {}  # nodes that cannot run jobs, and what they lack
        self._names: dict[str, str] = {}  # of all nodes seen so far, by id
        self._looked = float("-inf")
        self._nodes = self._look()
        gpus = any(node.gpus for node in self._nodes)
        self._device = request.device if request.device != "auto" else "cuda" if gpus else "cpu"
        if self._device == "cpu" and request.processes:
            raise EngineError("--processes: runs on each GPU; with --engine ray a run on the CPU takes one core")
        self._share = 1.0 / (request.processes or 1) if self._device == "cuda" else 0.0
        if not self.slots:
            wanted = "a GPU and a CPU" if self._device == "cuda" else "a CPU"
            raise EngineError(
                f"--engine ray: no node of {self.location} has {wanted} for runs on --device {self._device}"
            )

    @property
    def location(self) -> str:
        nodes = self._look()
        gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
        have = [f"{len(nodes)} node{'s' * (len(nodes) != 1)}", *([f"{gpus:g} GPUs"] if gpus else []), f"{cpus:g} CPUs"]
        return f"Ray at {self._cluster.address}, {', '.join(have)}"

    @property
    def slots(self) -> int:
        return sum(self._fitting(node) for node in self._look())

    def check(self, root: Path) -> None:
        probe = root.resolve() / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        try:
            faults = self._cluster.faults([node for node in self._look() if self._fitting(node)], probe)
        finally:
            probe.unlink()
        if faults:
            (name, fault), more = next(iter(faults.items())), len(faults) - 1
            raise EngineError(f"--engine ray: {f'{more + 1} nodes do not fit, e.g. ' * (more > 0)}node {name} {fault}")

    def capacity(self) -> int:
        return max(0, WINDOW * self.slots - len(self._tasks))

    def waiting(self) -> str:
        if self.slots:
            return ""
        left_out = "".join(f"; node {self._name(id)} {fault}" for id, fault in self._unfit.items())
        return f"{self.location} has no node for runs on --device {self._device}{left_out}"

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        handles = []
        for job in jobs:
            id = str(next(self._numbers))
            job = replace(job, device=self._device)
            self._tasks[id] = _Task(self._cluster.start(job, self._share, self._unfit), job)
            handles.append(JobHandle(id))
        return handles

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        ended = self._cluster.ended([task.ref for task in self._tasks.values()])
        self._find_started()
        statuses = {}
        for id, task in list(self._tasks.items()):
            if task.ref in ended:
                statuses[id] = self._end(task, ended[task.ref])
                del self._tasks[id]
            else:
                statuses[id] = JobStatus(JobPhase.RUNNING if task.device else JobPhase.PENDING, device=task.device)
        return {id: statuses.get(id, JobStatus(JobPhase.ENDED)) for id in ids}

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        for id in ids:
            if id in self._tasks:
                self._cluster.cancel(self._tasks[id].ref, force)

    def attach(self, ids: Collection[str]) -> Collection[str]:
        return []  # a task dies with the process that submitted it

    def close(self) -> None:
        self._cluster.close()
        self._tasks.clear()

    def _look(self) -> list[RayNode]:
        """The usable nodes, as of at most ``LOOK`` seconds ago."""
        if time.monotonic() - self._looked > LOOK:
            self._nodes, self._looked = self._cluster.nodes(), time.monotonic()
            self._names |= {node.id: node.name for node in self._nodes}
        return [node for node in self._nodes if node.id not in self._unfit]

    def _fitting(self, node: RayNode) -> int:
        """How many jobs fit on the node."""
        shares = int(node.gpus / self._share + 1e-6) if self._share else int(node.cpus)
        return min(shares, int(node.cpus))

    def _find_started(self) -> None:
        """Find the waiting jobs that have started, by their leases. Those submitted first start first."""
        waiting = [task for task in self._tasks.values() if not task.device]
        for task in waiting[:READ]:
            leases = Leases(ExperimentPaths(task.job.folder))
            # in a job of several runs, the first may have been cancelled before it started
            location = next(filter(None, (leases.location(*run) for run in task.job.attempts)), "")
            if location:
                node, _, device = location.partition(" ")
                task.device = " ".join(filter(None, [self._name(node), device]))

    def _name(self, id: str) -> str:
        """A node's name, whether it has just joined or is lost."""
        if id not in self._names:
            self._looked = float("-inf")
            self._look()
        return self._names.get(id, id[:8])

    def _end(self, task: _Task, report: RayReport) -> JobStatus:
        """The status of an ended job, from Ray's report. A node that lacks something gets no more jobs."""
        if report.fault and report.node:
            self._unfit[report.node] = report.fault
            return JobStatus(JobPhase.ENDED, message=f"node {self._name(report.node)} {report.fault}")
        where = f" ({task.device})" if report.fault and task.device else ""
        return JobStatus(JobPhase.ENDED, report.code, report.fault + where)


def _connect(address: str) -> RayCluster:
    from ovis.experiments.runner.engines.ray_cluster import RayCluster  # imports ray, which takes a second

    return RayCluster(address)
