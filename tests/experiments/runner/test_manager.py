"""The manager from its command line to the last run, with a stub for the training."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import types
from pathlib import Path

import pytest
from laboratory import STUB, Lab, processes_of
from slow_cases import slow_except

from ovis.experiments.runner.display.progress import ProgressView
from ovis.experiments.runner.engines.local import LocalEngine
from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.runner.gpus.device_choice import DeviceSource
from ovis.experiments.runner.gpus.devices import Device
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import run_experiment
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy

SEEDS = {"seed": [1, 2, 3]}
#: Two runs that go on only in their second attempt, and one more.
WAITING = ["--id wait --seed 1", "--id wait --seed 2", "--id last"]


def test_every_run_is_done_once_and_a_second_start_runs_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"], parameters=SEEDS)
    assert lab.run() == 0
    assert lab.counts() == {"done": 3}
    once = lab.journal()
    assert list(once.values()) == [["start at 0 in 1", "done in 1"]] * 3
    assert all(run.success.exists() for run in lab.runs())
    assert not list(lab.paths.leases.glob("*.1"))
    assert lab.run() == 0
    assert lab.journal() == once
    assert "3 runs: 0 new, 3 known (3 done), 0 duplicate" in capsys.readouterr().out


def test_a_failing_run_is_shown_and_the_others_go_on(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--id fail", "--estimator rws"], parameters=SEEDS)
    assert lab.run() == 1
    assert lab.counts() == {"done": 3, "failed": 3}
    shown = capsys.readouterr()
    failed = next(run for run in lab.runs() if run.name.startswith("fail"))
    for text in (shown.err, shown.out):
        assert failed.name in text
        assert "ValueError: the loss is not finite" in text
        assert str(failed.log(1)) in text
    assert "--requeue_level 2" in shown.out
    assert lab.run() == 1  # still: not every run is done
    assert lab.counts() == {"done": 3, "failed": 3}


def test_a_run_that_is_killed_is_tried_again_from_its_checkpoint(lab: Lab) -> None:
    lab.write(args=["--id die", ""])
    assert lab.run() == 0
    (died,) = [lines for name, lines in lab.journal().items() if name.startswith("die")]
    assert died == ["start at 0 in 1", "start at 3 in 2", "done in 2"]
    assert sorted(record.lost for record in lab.records()) == [0, 1]


@pytest.mark.parametrize(
    ("experiment", "message"),
    [({"args": ["--estimater vimco"]}, "--estimater"), ({"args": []}, "empty"), ({"arg": []}, "did you mean 'args'")],
)
def test_nothing_is_written_for_a_bad_file(
    lab: Lab, capsys: pytest.CaptureFixture[str], experiment: dict[str, object], message: str
) -> None:
    lab.write(**experiment)
    assert lab.run() == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert sorted(os.listdir(lab.folder)) == ["lab.json"]


@pytest.mark.parametrize("name", ["../lab", "/etc/passwd", "", ".", "a/b", "no-such-experiment", "-x.json", "no.json"])
def test_a_hostile_or_unknown_experiment_is_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    from ovis.experiments.cli.manager import main

    assert main([f"--exp={name}", "--dry_run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dry_run_writes_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"], parameters=SEEDS)
    assert lab.run("--dry_run") == 0
    shown = capsys.readouterr().out
    assert "3 runs: 3 new, 0 known, 0 duplicate" in shown
    assert "on cpu: 2 runs at once" in shown
    assert sorted(os.listdir(lab.folder)) == ["lab.json"]


def test_a_plan_estimates_its_time_by_the_runs_that_are_done(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"], parameters=SEEDS)
    assert lab.run("--max_jobs", "1") == 1
    rows = json.loads(lab.paths.ledger.read_text())
    for row in rows["runs"].values():
        if row["state"] == "done":
            row["ended"] = row["started"] + 90.0
    lab.paths.ledger.write_text(json.dumps(rows))
    capsys.readouterr()
    assert lab.run("--dry_run", "--processes", "1") == 0
    assert "1 run at once, about 03:00 in all, judging by 1 run" in capsys.readouterr().out


def test_a_dry_run_deletes_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    lab.run()
    before = lab.paths.ledger.read_bytes()
    assert lab.run("--rf", "--dry_run") == 0
    assert lab.runs()[0].name in capsys.readouterr().out
    assert lab.paths.ledger.read_bytes() == before
    assert lab.runs()[0].success.exists()


def test_starting_from_scratch(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"], parameters=SEEDS)
    assert lab.run("--max_jobs", "1") == 1
    assert lab.counts() == {"done": 1, "queued": 2}
    capsys.readouterr()
    assert lab.run("--rf", "--yes") == 0
    assert all(run.name in capsys.readouterr().out for run in lab.runs()[:1])
    assert list(lab.journal().values()) == [["start at 0 in 1", "done in 1"]] * 3


def test_deleting_asks_on_a_terminal(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    lab.run()
    mark = lab.runs()[0].folder / "mark"
    mark.touch()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    answers = iter(["n", "", EOFError(), "y"])  # the third is Ctrl-D

    def read(prompt: str) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", read)
    for _ in range(3):
        assert lab.run("--rf") == 1
        assert mark.exists()
    assert lab.run("--rf") == 0
    assert not mark.exists()


def test_nothing_is_deleted_where_nobody_can_be_asked(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    lab.run()
    (lab.runs()[0].folder / "mark").touch()
    capsys.readouterr()
    assert lab.run("--rf") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--rf deletes 1 run" in line
    assert "--yes" in line
    assert (lab.runs()[0].folder / "mark").exists()


def test_runs_no_longer_in_the_file_are_left_alone(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2 --lr 1"])
    assert lab.run("--max_jobs", "1") == 0
    lab.write(args=["--estimator vimco --iw 2 --lr 2", "--id fail --lr 2"])
    assert lab.run("--max_jobs", "1", "--update_exp") == 1
    lab.write(args=["--estimator vimco --iw 2 --lr 3"])
    assert lab.run("--update_exp") == 0
    assert lab.counts() == {"done": 3, "queued": 1}
    assert "left alone: 3 runs of its queue" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_manager_takes_its_jobs_along_and_a_restart_converges(lab: Lab) -> None:
    lab.write(args=WAITING)
    manager = lab.start()
    lab.wait_for_steps(3)
    manager.kill()
    manager.wait()
    lab.wait(lambda: not processes_of(lab.paths.folder))
    assert lab.counts() == {"running": 2, "queued": 1}
    assert lab.run() == 0
    resumed = ["start at 0 in 1", "start at 3 in 2", "done in 2"]
    assert sorted(lab.journal().values()) == [["start at 0 in 1", "done in 1"], resumed, resumed]
    assert [record.lost for record in lab.records()] == [0, 0, 0]


@pytest.mark.parametrize(
    "numbers",
    slow_except([["SIGINT"]], [["SIGINT"], ["SIGTERM"], ["SIGHUP", "SIGTERM"]]),
    ids=["ctrl-c", "kill", "logout"],
)
def test_a_stop_lets_the_runs_checkpoint_and_puts_them_back(lab: Lab, numbers: list[str]) -> None:
    lab.write(args=WAITING)
    manager = lab.start()
    lab.wait_for_steps(3)
    for number in numbers:
        manager.send_signal(signal.Signals[number])
    shown = manager.communicate(timeout=10)[0]
    assert manager.returncode == 130
    assert "stopping, 2 runs under way" in shown
    assert lab.counts() == {"queued": 3}
    assert list(lab.journal().values()) == [["start at 0 in 1", "stopped in 1"]] * 2 + [[]]
    assert [record.lost + record.failures for record in lab.records()] == [0, 0, 0]
    assert lab.run() == 0
    resumed = ["start at 0 in 1", "stopped in 1", "start at 3 in 2", "done in 2"]
    assert list(lab.journal().values()) == [resumed, resumed, ["start at 0 in 1", "done in 1"]]


@pytest.mark.slow
def test_a_second_stop_kills(lab: Lab) -> None:
    lab.write(args=["--id stubborn"], **{"global": "--nsteps 100000"}, parameters=SEEDS)
    manager = lab.start()
    lab.wait_for_steps(3)
    manager.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        manager.wait(0.7)
    manager.send_signal(signal.SIGINT)
    manager.communicate(timeout=10)
    assert manager.returncode == 130
    lab.wait(lambda: not processes_of(lab.paths.folder))
    assert lab.counts() == {"queued": 3}
    assert [record.lost for record in lab.records()] == [0, 0, 0]


@pytest.mark.slow
def test_two_managers_share_an_experiment(lab: Lab) -> None:
    lab.write(args=[""], parameters={"seed": list(range(8))})
    both = [lab.start(), lab.start()]
    for manager in both:
        manager.communicate(timeout=30)
    assert [manager.returncode for manager in both] == [0, 0]
    assert lab.counts() == {"done": 8}
    assert list(lab.journal().values()) == [["start at 0 in 1", "done in 1"]] * 8


@pytest.mark.slow
def test_an_unwritable_queue_is_one_line_and_stops_the_runs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write(args=["--nsteps 120", "--id wait", "--id stubborn --nsteps 100000"])
    monkeypatch.setattr("ovis.experiments.runner.manager.GRACE", 0.5)
    real, ledger = os.fsync, lab.paths.ledger

    def fsync(handle: int) -> None:
        if ledger.exists() and ledger.read_text().count('"running"') == 3:
            raise OSError(errno.EFBIG, "File too large")  # no error that may pass
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert lab.run("--processes", "3") == 2
    monkeypatch.undo()
    assert "can't write the queue" in capsys.readouterr().err.splitlines()[-1]
    lab.wait(lambda: not processes_of(lab.paths.folder))
    assert lab.counts() == {"running": 3}
    (waited,) = [lines for name, lines in lab.journal().items() if name.startswith("wait")]
    assert waited == ["start at 0 in 1", "stopped in 1"]


class Recorder:
    """A display that only listens."""

    def __init__(self) -> None:
        self.views: list[ProgressView] = []

    def show(self, view: ProgressView) -> None:
        self.views.append(view)

    def print(self, line: str) -> None:
        raise AssertionError(line)

    def close(self) -> None:
        self.views.append(self.views[-1])


@pytest.mark.slow
def test_a_resumed_run_carries_over_what_it_had_done(lab: Lab) -> None:
    runs = load_experiment(lab.write(args=["--nsteps 100 --id wait"])).runs
    lab.queue.add([run.record() for run in runs])
    process = lab.start("--processes", "1")
    folder = lab.paths.run(runs[0].identity.name).folder
    lab.wait(lambda: (folder / "progress.json").exists())
    lab.wait(lambda: json.loads((folder / "progress.json").read_text())["step"] == 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    display = Recorder()
    engine = LocalEngine(DeviceSource([Device("cpu", "cpu")]), 1)
    template = JobSpec(lab.paths.folder, "", 0, command=STUB)
    assert run_experiment(runs, lab.queue, engine, display, template).complete
    assert any(view.completed - view.carried > 0.1 for view in display.views if view.running)
    assert display.views[-1].completed == 1.0
    assert display.views[-1].carried == pytest.approx(0.03)


def test_runs_are_spread_over_devices_and_bounded_in_threads(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovis.experiments.runner.engines.local.cores", lambda: 13)
    runs = load_experiment(lab.write(args=["--nsteps 40"], parameters={"seed": [1, 2]})).runs
    queue = Queue(lab.paths, Policy())
    queue.add([run.record() for run in runs])
    devices = [Device(f"cuda:{n}", "cuda", {"CUDA_VISIBLE_DEVICES": f"GPU-{n}"}) for n in (0, 1)]
    display = Recorder()
    template = JobSpec(queue.paths.folder, "", 0, command=STUB)
    assert run_experiment(runs, queue, LocalEngine(DeviceSource(devices), 2), display, template).complete
    calls = [json.loads((run.folder / "call.json").read_text()) for run in lab.runs()]
    assert sorted(call["env"]["CUDA_VISIBLE_DEVICES"] for call in calls) == ["GPU-0", "GPU-1"]
    assert {call["env"][name] for call in calls for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"3"}
    assert all('"device": "cuda"' in call["argv"][2] for call in calls)
    assert sorted(record.device for record in lab.records()) == ["cuda:0", "cuda:1"]


@pytest.mark.slow
def test_progress_moves_within_runs_and_by_their_length(lab: Lab) -> None:
    runs = load_experiment(lab.write(args=["--nsteps 150", "--nsteps 50"])).runs
    queue = lab.queue
    queue.add([run.record() for run in runs])
    display = Recorder()
    template = JobSpec(queue.paths.folder, "", 0, command=STUB)
    engine = LocalEngine(DeviceSource([Device("cpu", "cpu")]), 2)
    assert run_experiment(runs, queue, engine, display, template).complete
    completed = [view.completed for view in display.views]
    assert completed[0] == 0.0
    assert completed[-1] == pytest.approx(2.0)
    assert completed == sorted(completed)
    assert len(set(completed)) > 4
    both = [view for view in display.views if len(view.running) == 2 and all(run.progress for run in view.running)]
    assert both
    for view in both:
        parts = [run.progress for run in view.running if run.progress]
        assert view.completed == pytest.approx(sum({150: 1.5, 50: 0.5}[p.nsteps] * p.fraction for p in parts))


@pytest.mark.parametrize(
    "option", [["--processes", "0"], ["--max_jobs", "x"], ["--rf", "--resume"], ["--prozesses", "2"]]
)
def test_bad_options_are_refused(lab: Lab, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[""])
    with pytest.raises(SystemExit) as caught:
        lab.run(*option)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option[0] in line


def test_a_root_that_cannot_be_written_is_one_line(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[""])
    Path(lab.folder / "runs").write_text("a file")
    assert lab.run() == 2
    assert capsys.readouterr().err.count("\n") == 1
