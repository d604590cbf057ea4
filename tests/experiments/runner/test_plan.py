"""A sweep goes on with the runs and the code it was queued with, unless an option says otherwise."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from laboratory import Lab
from slow_cases import slow_except

import ovis
from ovis.experiments.runner import plan as plan_module
from ovis.experiments.runner.plan import make_plan, start_plan
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.snapshot import live_package
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import Record, State

SEEDS = {"seed": [1, 2, 3]}
VIMCO = "--estimator vimco --iw 2"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- the experiment file


@pytest.mark.parametrize(
    ("args", "seeds", "counts"),
    [
        ([VIMCO, "--estimator rws"], [1, 2], "2 runs more, 1 fewer"),
        ([VIMCO], [1, 2, 3, 4], "1 run more"),
        ([VIMCO], [2], "2 runs fewer"),
    ],
)
def test_a_changed_file_is_not_taken_by_itself(
    lab: Lab, capsys: pytest.CaptureFixture[str], args: list[str], seeds: list[int], counts: str
) -> None:
    lab.write(args=[VIMCO], parameters=SEEDS)
    assert lab.run("--max_jobs", "1") == 1
    path = lab.write(args=args, parameters={"seed": seeds})
    before = contents(lab.folder)
    capsys.readouterr()
    for option in ((), ("--dry_run",), ("--update_lib",)):
        assert lab.run(*option) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err == (
            f"manager.py: {path} has changed since this sweep was queued ({counts}): "
            f"--update_exp takes the change, --resume goes on with the sweep as it was\n"
        )
        assert contents(lab.folder) == before


def test_the_change_is_taken_on_request(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[VIMCO], parameters=SEEDS)
    assert lab.run("--max_jobs", "1") == 1
    path = lab.write(args=[VIMCO], parameters={"seed": [3, 4]})
    before = contents(lab.folder)
    assert lab.run("--update_exp", "--dry_run") == 0
    assert "2 runs: 1 new, 1 known (1 queued)" in capsys.readouterr().out
    assert contents(lab.folder) == before
    assert lab.run("--update_exp") == 0
    assert lab.counts() == {"done": 3, "queued": 1}  # the first run, those of the file, and one that is left alone
    assert lab.paths.experiment.read_text() == path.read_text()
    assert lab.run() == 0  # it is what the sweep is now


def test_a_resumed_sweep_goes_on_as_it_was(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[VIMCO], parameters=SEEDS)
    assert lab.run("--max_jobs", "1") == 1
    kept = lab.paths.experiment.read_bytes()
    path = lab.write(args=[VIMCO], parameters={"seed": [3, 4]})
    capsys.readouterr()
    assert lab.run("--resume") == 0
    assert f"goes on with the sweep as it was queued: {path} has changed since" in capsys.readouterr().out
    assert lab.counts() == {"done": 3}
    assert lab.paths.experiment.read_bytes() == kept
    assert lab.run() == 2  # the change is still to be decided upon
    path.write_text("{ half edi")
    assert lab.run("--resume") == 0


def test_resume_and_update_exp_contradict_each_other(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[VIMCO])
    with pytest.raises(SystemExit) as left:
        lab.run("--resume", "--update_exp")
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "manager.py: --resume goes on with the sweep as queued, --update_exp takes the file as it is now: give one\n"
    )
    assert not lab.paths.ledger.exists()


def test_a_byte_order_mark_in_the_experiment_file_is_accepted(lab: Lab) -> None:
    path = lab.write(args=[VIMCO])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    start_plan(make_plan(path, lab.queue), lab.queue)
    assert lab.counts() == {"queued": 1}
    assert make_plan(path, lab.queue, resume=True).notes == ()


def test_a_change_that_changes_no_run_is_taken(lab: Lab) -> None:
    lab.write(args=[VIMCO], parameters=SEEDS)
    assert lab.run() == 0
    path = lab.write(description="the same", args=["--iw 2 --estimator vimco"], parameters={"seed": [3, 2, 1]})
    assert lab.run() == 0
    assert lab.counts() == {"done": 3}
    assert lab.paths.experiment.read_text() == path.read_text()


def test_a_queue_without_a_copy_of_the_experiment_file_gets_one(lab: Lab) -> None:
    lab.write(args=[VIMCO])
    assert lab.run() == 0
    lab.paths.experiment.unlink()
    path = lab.write(args=[VIMCO, "--estimator rws"])
    assert lab.run() == 0
    assert lab.paths.experiment.read_text() == path.read_text()


def test_the_copy_counts_where_the_ledger_was_lost(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[VIMCO], parameters=SEEDS)
    assert lab.run() == 0
    lab.paths.ledger.unlink()
    lab.write(args=["--estimator rws"])
    assert lab.run() == 2
    assert "(1 run more, 3 fewer)" in capsys.readouterr().err
    assert not lab.paths.ledger.exists()


@pytest.mark.slow
def test_a_kill_before_the_copy_is_kept_converges(lab: Lab) -> None:
    path = lab.write(args=[VIMCO], parameters=SEEDS)
    manager = lab.start(OVIS_FAILPOINT="plan.queued")
    manager.communicate(timeout=30)
    assert manager.returncode == -signal.SIGKILL
    assert lab.counts() == {"queued": 3}
    assert not lab.paths.experiment.exists()
    assert lab.run() == 0
    assert lab.counts() == {"done": 3}
    assert lab.paths.experiment.read_text() == path.read_text()


@pytest.mark.slow
def test_starting_from_scratch_takes_the_file(lab: Lab) -> None:
    lab.write(args=[VIMCO], parameters=SEEDS)
    assert lab.run() == 0
    path = lab.write(args=["--estimator rws"])
    assert lab.run("--rf", "--yes") == 0
    assert lab.counts() == {"done": 1}
    assert lab.paths.experiment.read_text() == path.read_text()


@pytest.mark.parametrize("content", slow_except(["{}}"], ["", "{}}", '{"args": ["--no_such_option 3"]}', "\udcff"]))
def test_a_broken_copy_is_one_line(lab: Lab, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = lab.write(args=[VIMCO])
    assert lab.run() == 0
    lab.paths.experiment.write_bytes(content.encode(errors="surrogateescape"))
    before = contents(lab.folder)
    capsys.readouterr()
    for option in ((), ("--resume",)):
        assert lab.run(*option) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        assert str(lab.paths.experiment) in shown
        assert f"--update_exp takes {path}" in shown
        assert contents(lab.folder) == before
    assert lab.run("--update_exp") == 0


# -- the code. A clone of the package is the code at hand, and its training only reports where it runs.

TRAINING = """
import json, os, sys
from pathlib import Path
import ovis
import ovis.experiments.settings

