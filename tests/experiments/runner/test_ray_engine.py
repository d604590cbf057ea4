"""The Ray engine on a fake cluster: the resources of a job, its status, and its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovis.experiments.runner.engines.engine_options import RayOptions
from ovis.experiments.runner.engines.interface import EngineError, EngineRequest, JobHandle, JobPhase
from ovis.experiments.runner.engines.ray import LOOK, RayEngine
from ovis.experiments.runner.engines.ray_node import RayNode, RayReport
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runs.paths import ExperimentPaths


class FakeCluster:
    """Tasks and nodes in lists; references are numbers."""

    address = "10.0.0.1:6379"

    def __init__(self, *nodes: RayNode) -> None:
        self.alive = list(nodes)
        self.started: list[tuple[JobSpec, float, set[str]]] = []
        self.reports: dict[int, RayReport] = {}
        self.cancelled: list[tuple[int, bool]] = []
        self.missing: dict[str, str] = {}
        self.looked_at: list[str] = []
        self.probes: list[bool] = []

    def nodes(self) -> list[RayNode]:
        return list(self.alive)

    def faults(self, nodes: list[RayNode], probe: Path) -> dict[str, str]:
        self.looked_at = [node.name for node in nodes]
        self.probes.append(probe.is_file())
        return self.missing

    def start(self, job: JobSpec, gpus: float, avoid: set[str]) -> int:
        self.started.append((job, gpus, set(avoid)))
        return len(self.started) - 1

    def ended(self, refs: list[int]) -> dict[int, RayReport]:
        return {ref: self.reports[ref] for ref in refs if ref in self.reports}

    def cancel(self, ref: int, force: bool) -> None:
        self.cancelled.append((ref, force))

    def close(self) -> None:
        self.alive.clear()


HEAD = RayNode("a0", "head", 0.0, 0.0)
BOX = RayNode("b1", "box", 16.0, 4.0)
SMALL = RayNode("c2", "small", 2.0, 0.0)


def make(*nodes: RayNode, **request: object) -> tuple[RayEngine, FakeCluster]:
    cluster = FakeCluster(*nodes)
    return RayEngine(RayOptions(), EngineRequest(**request), cluster), cluster  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "request_", "slots", "gpus", "device"),
    [
        ((HEAD, BOX), {}, 4, 1.0, "cuda"),
        ((HEAD, BOX), {"processes": 3}, 12, 1 / 3, "cuda"),
        ((HEAD, BOX), {"processes": 8}, 16, 1 / 8, "cuda"),  # 32 by the GPUs, but there are 16 cores
        ((BOX, SMALL), {"device": "cpu"}, 18, 0.0, "cpu"),
        ((HEAD, SMALL), {}, 2, 0.0, "cpu"),
    ],
)
def test_reserved_resources(
    tmp_path: Path, nodes: tuple[RayNode, ...], request_: dict[str, object], slots: int, gpus: float, device: str
) -> None:
    engine, cluster = make(*nodes, **request_)
    assert (engine.slots, engine.capacity()) == (slots, 2 * slots)
    engine.submit([JobSpec(tmp_path, "k", 1)])
    ((job, booked, avoid),) = cluster.started
    assert (job.device, booked, avoid) == (device, pytest.approx(gpus), set())
    assert engine.capacity() == 2 * slots - 1


def test_location() -> None:
    assert make(HEAD, BOX)[0].location == "Ray at 10.0.0.1:6379, 2 nodes, 4 GPUs, 16 CPUs"
    assert make(SMALL)[0].location == "Ray at 10.0.0.1:6379, 1 node, 2 CPUs"


@pytest.mark.parametrize(
    ("nodes", "request_", "words"),
    [
        ((SMALL,), {"device": "cuda"}, ["no node", "a GPU and a CPU", "--device cuda"]),
        ((HEAD,), {}, ["no node", "a CPU"]),
        ((BOX,), {"device": "cuda:1"}, ["--device cuda:1", "auto, cpu or cuda"]),
        ((BOX,), {"device": "cpu", "processes": 2}, ["--processes", "one core"]),
    ],
)
def test_impossible_requests_are_refused(
    nodes: tuple[RayNode, ...], request_: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(EngineError) as caught:
        make(*nodes, **request_)
    assert [word for word in words if word not in str(caught.value)] == []


def test_every_node_that_may_run_a_job_is_checked(tmp_path: Path) -> None:
    engine, cluster = make(HEAD, BOX, SMALL, device="cpu")
    engine.check(tmp_path)
    assert cluster.looked_at == ["box", "small"]  # the head gets none
    cluster.missing = {"small": "has torch 2.4.0 instead of 2.13.0"}
    with pytest.raises(EngineError, match=r"^--engine ray: node small has torch 2\.4\.0 instead of 2\.13\.0$"):
        engine.check(tmp_path)
    assert cluster.probes == [True, True]
    assert not list(tmp_path.iterdir())


def test_a_job_is_pending_until_its_lease_names_a_node(tmp_path: Path) -> None:
    engine, cluster = make(BOX, processes=2)
    leases = Leases(ExperimentPaths(tmp_path))
    for key in "kl":
        leases.create(key, 1)
    handles = engine.submit([JobSpec(tmp_path, "k", 1), JobSpec(tmp_path, "l", 1)])
    ids = [handle.id for handle in handles if isinstance(handle, JobHandle)]
    assert [status.phase for status in engine.poll(ids).values()] == [JobPhase.PENDING] * 2
    assert leases.set_location("l", 1, "b1 cuda:3")
    first, second = engine.poll(ids).values()
    assert (first.phase, second.phase, second.device) == (JobPhase.PENDING, JobPhase.RUNNING, "box cuda:3")
    cluster.reports[1] = RayReport(0, node="b1")
    assert engine.poll(ids)[ids[1]].phase is JobPhase.ENDED
    assert engine.poll(ids)[ids[1]].phase is JobPhase.ENDED  # and stays so
    assert engine.poll(ids)[ids[0]].phase is JobPhase.PENDING
    assert engine.capacity() == 15


def test_the_name_of_a_node_that_has_just_joined(tmp_path: Path) -> None:
    engine, cluster = make(BOX)
    leases = Leases(ExperimentPaths(tmp_path))
    leases.create("k", 1)
    (handle,) = engine.submit([JobSpec(tmp_path, "k", 1)])
    assert isinstance(handle, JobHandle)
    cluster.alive.append(RayNode("d4", "fresh", 1.0, 1.0))  # less than LOOK ago
    leases.set_location("k", 1, "d4 cuda:0")
    assert engine.poll([handle.id])[handle.id].device == "fresh cuda:0"


def test_leases_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make(RayNode("d", "large", 100.0, 0.0))
    read: list[str] = []
    monkeypatch.setattr(Leases, "location", lambda self, key, attempt: read.append(key) or "")
    engine.submit([JobSpec(tmp_path, f"{number}", 1) for number in range(100)])
    engine.poll([])
    assert read == [f"{number}" for number in range(32)]


def test_the_reason_for_a_job_s_end(tmp_path: Path) -> None:
    engine, cluster = make(BOX)
    leases = Leases(ExperimentPaths(tmp_path))
    leases.create("k", 1)
    (handle,) = engine.submit([JobSpec(tmp_path, "k", 1)])
    assert isinstance(handle, JobHandle)
    leases.set_location("k", 1, "b1 cuda:0")
    engine.poll([handle.id])
    cluster.reports[0] = RayReport(None, "its node was lost")
    status = engine.poll([handle.id])[handle.id]
    assert (status.code, status.message) == (None, "its node was lost (box cuda:0)")


def test_a_node_that_lacks_something_gets_no_more_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, cluster = make(BOX, SMALL, device="cpu")
    (handle,) = engine.submit([JobSpec(tmp_path, "k", 1)])
    assert isinstance(handle, JobHandle)
    cluster.reports[0] = RayReport(None, "does not see /runs", node="c2")
    assert engine.poll([handle.id])[handle.id].message == "node small does not see /runs"
    engine.submit([JobSpec(tmp_path, "l", 1)])
    assert cluster.started[-1][2] == {"c2"}
    assert engine.slots == 16
    assert not engine.waiting()
    cluster.alive.remove(BOX)
    monkeypatch.setattr("ovis.experiments.runner.engines.ray.time.monotonic", lambda: 1e9 + LOOK)
    assert (engine.slots, engine.capacity()) == (0, 0)
    assert engine.waiting().endswith("has no node for runs on --device cpu; node small does not see /runs")
    cluster.alive.append(RayNode("d4", "fresh", 1.0, 1.0))
    monkeypatch.setattr("ovis.experiments.runner.engines.ray.time.monotonic", lambda: 2e9)
    assert (engine.slots, engine.waiting()) == (1, "")  # it goes on where it can


def test_only_living_jobs_are_cancelled(tmp_path: Path) -> None:
    engine, cluster = make(BOX)
    ids = [h.id for h in engine.submit([JobSpec(tmp_path, key, 1) for key in "kl"]) if isinstance(h, JobHandle)]
    cluster.reports[0] = RayReport(0)
    engine.poll(ids)
    engine.cancel(ids)
    engine.cancel(ids, force=True)
    assert cluster.cancelled == [(1, False), (1, True)]
    assert not engine.attach(ids)
