"""The resources of a Slurm job, by what the partition's nodes offer; error messages of Slurm's commands."""

from __future__ import annotations

import pytest

from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.interface import EngineError, EngineRequest
from ovis.experiments.runner.engines.slurm_commands import one_line
from ovis.experiments.runner.engines.slurm_resources import JobResources, SlurmNode, plan_resources, read_nodes

TWO = [SlurmNode("n1", 8, 2, 4, True), SlurmNode("n2", 8, 2, 4, False)]


@pytest.mark.parametrize(
    ("options", "request_", "layout", "slots"),
    [
        ({}, EngineRequest(), JobResources(1, gpus=1), 2),
        ({}, EngineRequest(processes=2), JobResources(1, shards=1), 4),
        ({}, EngineRequest(processes=3), JobResources(3, gpus=1), 6),
        ({}, EngineRequest(processes=5), JobResources(5, gpus=1), 5),  # of 8 cores, one for each run
        ({"gpus_per_node": 2}, EngineRequest(processes=2), JobResources(4, gpus=2), 4),
        ({}, EngineRequest("cpu"), JobResources(1), 8),
        ({}, EngineRequest("cpu", 3), JobResources(3), 6),
    ],
)
def test_planned_resources(options: dict[str, int], request_: EngineRequest, layout: JobResources, slots: int) -> None:
    assert plan_resources(SlurmOptions(**options), request_, TWO) == layout  # type: ignore[arg-type]
    assert layout.slots(TWO) == slots  # of the node that is up


def test_a_partition_without_gpus() -> None:
    nodes = [SlurmNode("n1", 8, 0, 0, True)]
    assert plan_resources(SlurmOptions(), EngineRequest(), nodes) == JobResources(1)
    with pytest.raises(EngineError, match="a job of 1 GPUs: the partition's nodes have at most 0"):
        plan_resources(SlurmOptions(), EngineRequest("cuda"), nodes)


def test_shards_that_differ_between_nodes_are_not_used() -> None:
    nodes = [SlurmNode("n1", 8, 2, 4, True), SlurmNode("n2", 8, 2, 8, True)]
    assert plan_resources(SlurmOptions(), EngineRequest(processes=2), nodes) == JobResources(2, gpus=1)


@pytest.mark.parametrize(
    ("gres", "gpus", "shards"),
    [
        ("(null)", 0, 0),
        ("gpu:2,shard:4", 2, 4),
        ("gpu:a100:4(S:0-1)", 4, 0),
        ("gpu:a100:3(S:0),gpu:t4:1(S:1),shard:16", 4, 16),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1),shard:nvidia_h100_80gb_hbm3:32(S:0-1)", 8, 32),
        ("craynetwork:4,gpu:1", 1, 0),
    ],
)
def test_reading_nodes(gres: str, gpus: int, shards: int) -> None:
    name, nodes = read_nodes(f"main*|n1|16|{gres}|mix\nbig|n9|1|(null)|down*\n", "")
    assert name == "main"
    assert nodes == [SlurmNode("n1", 16, gpus, shards, True)]
    assert read_nodes(f"main*|n1|16|{gres}|mix\nbig|n9|1|(null)|down*\n", "big")[1] == [SlurmNode("n9", 1, 0, 0, False)]


def test_no_such_partition() -> None:
    with pytest.raises(EngineError, match="no partition nix; there are: big, main"):
        read_nodes("main*|n1|16|(null)|mix\nbig|n9|1|(null)|idle\n", "nix")
    with pytest.raises(EngineError, match="no default partition: name one by --partition; there are: big"):
        read_nodes("big|n9|1|(null)|idle\n", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sbatch: error: invalid partition specified: nix\nallocation failure: Invalid partition name specified\n",
         "invalid partition specified: nix; Invalid partition name specified"),
        ("slurm_load_jobs error: Invalid job id specified\n", "Invalid job id specified"),
        ("sbatch: error: Invalid --time specification\n", "Invalid --time specification"),
        ("", "no reason was given"),
    ],
)  # fmt: skip
def test_error_messages_in_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
