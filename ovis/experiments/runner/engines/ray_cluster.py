"""A Ray cluster as the engine sees it: the only file that knows Ray."""

from __future__ import annotations

import logging
import socket
import sys
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

from ovis.experiments.runner.engines.base import EngineError
from ovis.experiments.runner.engines.ray_node import RayNode, RayReport, find_fault, run_here
from ovis.experiments.runner.engines.versions import installed
from ovis.experiments.runner.job import JobSpec

__all__ = ["RayCluster"]

#: Seconds in which the head has to answer.
CONNECT = 5.0

#: Seconds for which the head may be silent: one with a memory of its own comes back. At 60 Ray ends this process.
PATIENCE = 40.0

#: Seconds in which every node has to, the start of a process there included.
ANSWER = 90.0

#: What became of a job that Ray says this of.
ENDINGS: dict[type[RayError], str] = {
    TaskCancelledError: "cancelled",
    WorkerCrashedError: "its Ray worker was killed",
    NodeDiedError: "its node was lost",
    OutOfMemoryError: "Ray killed it, as its node ran out of memory",
}

#: Of a node that was lost while it was looked at.
GONE = (NodeDiedError, TaskUnschedulableError, WorkerCrashedError)

START = "start one by `ray start --head` here and `ray start --address HOST:6379` on the other nodes"


class RayCluster:
    """A connection to a cluster. Ray ends what it has started here when this process ends.

    Args:
        address: of the head, ``HOST:PORT``; or ``auto``.

    Raises:
        EngineError: there is none, or it is of another version.
    """

    def __init__(self, address: str) -> None:
        if address != "auto":
            _knock(address)
        # Else Ray prints what it thinks of dead workers, with 20 lines of its log, in the midst of the progress bar.
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
        self._run = ray.remote(_run_job)  # a worker serves many jobs, with GPUs too: it holds none of their memory

    def nodes(self) -> list[RayNode]:
        """The nodes that are alive now; while the head does not answer, those that were.

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
        """Knock first: without a head Ray waits for a minute, and then ends this process."""
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
        """What each of the nodes lacks, by its name; those that lack nothing are left out, and those that
        are lost meanwhile: every job looks at its node itself.

        Args:
            nodes: the nodes to look at.
            probe: a file that this machine sees.
        """
        look = ray.remote(num_cpus=0, max_retries=0)(find_fault)
        refs = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                probe, self._versions
            ): node.name
            for node in nodes
        }
        found = {}
        ready, silent = ray.wait([*refs], num_returns=len(refs), timeout=ANSWER)
        for ref in ready:
            try:
                found[refs[ref]] = ray.get(ref)
            except GONE:
                continue
            except RayError as error:
                found[refs[ref]] = f"can't run ovis: {_one_line(error)}"
        found |= {refs[ref]: f"did not answer within {ANSWER:.0f} s" for ref in silent}
        return {name: fault for name, fault in found.items() if fault}

    def start(self, job: JobSpec, gpus: float, avoid: Collection[str]) -> Any:
        """Queue a job in the cluster.

        Args:
            job: the job; it books one CPU.
            gpus: and this part of a GPU.
            avoid: ids of the nodes that it may not run on.

        Returns:
            Ray's reference to it.
        """
        labels = {"ray.io/node-id": f"!in({', '.join(sorted(avoid))})"} if avoid else None
        task = self._run.options(
            name=f"{job.folder.name} {job.key}.{job.attempt}",
            num_cpus=1,
            num_gpus=gpus,
            max_retries=0,  # the ledger retries
            label_selector=labels,
        )
        return task.remote(job, self._versions, sys.executable)

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
        """Leave the cluster: what still runs there for us is killed."""
        if not self._lost:  # else it would wait for the head
            ray.shutdown()


def _run_job(job: JobSpec, versions: Mapping[str, str], python: str) -> RayReport:
    return run_here(job, versions, python, ray.get_runtime_context().get_node_id())


def _report(ref: Any) -> RayReport:
    try:
        report: RayReport = ray.get(ref)
    except RayError as error:
        known = [text for kind, text in ENDINGS.items() if isinstance(error, kind)]
        return RayReport(None, known[0] if known else _one_line(error))
    return report


def _knock(address: str) -> None:
    """Make sure that somebody listens there: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise EngineError(f"--address: must be auto or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"--engine ray: no Ray cluster at --address {address}: {error}; {START}") from None


def _name(row: Mapping[str, Any]) -> str:
    """The name that the node was started with, which is its address if none was given; or else its host's."""
    name, address = str(row["NodeName"]), str(row["NodeManagerAddress"])
    return name if name not in ("", address) else str(row["NodeManagerHostname"])


def _one_line(error: Exception, width: int = 300) -> str:
    """What Ray says, without its colours and line breaks."""
    text = " ".join(str(error).replace("\x1b[36m", "").replace("\x1b[39m", "").split())
    return text[:width] or type(error).__name__