CODE = "first"
run = Path(next(word for word in sys.argv if word.startswith("--run_dir=")).partition("=")[2])
module = ovis.experiments.settings.__file__
report = {"code": CODE, "ovis": ovis.__file__, "settings": module, "cwd": os.getcwd(), "argv": sys.argv}
with (run / "reports.jsonl").open("a") as file:
    file.write(json.dumps(report) + "\\n")
raise SystemExit(3 if '"id": "half"' in sys.argv[-1] and "--attempt=1" in sys.argv else 0)
"""

MANAGER = "from ovis.experiments.cli.manager import main; raise SystemExit(main())"


@dataclass
class Clone:
    """A clone of the package in a folder that is the user's, and an experiment."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def package(self) -> Path:
        return self.folder / "ovis"

    @property
    def queue(self) -> Queue:
        return Queue(ExperimentPaths(self.folder / "runs" / "lab"))

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.package / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def write(self, **experiment: Any) -> None:
        (self.folder / "lab.json").write_text(json.dumps(experiment))

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """This clone's ``manager.py``."""
        command = [sys.executable, "-c", MANAGER, "--exp", "lab.json", "--device", "cpu", "--processes", "1", *words]
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        manager = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**variables, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(manager)
        return manager

    def run(self, *words: str, **environment: str) -> str:
        """The output of this clone's ``manager.py``, when it has ended."""
        return self.start(*words, **environment).communicate(timeout=120)[0]

    def reports(self) -> list[dict[str, Any]]:
        """The reports of the trainings, in the order of their attempts."""
        records = sorted(self.queue.read(), key=lambda record: record.started)
        files = [self.queue.paths.run(record.name).folder / "reports.jsonl" for record in records]
        return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]

    def records(self) -> list[Record]:
        return self.queue.read()


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    clone = Clone(tmp_path / "clone")
    shutil.copytree(live_package(), clone.package, ignore=shutil.ignore_patterns("__pycache__"))
    (clone.package / "experiments" / "cli" / "train.py").write_text(TRAINING)
    yield clone
    for process in clone.processes:
        process.kill()
        process.communicate()


