"""The resources that one Slurm job asks for, and how many runs share them, by what the partition's nodes offer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.interface import EngineError, EngineRequest

__all__ = ["JobResources", "SlurmNode", "plan_resources", "read_nodes"]

#: States of nodes that accept no jobs, as sinfo abbreviates them.
ABSENT = ("down", "drain", "drng", "fail", "maint", "boot", "unk", "futr", "inval")


@dataclass(frozen=True)
class SlurmNode:
    """A node as ``sinfo`` shows it: its cores, whole GPUs and shares of GPUs, and whether it accepts jobs."""

    name: str
    cpus: int
    gpus: int
    shards: int
    up: bool


@dataclass(frozen=True)
class JobResources:
    """What one Slurm job asks for.

    Attributes:
        runs: how many runs it holds, side by side.
        gpus: the number of GPUs.
        shards: the number of shares of a GPU instead (``gres/shard``); 0: whole GPUs.
    """

    runs: int
    gpus: int = 0
    shards: int = 0

    def options(self) -> dict[str, object]:
        """The options of sbatch that ask for them, without their dashes."""
        if self.shards:
            return {"gres": f"shard:{self.shards}"}
        # A job of one run has the cores that the site gives with a GPU; in a job of several, each has one at least.
        cores = {"cpus-per-task": self.runs} if self.runs > 1 or not self.gpus else {}
        return {**({"gpus-per-node": self.gpus} if self.gpus else {}), **cores}

    def slots(self, nodes: Sequence[SlurmNode]) -> int:
        """How many runs these nodes hold at the same time."""
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
    """The partition's name and nodes, from the output of ``sinfo --noheader --Node --format=%P|%N|%c|%G|%t``.

    Args:
        text: the output.
        partition: the name; empty: the cluster's default partition, which is marked by a star.

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

    A job holds ``processes`` runs for each of its GPUs. Where it has one GPU and the site divides GPUs into shares
    (``gres/shard``) of a number that ``processes`` divides, each run is a job with its share instead. Without GPUs a
    run has one core.

    Raises:
        EngineError: the nodes have no such GPUs, or the device names a particular GPU, which only Slurm can choose.
    """
    if request.device not in ("auto", "cpu", "cuda"):
        raise EngineError(f"--device {request.device}: Slurm chooses which GPU: auto, cuda or cpu")
    processes = request.processes or 1
    largest = max(node.gpus for node in nodes)
    if request.device == "cpu" or (request.device == "auto" and not largest and not options.gpus_per_node):
        if options.gpus_per_node:
            raise EngineError(f"--gpus_per_node {options.gpus_per_node}: not with --device cpu")
        return JobResources(processes)
    wanted = options.gpus_per_node or 1
    if wanted > largest:
        raise EngineError(f"a job of {wanted} GPUs: the partition's nodes have at most {largest}")
    per_gpu = {node.shards // node.gpus for node in nodes if node.gpus}
    shards = per_gpu.pop() if len(per_gpu) == 1 else 0
    if wanted == 1 and processes > 1 and shards and shards % processes == 0:
        return JobResources(1, shards=shards // processes)
    return JobResources(wanted * processes, gpus=wanted)


def _count(gres: str, name: str) -> int:
    """The number of a resource in a text like ``gpu:a100:4(S:0-1),shard:8``."""
    counts = re.findall(rf"(?:^|,){name}(?::[^:,()]+)?:(\d+)(?=[,(]|$)", re.sub(r"\([^)]*\)", "", gres))
    return sum(map(int, counts))
