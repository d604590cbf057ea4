"""The options of each engine: one frozen dataclass each, with a field for each option of the command line.

Importing this module imports no engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ovis.experiments.runner.gpus.device_choice import GpuLimits

__all__ = ["OPTIONS", "EngineOptions", "LocalOptions", "RayOptions", "SlurmOptions"]


def _option(default: Any, help: str, metavar: str, type: Literal["text", "count", "fraction"] = "text") -> Any:
    """A field that becomes an option of the same name. A count is 1 or more, a fraction 0 to 1."""
    return field(default=default, metadata={"help": help, "metavar": metavar, "type": type})


@dataclass(frozen=True)
class LocalOptions:
    """Options of ``--engine local``: how much of a shared machine it uses."""

    max_gpus: int | None = _option(None, "use at most N GPUs at once (default: all that are free)", "N", "count")
    max_load: float = _option(
        GpuLimits.max_load,
        f"do not use a GPU that is busy for more than this fraction of the time (default: {GpuLimits.max_load})",
        "F",
        "fraction",
    )
    max_memory: float = _option(
        GpuLimits.max_memory,
        f"do not use a GPU with more than this fraction of its memory in use (default: {GpuLimits.max_memory})",
        "F",
        "fraction",
    )


@dataclass(frozen=True)
class RayOptions:
    """Options of ``--engine ray``."""

    address: str = _option(
        "auto", "the cluster's head, HOST:PORT (default: auto, the cluster that this machine is a node of)", "ADDRESS"
    )


@dataclass(frozen=True)
class SlurmOptions:
    """Options of ``--engine slurm``; the site's defaults apply to those that are not given."""

    partition: str = _option("", "the partition of the jobs", "NAME")
    time: int | None = _option(None, "a job's time limit in minutes (default: the partition's)", "MINUTES", "count")
    gpus_per_node: int | None = _option(None, "GPUs of each job", "N", "count")
    array_parallelism: int = _option(
        256, "jobs in Slurm's queue at the same time, waiting or running (default: 256)", "N", "count"
    )


EngineOptions = LocalOptions | RayOptions | SlurmOptions

#: The options of each engine, by its name.
OPTIONS: dict[str, type[EngineOptions]] = {"local": LocalOptions, "ray": RayOptions, "slurm": SlurmOptions}