def test_a_training_runs_on_the_code_as_it_was_queued(clone: Clone) -> None:
    clone.write(args=[""], parameters=SEEDS)
    assert "differs" not in clone.run("--max_jobs", "1")
    clone.edit("experiments/cli/train.py", '"first"', '"second"')
    (clone.package / "functional" / "stray.py").write_text("")
    output = clone.run("--max_jobs", "1")
    (line,) = [line for line in output.splitlines() if "code" in line]
    assert line.startswith("runs on the code as of 20")
    assert line.endswith(f"(version {ovis.__version__}); it differs from the code here: --update_lib takes that")
    first, second = clone.reports()
    snapshot = clone.queue.snapshot()
    assert snapshot is not None
    folder = clone.queue.paths.snapshot(snapshot.id)
    for report in (first, second):
        assert report["code"] == "first"
        assert report["ovis"] == str(folder / "ovis" / "__init__.py")
        assert report["settings"] == str(folder / "ovis" / "experiments" / "settings.py")
        assert report["cwd"] == str(folder)
    assert [record.snapshot for record in clone.records()] == [snapshot.id, snapshot.id, ""]


HELD = """
import time
while not (run.parent / "go").exists():
    time.sleep(0.02)
"""

REPORT = """
def main(argv):
    print("report of", *argv)
    return 5
"""


def test_code_that_is_edited_during_a_sweep_is_used_by_nothing(clone: Clone) -> None:
    """Neither by the jobs, nor by their trainings, nor by the report, nor by the manager that is running."""
    training = clone.package / "experiments" / "cli" / "train.py"
    training.write_text(TRAINING.replace("raise", HELD + "raise", 1))
    (clone.package / "experiments" / "cli" / "report.py").write_text(REPORT)
    clone.write(args=[""], parameters=SEEDS)
    manager = clone.start("--report", "--root", "my runs", PYTHONPATH=str(clone.folder))
    while not list(clone.folder.glob("my runs/lab/*/reports.jsonl")):
        assert manager.poll() is None
        time.sleep(0.02)
    for path in clone.package.rglob("*.py"):
        path.write_text("def half_typed(")
    (clone.folder / "my runs" / "lab" / "go").touch()
    output, _ = manager.communicate(timeout=60)
    assert (manager.returncode, output.splitlines()[-1]) == (5, "report of --exp lab --root my runs"), output
    assert "3 done" in output
    assert "put back" not in output


@pytest.mark.slow
def test_a_python_path_and_safe_paths_change_nothing(clone: Clone) -> None:
    clone.write(args=[""], parameters=SEEDS)
    clone.run("--max_jobs", "1")
    clone.edit("experiments/cli/train.py", '"first"', '"second"')
    clone.run("--max_jobs", "1", PYTHONPATH=f"{clone.folder}:{live_package().parent}")
    clone.run("--max_jobs", "1", PYTHONPATH=str(clone.folder), PYTHONSAFEPATH="1")
    assert [report["code"] for report in clone.reports()] == ["first"] * 3


@pytest.mark.slow
def test_the_code_at_hand_is_taken_on_request(clone: Clone) -> None:
    clone.write(args=["--id half", ""])
    clone.run("--max_jobs", "1")
    assert clone.records()[0].state is State.QUEUED
    clone.edit("experiments/cli/train.py", '"first"', '"second"')
    planned = clone.run("--update_lib", "--dry_run")
    output = clone.run("--update_lib")
    for text in (planned, output):
        assert "attempts start on the code here from now on, those of half-trained runs too; so far: as of 20" in text
    half = clone.queue.paths.run(clone.records()[0].name).folder / "reports.jsonl"
    assert [json.loads(line)["code"] for line in half.read_text().splitlines()] == ["first", "second"]
    rows = clone.queue.ledger.read("snapshots")
    assert len(rows) == 2
    assert {record.snapshot for record in clone.records()} == {rows[-1]["id"]}
    assert "the code here is the code that this sweep runs on already" in clone.run("--update_lib")
    assert [row["id"] for row in clone.queue.ledger.read("snapshots")] == [rows[-1]["id"]]  # nothing runs on the first


