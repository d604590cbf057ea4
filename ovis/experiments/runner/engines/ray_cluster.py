"""The connection to a Ray cluster; the only module that imports ray."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ovis.experiments.runner.engines import environment, ray_node, versions
from ovis.experiments.runner.engines.interface import EngineError
from ovis.experiments.runner.engines.ray_node import RayNode, RayReport, find_fault, run_here
from ovis.experiments.runner.engines.versions import installed
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs import atomic
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["RayCluster"]

#: Seconds for the head to accept a connection.
CONNECT = 5.0

#: Seconds for which the head may be silent: one that stores its state comes back. After 60 s Ray ends this process.
PATIENCE = 40.0

#: Seconds for every node to answer, including the start of a process there.
ANSWER = 90.0

#: What Ray's exceptions say about a job.
FAULTS: dict[type[RayError], str] = {
    TaskCancelledError: "cancelled",
    WorkerCrashedError: "its Ray worker was killed",
    NodeDiedError: "its node was lost",
    OutOfMemoryError: "Ray killed it, as its node ran out of memory",
}

#: Exceptions of a node that was lost while it was checked.
LOST = (NodeDiedError, TaskUnschedulableError, WorkerCrashedError)

#: Modules whose functions are sent to the nodes, instead of their names: a worker imports no ovis, see ``ray_node.py``.
SENT = (ray_node, environment, versions, atomic)

START = "start one by `ray start --head` here and `ray start --address HOST:6379` on the other nodes"


class RayCluster:
    """A connection to a cluster. Ray kills the tasks of this process when it ends.

    Args:
        address: of the head, ``HOST:PORT``; or ``auto``.

    Raises:
        EngineError: there is none, or it has another version of Ray.
    """

    def __init__(self, address: str) -> None:
        if address != "auto":
            _check_address(address)
        # Otherwise Ray prints messages about dead workers, with 20 lines of its log, into the progress display. Ray has
        # no public option for it: log_to_driver=False is for the output of workers, not for these messages.
        ray._private.worker._worker_logs_enabled = False
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
        except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
            hint = f": {START}" if isinstance(error, ConnectionError) else f": {_one_line(error)}"
            raise EngineError(f"--engine ray: no Ray cluster at --address {address}{hint}") from None
        self.address: str = ray.get_runtime_context().gcs_address
        self._versions = installed()
        self._nodes: list[RayNode] = []
        self._answered, self._lost = time.monotonic(), False
        for module in SENT:
            ray.cloudpickle.register_pickle_by_value(module)
        self._run = ray.remote(run_here)  # a worker is reused, with GPUs too, as it holds none of their memory

    def nodes(self) -> list[RayNode]:
        """The nodes that are alive; while the head does not answer, those of its last answer.

        Raises:
            EngineError: the head has been silent for too long.
        """
        if self._is_head_there():
            self._nodes = self._list_nodes()
        elif time.monotonic() - self._answered > PATIENCE:
            self._lost = True
            raise EngineError(
                f"--engine ray: the head {self.address} has not answered for {PATIENCE:.0f} s: "
                f"start the cluster again, then the manager"
            )
        return self._nodes

    def _is_head_there(self) -> bool:
        """Whether the head accepts connections: without one Ray waits for a minute, and then ends this process."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError:
            return False
        self._answered = time.monotonic()
        return True

    def _list_nodes(self) -> list[RayNode]:
        rows = [row for row in ray.nodes() if row["Alive"]]
        names = [_name(row) for row in rows]
        count = Counter(names)
        return [
            RayNode(
                row["NodeID"],
                name if count[name] == 1 else f"{name}/{row['NodeID'][:4]}",
                row["Resources"].get("CPU", 0.0),
                row["Resources"].get("GPU", 0.0),
            )
            for row, name in zip(rows, names, strict=True)
        ]

    def faults(self, nodes: Sequence[RayNode], probe: Path) -> dict[str, str]:
        """What each of the nodes lacks, by its name; nodes that lack nothing are left out.

        Nodes that are lost meanwhile are left out too, as every job checks its node itself.

        Args:
            nodes: the nodes to check.
            probe: a file that this machine sees.
        """
        check = ray.remote(num_cpus=0, max_retries=0)(find_fault)
        refs = {
            check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                probe, self._versions
            ): node.name
            for node in nodes
        }
        faults = {}
        ready, silent = ray.wait([*refs], num_returns=len(refs), timeout=ANSWER)
        for ref in ready:
            try:
                faults[refs[ref]] = ray.get(ref)
            except LOST:
                continue
            except RayError as error:
                faults[refs[ref]] = f"can't run ovis: {_one_line(error)}"
        faults |= {refs[ref]: f"did not answer within {ANSWER:.0f} s" for ref in silent}
        return {name: fault for name, fault in faults.items() if fault}

    def start(self, job: JobSpec, gpus: float, avoid: Collection[str]) -> Any:
        """Submit a job to the cluster.

        Args:
            job: the job, which reserves one CPU.
            gpus: the share of a GPU that it reserves in addition.
            avoid: ids of the nodes on which it may not run.

        Returns:
            Ray's reference to it.
        """
        labels = {"ray.io/node-id": f"!in({', '.join(sorted(avoid))})"} if avoid else None
        task = self._run.options(
            name=f"{job.folder.name} {job.key}.{job.attempt}",
            num_cpus=1,
            num_gpus=gpus,
            max_retries=0,  # only the ledger retries
            label_selector=labels,
        )
        paths = ExperimentPaths(job.folder)
        return task.remote(job.argv(), job.code, paths.ledger, paths.jobs_log, self._versions)

    def ended(self, refs: Collection[Any]) -> Mapping[Any, RayReport]:
        """Which of the jobs have ended, and how."""
        if not refs:
            return {}
        ready, _ = ray.wait([*refs], num_returns=len(refs), timeout=0, fetch_local=False)
        return {ref: _report(ref) for ref in ready}

    def cancel(self, ref: Any, force: bool) -> None:
        """Ask a job to end, or kill it."""
        ray.cancel(ref, force=force, recursive=False)

    def close(self) -> None:
        """Leave the cluster, which kills the tasks that still run."""
        if not self._lost:  # otherwise it would wait for the head
            ray.shutdown()


def _report(ref: Any) -> RayReport:
    try:
        return RayReport(*ray.get(ref))
    except RayError as error:
        known = [text for kind, text in FAULTS.items() if isinstance(error, kind)]
        return RayReport(None, known[0] if known else _one_line(error))


def _check_address(address: str) -> None:
    """Check that the address accepts connections: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise EngineError(f"--address: must be auto or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"--engine ray: no Ray cluster at --address {address}: {error}; {START}") from None


def _name(row: Mapping[str, Any]) -> str:
    """The name with which the node was started, or else its host's. Ray uses the address where no name was given."""
    name, address = str(row["NodeName"]), str(row["NodeManagerAddress"])
    return name if name not in ("", address) else str(row["NodeManagerHostname"])


def _one_line(error: Exception, width: int = 300) -> str:
    """An error message of Ray without colours and line breaks."""
    text = " ".join(str(error).replace("\x1b[36m", "").replace("\x1b[39m", "").split())
    return text[:width] or type(error).__name__
