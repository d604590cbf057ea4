"""What one Slurm job asks for, and how many runs it holds, by what the partition's nodes offer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovis.experiments.runner.engines.base import EngineError, EngineRequest
from ovis.experiments.runner.engines.options import SlurmOptions

__all__ = ["JobResources", "SlurmNode", "plan_resources", "read_nodes"]

#: States of nodes that take no job, as sinfo shortens them.
ABSENT = ("down", "drain", "drng", "fail", "maint", "boot", "unk", "futr", "inval")


@dataclass(frozen=True)
class SlurmNode:
    """A node as ``sinfo`` says it: its cores, whole GPUs and shares of GPUs, and whether it takes jobs."""

    name: str
    cpus: int
    gpus: int
    shards: int
    up: bool


@dataclass(frozen=True)
class JobResources:
    """One job.

    Attributes:
        runs: side by side in it.
        gpus: that it asks for.
        shards: shares of a GPU that it asks for instead; 0: whole ones.
    """

    runs: int
    gpus: int = 0
    shards: int = 0

    def parameters(self) -> dict[str, Any]:
        """What of it submitit is told."""
        if self.shards:
            return {"gres": f"shard:{self.shards}"}
        # A job of one run has the cores that the site gives with a GPU; of several, each has one at least.
        cores = {"cpus_per_task": self.runs} if self.runs > 1 or not self.gpus else {}
        return {**({"gpus_per_node": self.gpus} if self.gpus else {}), **cores}

    def slots(self, nodes: Sequence[SlurmNode]) -> int:
        """How many runs these nodes hold at once."""
        if self.shards:
            return sum(node.shards // self.shards for node in nodes if node.up)
        if self.gpus:
            return self.runs * sum(min(node.gpus // self.gpus, node.cpus // self.runs) for node in nodes if node.up)
        return self.runs * sum(node.cpus // self.runs for node in nodes if node.up)

    def __str__(self) -> str:
        runs = "a run" if self.runs == 1 else f"{self.runs} runs"
        if self.shards:
            return f"{runs} a job of shard:{self.shards}"
        units, name = (self.gpus, "GPU") if self.gpus else (self.runs, "core")
        return f"{runs} a job of {units} {name}{'s' * (units > 1)}"


def read_nodes(text: str, partition: str) -> tuple[str, list[SlurmNode]]:
    """The partition, and its nodes, of ``sinfo --noheader --SlurmNode --format=%P|%N|%c|%G|%t``.

    Args:
        text: what it printed.
        partition: its name; empty: the cluster's default, which has a star.

    Raises:
        EngineError: there is no such partition.
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    chosen = [row for row in rows if (row[0].rstrip("*") == partition if partition else row[0].endswith("*"))]
    if not chosen:
        names = ", ".join(sorted({row[0].rstrip("*") for row in rows})) or "none"
        wanted = f"no partition {partition}" if partition else "no default partition: name one by --partition"
        raise EngineError(f"this Slurm cluster has {wanted}; there are: {names}")
    nodes = [
        SlurmNode(name, int(cpus.rstrip("+")), _count(gres, "gpu"), _count(gres, "shard"), not state.startswith(ABSENT))
        for _, name, cpus, gres, state in chosen
    ]
    return chosen[0][0].rstrip("*"), nodes


def plan_resources(options: SlurmOptions, request: EngineRequest, nodes: Sequence[SlurmNode]) -> JobResources:
    """Decide what a job asks for.

    A job holds ``processes`` runs for each of its GPUs; where a job has one GPU and the site shares GPUs out
    (``gres/shard``) in a number that can be divided so, each run is a job of its share. Without GPUs a run has a core.

    Raises:
        EngineError: the nodes have no such GPUs, or a device was named that only Slurm can choose.
    """
    if request.device not in ("auto", "cpu", "cuda"):
        raise EngineError(f"--device {request.device}: which GPU it is, is Slurm's to say: auto, cuda or cpu")
    processes = request.processes or 1
    most = max(node.gpus for node in nodes)
    if request.device == "cpu" or (request.device == "auto" and not most and not options.gpus_per_node):
        if options.gpus_per_node:
            raise EngineError(f"--gpus_per_node {options.gpus_per_node}: not with --device cpu")
        return JobResources(processes)
    wanted = options.gpus_per_node or 1
    if wanted > most:
        raise EngineError(f"a job of {wanted} GPUs: the partition's nodes have at most {most}")
    each = {node.shards // node.gpus for node in nodes if node.gpus}
    share = each.pop() if len(each) == 1 else 0
    if wanted == 1 and processes > 1 and share and share % processes == 0:
        return JobResources(1, shards=share // processes)
    return JobResources(wanted * processes, gpus=wanted)


def _count(gres: str, name: str) -> int:
    """How many of a resource there are in ``gpu:a100:4(S:0-1),shard:8``."""
    counts = re.findall(rf"(?:^|,){name}(?::[^:,()]+)?:(\d+)(?=[,(]|$)", re.sub(r"\([^)]*\)", "", gres))
    return sum(map(int, counts))
