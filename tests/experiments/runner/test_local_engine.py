"""The local engine's choice of devices by the load of the GPUs, on a machine with fake GPUs."""

from __future__ import annotations

import fcntl
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_nvml import Clock, FakeGpu, FakeNvml, install

from ovis.experiments.runner.engines import local
from ovis.experiments.runner.engines.interface import JobHandle
from ovis.experiments.runner.engines.local import LocalEngine
from ovis.experiments.runner.gpus import device_choice, reservations
from ovis.experiments.runner.gpus.device_choice import DeviceSource, GpuLimits
from ovis.experiments.runner.gpus.devices import list_devices
from ovis.experiments.runner.job import JobSpec


class Box:
    """A box with two GPUs, a clock by hand, and engines of one manager or more on it; jobs only sleep."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.nvml: FakeNvml = install(monkeypatch, folder, FakeGpu("GPU-a"), FakeGpu("GPU-b"))
        self.first, self.second = self.nvml.gpus
        self.clock = Clock().stop(monkeypatch, device_choice, reservations)
        self.engines: list[LocalEngine] = []
        monkeypatch.setattr(JobSpec, "argv", lambda job: ["sleep", "60"])

    def engine(self, processes: int = 1, request: str = "auto", **limits: float) -> LocalEngine:
        source = DeviceSource(list_devices(request), GpuLimits(**limits))  # type: ignore[arg-type]
        self.engines.append(LocalEngine(source, processes))
        return self.engines[-1]

    def submit(self, engine: LocalEngine) -> tuple[str, str]:
        """The id and the device of a new job."""
        (handle,) = engine.submit([JobSpec(self.folder, "key", 1)])
        assert isinstance(handle, JobHandle)
        return handle.id, handle.device

    def fill(self, engine: LocalEngine) -> dict[str, str]:
        """As many jobs as the engine takes: their devices by id."""
        return dict(self.submit(engine) for _ in range(engine.capacity()))

    def end(self, engine: LocalEngine, id: str) -> None:
        engine.cancel([id], force=True)
        engine._jobs[id].process.wait()
        engine.poll([id])

    def later(self, seconds: float = 1.0) -> None:
        self.clock.now += seconds


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    box = Box(tmp_path, monkeypatch)
    yield box
    for engine in box.engines:
        engine.close()


def test_free_gpus_get_one_job_each_first(box: Box) -> None:
    engine = box.engine(processes=2)
    assert (engine.capacity(), engine.waiting()) == (4, "")
    devices = [box.submit(engine)[1] for _ in range(4)]
    assert (set(devices[:2]), sorted(devices)) == ({"cuda:0", "cuda:1"}, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"])
    assert (engine.capacity(), engine.waiting()) == (0, "")  # only our own jobs to wait for


def test_the_less_loaded_of_two_free_gpus_comes_first(box: Box) -> None:
    box.first.load = 30
    assert box.submit(box.engine())[1] == "cuda:1"


@pytest.mark.parametrize(
    ("load", "memory", "free"),
    [(50, 50, True), (51, 1, False), (0, 51, False), (None, 50, True), (None, 51, False), (99, None, False),
     (None, None, True)],
)  # fmt: skip
def test_limits(box: Box, load: int | None, memory: int | None, free: bool) -> None:
    box.first.load, box.first.memory = load, memory
    assert box.engine(request="cuda:0").capacity() == free


def test_limits_set_by_the_user(box: Box) -> None:
    box.first.load, box.first.memory = 20, 90
    assert box.engine(request="cuda:0", max_memory=0.9).capacity() == 1
    assert box.engine(request="cuda:0", max_memory=1.0, max_load=0.1).capacity() == 0


def test_jobs_wait_for_a_gpu_rather_than_use_the_cpu(box: Box) -> None:
    box.first.load, box.first.memory = 97, 41
    box.second.load, box.second.memory = None, 80
    engine = box.engine()
    assert (engine.capacity(), engine.waiting()) == (0, "cuda:0 load 97 %, memory 41 %; cuda:1 memory 80 %")
    box.second.memory = 3
    assert engine.capacity() == 0  # seen less than a second ago
    box.later()
    assert (engine.capacity(), engine.waiting()) == (1, "cuda:0 load 97 %, memory 41 %")
    assert box.submit(engine)[1] == "cuda:1"


def test_gpus_are_read_at_most_once_a_second(box: Box) -> None:
    engine = box.engine()
    for _ in range(100):
        engine.capacity()
        engine.waiting()
        box.later(0.1)
    assert box.nvml.reads <= 2 * 11
    assert box.nvml.inits == 2  # once to list them, once to look


def test_the_cpu_on_request(box: Box) -> None:
    box.first.load = box.second.load = 97
    engine = box.engine(processes=3, request="cpu", max_gpus=1)
    assert list(box.fill(engine).values()) == ["cpu"] * 3
    assert (engine.capacity(), engine.waiting(), box.nvml.reads) == (0, "", 0)


def test_the_load_of_our_own_jobs_does_not_count(box: Box) -> None:
    engine = box.engine(processes=2)
    box.submit(engine), box.submit(engine)
    box.first.load = box.second.load = 100
    box.first.memory = box.second.memory = 90
    box.later(60)
    assert (engine.capacity(), engine.waiting()) == (2, "")


def test_max_gpus(box: Box) -> None:
    engine = box.engine(processes=2, max_gpus=1)
    assert engine.capacity() == 2
    jobs = box.fill(engine)
    assert len(set(jobs.values())) == 1
    assert (engine.capacity(), engine.waiting()) == (0, "")
    for id in jobs:
        box.end(engine, id)
    box.first.load = 97
    box.later(10)
    assert set(box.fill(engine).values()) == {"cuda:1"}


def test_jobs_stay_balanced_in_whatever_order_they_end(box: Box) -> None:
    engine = box.engine(processes=3)
    jobs = box.fill(engine)
    choice = random.Random(1)
    for _ in range(40):
        for id in choice.sample(list(jobs), choice.randint(1, 3)):
            box.end(engine, id)
            del jobs[id]
        for _ in range(engine.capacity()):
            before = Counter({"cuda:0": 0, "cuda:1": 0})
            before.update(jobs.values())
            id, device = box.submit(engine)
            assert before[device] == min(before.values())
            jobs[id] = device
    assert Counter(jobs.values()) == {"cuda:0": 3, "cuda:1": 3}


def show(box: Box, gpu: FakeGpu, engine: LocalEngine, device: str) -> None:
    """NVML shows our jobs on this device, working."""
    for id, job in engine._jobs.items():
        if job.device.label == device:
            gpu.processes[int(id)] = (60, 10)
    gpu.load, gpu.memory = 100, 60
    box.later()


@pytest.mark.parametrize(("use", "free"), [((60, 10), False), ((10, 60), False), ((10, 10), True), ((None, 10), True)])
def test_other_processes_on_a_gpu_in_use_count(box: Box, use: tuple[int | None, int], free: bool) -> None:
    engine = box.engine(processes=2, request="cuda:0")
    box.submit(engine)
    show(box, box.first, engine, "cuda:0")
    assert engine.capacity() == 1
    box.first.processes[os.getppid()] = use
    box.later()
    load = 0 if use[0] is None else use[0]
    expected = (1, "") if free else (0, f"cuda:0 others' load {load} %, memory {use[1]} %")
    assert (engine.capacity(), engine.waiting()) == expected


def test_process_ids_of_another_namespace_do_not_count(box: Box) -> None:
    """In a container NVML reports process ids of the host, which belong to no process or to another one here."""
    engine = box.engine(processes=2, request="cuda:0")
    box.submit(engine)
    box.first.processes = {os.getppid(): (90, 90), 2**22 + 1: (90, 90)}
    box.later()
    assert (engine.capacity(), engine.waiting()) == (1, "")


def test_the_load_of_a_run_that_has_just_ended_is_not_another_s(box: Box) -> None:
    engine = box.engine(request="cuda:0")
    id, _ = box.submit(engine)
    box.first.load = 100
    box.later(5)
    assert engine.capacity() == 0
    box.end(engine, id)
    assert (engine.capacity(), engine.waiting()) == (0, "")  # nobody can tell whose load it is: wait, without a word
    box.later(2)
    assert (engine.capacity(), engine.waiting()) == (0, "cuda:0 load 100 %, memory 1 %")
    box.first.load = 0
    box.later()
    id, _ = box.submit(engine)
    show(box, box.first, engine, "cuda:0")
    engine.capacity()
    box.end(engine, id)
    box.later()
    assert engine.capacity() == 1  # NVML has shown us our own processes, and there is none but that


def test_an_unreadable_gpu_is_not_free(box: Box) -> None:
    engine = box.engine()
    assert engine.capacity() == 2
    box.second.lost = True
    box.later()
    assert (engine.capacity(), engine.waiting()) == (1, "cuda:1 can't be read: GPU is lost")
    assert box.fill(engine).popitem()[1] == "cuda:0"
    inits = box.nvml.inits
    for _ in range(9):
        box.later()
        assert engine.capacity() == 0
    box.second.lost = False
    box.later()
    assert engine.capacity() == 1
    assert 0 < box.nvml.inits - inits <= 2  # opened anew, and not each time


def test_a_driver_that_goes_away_and_comes_back(box: Box) -> None:
    engine = box.engine()
    assert engine.capacity() == 2
    box.first.lost = box.second.lost = True
    box.later()
    assert engine.capacity() == 0
    box.nvml.broken = "DriverNotLoaded"
    box.later(10)
    assert engine.waiting() == "cuda:0 can't be read: broken; cuda:1 can't be read: broken"
    box.nvml.broken, box.first.lost, box.second.lost = "", False, False
    box.later(10)
    assert (engine.capacity(), engine.waiting()) == (2, "")


def test_two_managers_that_look_at_once_choose_different_gpus(box: Box) -> None:
    one, other = box.engine(max_gpus=1), box.engine(processes=2)
    assert box.submit(one)[1] == "cuda:0"  # nothing to be seen of it yet
    assert (other.capacity(), other.waiting()) == (2, "cuda:0 another manager has just started a run there")
    assert set(box.fill(other).values()) == {"cuda:1"}
    box.later(reservations.SETTLE)
    one.capacity()  # as a manager asks all the time
    assert other.capacity() == 2  # by now a run shows its real load: here, none


def test_a_manager_that_ends_leaves_nothing_reserved(box: Box) -> None:
    one, other = box.engine(), box.engine()
    box.fill(one)
    assert other.capacity() == 0
    one.close()
    assert other.capacity() == 2


def test_no_reservations_in_a_folder_of_another_user(box: Box) -> None:
    (box.folder / f"ovis-{os.getuid()}").symlink_to(box.folder)
    one, other = box.engine(), box.engine()
    box.fill(one)
    assert other.capacity() == 2
    assert not list(box.folder.glob("*.lock"))


def test_a_claimed_job_starts_even_if_no_gpu_is_free_any_more(box: Box) -> None:
    engine = box.engine(request="cuda:1")
    assert engine.capacity() == 1
    box.second.load = 97
    box.later()
    assert engine.capacity() == 0
    assert box.submit(engine)[1] == "cuda:1"


@pytest.mark.parametrize(
    ("request_", "processes", "limits", "threads"),
    [("auto", 1, {}, "6"), ("auto", 2, {}, "3"), ("auto", 2, {"max_gpus": 1}, "6"), ("cpu", 5, {}, "2"),
     ("cpu", 99, {}, "1")],
)  # fmt: skip
def test_jobs_share_the_cores(
    box: Box,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
    processes: int,
    limits: dict[str, float],
    threads: str,
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 13)
    engine = box.engine(processes, request_, **limits)
    box.submit(engine)
    (job,) = engine._jobs.values()
    file = Path(f"/proc/{job.process.pid}/environ")
    while not (variables := file.read_text().split("\0"))[0]:  # it is about to be executed
        assert job.process.poll() is None
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert f"{name}={threads}" in variables


def test_reading_reservations_does_not_block_other_managers(box: Box) -> None:
    engine = box.engine()
    box.fill(engine)
    engine.close()
    for path in (box.folder / f"ovis-{os.getuid()}").iterdir():
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            assert engine.capacity() == 2