@pytest.mark.slow
def test_a_dry_run_with_other_code_writes_nothing(clone: Clone) -> None:
    clone.write(args=[""])
    clone.run()
    clone.edit("experiments/cli/train.py", '"first"', '"second"')
    before = contents(clone.folder / "runs")
    assert "it differs from the code here" in clone.run("--dry_run")
    assert "attempts start on the code here" in clone.run("--update_lib", "--dry_run")
    assert "--rf deletes 1 run" in clone.run("--rf", "--dry_run")
    assert contents(clone.folder / "runs") == before


@pytest.mark.parametrize(
    ("args", "words", "expected"),
    [
        ("", [], "data"),
        pytest.param("--data_root in_the_file", [], "in_the_file", marks=pytest.mark.slow),
        ("--data_root in_the_file", ["--data_root", "../elsewhere"], "../elsewhere"),
        pytest.param("", ["--data_root", "/absolute"], "/absolute", marks=pytest.mark.slow),
    ],
)
def test_relative_folders_are_relative_to_the_working_directory(
    clone: Clone, args: str, words: list[str], expected: str
) -> None:
    clone.write(args=[args])
    clone.run("--root", "my/runs", *words)
    (file,) = (clone.folder / "my" / "runs" / "lab").glob("*/reports.jsonl")
    argv = json.loads(file.read_text())["argv"]
    settings = json.loads(argv[-1].removeprefix("--settings="))
    assert settings["data_root"] == os.path.abspath(clone.folder / expected)
    assert settings["root"] == str(clone.folder / "my" / "runs")
    assert f"--run_dir={file.parent}" in argv


@pytest.mark.slow
def test_runs_that_mean_something_else_to_the_snapshot_are_refused(clone: Clone) -> None:
    clone.write(args=[""], parameters={"lr": [0.5]})
    clone.run()
    default = plan_module.option_defaults("train")["lr"]
    path = clone.package / "experiments" / "settings.py"
    path.write_text(re.sub(r"    lr: float = option\([^,]+,", "    lr: float = option(0.25,", path.read_text()))
    assert "1 done" in clone.run()  # nothing is added
    clone.write(args=[""], parameters={"lr": [0.5, 0.25]})
    before = contents(clone.folder / "runs")
    line = (
        f"manager.py: --lr is 0.25 by default here, and {default} in the code that this sweep runs on: "
        f"1 run can't be added without --update_lib\n"
    )
    assert clone.run("--update_exp") == line
    assert contents(clone.folder / "runs") == before
    assert "2 done" in clone.run("--update_exp", "--update_lib")


@pytest.mark.parametrize(("script", "iw"), [("train", 1), ("asymptotic", 1000)])
def test_the_defaults_in_the_ledger_are_those_of_the_study(lab: Lab, script: str, iw: int) -> None:
    lab.write(script=script, args=["--seed 2"])
    assert lab.run() == 0
    snapshot = lab.queue.snapshot()
    assert snapshot is not None
    assert snapshot.defaults["iw"] == iw


QUEUE = """
from pathlib import Path
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.plan import start_plan, make_plan
queue = Queue(ExperimentPaths(Path("runs/lab")))
start_plan(make_plan(Path("lab.json"), queue), queue)
"""


@pytest.mark.slow
def test_the_real_training_runs_on_its_snapshot(clone: Clone) -> None:
    """The package breaks after the run was queued; the run does not notice."""
    shutil.copy(live_package() / "experiments" / "cli" / "train.py", clone.package / "experiments" / "cli" / "train.py")
    clone.edit("__init__.py", f'__version__ = "{ovis.__version__}"', '__version__ = "7.7.7"')
    options = "--estimator vimco --iw 2 --nsteps 2 --mini --max_eval 8 --iw_valid 2 --iw_test 2 --grad_samples 0"
    clone.write(args=[options])
    subprocess.run([sys.executable, "-c", QUEUE], cwd=clone.folder, check=True)
    clone.edit("__init__.py", '"7.7.7"', '"8.8.8"')
    (clone.package / "experiments" / "training" / "build.py").write_text("raise ImportError('half edited')\n")
    output = clone.run()
    assert "(version 7.7.7); it differs" in output
    assert "1 done" in output, output
    (record,) = clone.records()
    assert json.loads(clone.queue.paths.run(record.name).config.read_text())["version"] == "7.7.7"
