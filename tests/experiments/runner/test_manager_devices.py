"""The manager on a shared box: it waits for a GPU, says so without a flood, and uses what becomes free."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest
from fake_nvml import FakeGpu, FakeNvml, install
from laboratory import Lab

from ovis.experiments.runner import manager as module
from ovis.experiments.runner.display import messages
from ovis.experiments.runner.display.progress import ProgressView
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import _Manager


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    busy = FakeGpu("GPU-a", load=97, memory=41), FakeGpu("GPU-b", load=0, memory=80)
    return install(monkeypatch, tmp_path_factory.mktemp("reservations"), *busy)


@pytest.mark.slow
def test_the_manager_waits_for_the_gpus_and_uses_both(
    lab: Lab, box: FakeNvml, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovis.experiments.runner.gpus.device_choice.LOOK", 0.1)
    lab.write(args=["--nsteps 40"], parameters={"seed": [1, 2, 3, 4]})
    starts: list[int] = []

    def free() -> None:
        lab.wait(lambda: box.reads > 10)  # two for the plan; the manager has looked at both again and again
        starts.append(len(list(lab.paths.folder.glob("*/call.json"))))
        for gpu in box.gpus:
            gpu.load, gpu.memory = 3, 1

    thread = threading.Thread(target=free)
    thread.start()
    assert lab.run("--device", "auto", "--processes", "1") == 0
    thread.join()
    assert starts == [0]  # nothing was started while they were busy, on the CPU neither
    calls = [json.loads((run.folder / "call.json").read_text()) for run in lab.runs()]
    assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in calls} == {"0", "1"}
    assert {call["env"]["CUDA_DEVICE_ORDER"] for call in calls} == {"PCI_BUS_ID"}
    assert all('"device": "cuda"' in call["argv"][2] for call in calls)
    assert {record.device for record in lab.records()} == {"cuda:0", "cuda:1"}
    shown = capsys.readouterr()
    reason = "cuda:0 load 97 %, memory 41 %; cuda:1 load 0 %, memory 80 %"
    assert f"on cuda:0, cuda:1: 2 runs at once\nnot free now: {reason}\n" in shown.out
    assert [line for line in shown.err.splitlines() if "waiting" in line] == [f"waiting: {reason}"]


@pytest.mark.slow
def test_a_gpu_that_is_lost_in_mid_run_is_one_line_and_the_other_goes_on(
    lab: Lab, box: FakeNvml, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovis.experiments.runner.gpus.device_choice.LOOK", 0.1)
    for gpu in box.gpus:
        gpu.load, gpu.memory = 3, 1
    lab.write(args=["--nsteps 100"], parameters={"seed": [1, 2, 3, 4]})

    def lose() -> None:
        lab.wait_for_steps(5)
        box.gpus[0].lost = True

    thread = threading.Thread(target=lose)
    thread.start()
    assert lab.run("--device", "cuda", "--processes", "1") == 0
    thread.join()
    assert sorted(record.device for record in lab.records()) == ["cuda:0", *["cuda:1"] * 3]
    waiting = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert waiting == ["waiting: cuda:0 can't be read: GPU is lost"]


def plan(lab: Lab, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    lab.write(args=[""])
    assert lab.run("--dry_run", *options) == 0
    return capsys.readouterr().out.splitlines()[1:3]


@pytest.mark.usefixtures("box")
def test_the_plan_names_the_busy_devices(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = "cuda:0 load 97 %, memory 41 %", "cuda:1 load 0 %, memory 80 %"
    assert plan(lab, capsys, "--device", "cuda")[:2] == [
        "on cuda:0, cuda:1: 4 runs at once",
        f"not free now: {first}; {second}",
    ]
    assert plan(lab, capsys, "--device", "cuda", "--max_gpus", "1", "--max_memory", "0.8")[:2] == [
        "on 1 of cuda:0, cuda:1: 2 runs at once",
        f"not free now: {first}",
    ]
    assert plan(lab, capsys, "--device", "cpu")[0] == "on cpu: 2 runs at once"
    assert not lab.paths.folder.exists()


@pytest.mark.parametrize(
    "option", [["--max_gpus", "0"], ["--max_load", "97"], ["--max_load", "nan"], ["--max_memory", "half"]]
)
def test_limits_that_make_no_sense_are_refused(lab: Lab, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[""])
    with pytest.raises(SystemExit):
        lab.run(*option)
    assert f"{option[0]}: must be" in capsys.readouterr().err


def test_the_reason_is_repeated_when_it_has_changed_and_a_minute_has_passed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, lines = SimpleNamespace(now=0.0), list[str]()
    for each in (module, messages):
        monkeypatch.setattr(each, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1e9))
    engine = SimpleNamespace(kind="local", detached=False, waiting=lambda: clock.text)
    manager = _Manager([], lab.queue, engine, Listener(lines), JobSpec(lab.folder, "", 0), None, None)  # type: ignore[arg-type]
    manager.budget = 1

    def at(now: float, text: str) -> int:
        clock.now, clock.text = now, text
        manager._report_wait()
        return len(lines)

    assert at(0, "cuda:0 load 97 %; cuda:1 load 60 %") == 1
    assert at(0.1, "cuda:0 load 96 %; cuda:1 load 60 %") == 1
    assert at(61, "cuda:0 load 9 %; cuda:1 load 100 %") == 1  # figures are not news
    assert at(62, "cuda:0 load 9 %") == 2
    assert at(70, "cuda:1 load 9 %") == 2
    assert at(121.9, "cuda:1 load 9 %") == 2
    assert at(122, "cuda:1 load 9 %") == 3
    assert at(300, "cuda:1 load 9 %") == 3
    assert at(301, "") == 3  # in use by our own runs
    assert at(302, "cuda:1 load 9 %") == 4
    assert lines[-1] == "waiting: cuda:1 load 9 %"
    manager.next_start = None
    assert at(900, "cuda:0 load 97 %") == 4  # nothing waits
    manager.next_start, manager.stops = 0.0, 1
    assert at(900, "cuda:0 load 97 %") == 4  # nothing will be started


class Listener:
    """A display that keeps the printed lines."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def show(self, view: ProgressView) -> None:
        pass

    def print(self, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None:
        pass
