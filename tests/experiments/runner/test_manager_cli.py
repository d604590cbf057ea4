"""What manager.py shows on a terminal, and its report."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from laboratory import Lab
from rich.text import Text

from ovis.experiments.cli import commands
from ovis.experiments.cli import manager as module
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import Result
from ovis.experiments.runs.status import State
from ovis.experiments.studies import STUDIES

SEEDS = {"seed": [1, 2, 3]}


def on_a_terminal(lab: Lab, columns: int) -> str:
    """What the manager shows on a terminal of this width, up to its end."""
    terminal, child = pty.openpty()
    subprocess.run(["stty", "rows", "40", "cols", str(columns)], stdin=child, check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["TERM"] = "xterm"
    with subprocess.Popen(lab.command(), stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        shown = b""
        try:
            while chunk := os.read(terminal, 65536):
                shown += chunk
        except OSError:  # how Linux says that the other side is closed
            pass
    os.close(terminal)
    assert process.returncode == 0
    return Text.from_ansi(shown.decode().replace("\r", "\n")).plain


def test_a_terminal_shows_a_bar_and_the_running_runs(lab: Lab) -> None:
    lab.write(args=[""], **{"global": "--nsteps 40"}, parameters=SEEDS)
    text = on_a_terminal(lab, 150)
    assert re.search(r"\[00:0\d\] ━+ \d+% of 3 runs", text)
    assert "1 queued, 2 running" in text
    assert "3 done" in text
    assert re.search(r"device  step +loss +time +left +run", text)
    assert re.search(r"cpu +\d+/40 +[\d.]+ +00:0\d", text)


@pytest.mark.slow
def test_a_narrow_terminal_shows_the_progress_of_a_run_with_a_long_name(lab: Lab) -> None:
    lab.write(args=["--id " + "x" * 60], **{"global": "--nsteps 40"}, parameters={"seed": [1]})
    rows = re.findall(r"cpu +\d+/40 .*", on_a_terminal(lab, 70))
    assert rows
    for row in rows:
        assert re.fullmatch(r"cpu +\d+/40 +[\d.]+ +00:0\d +(00:\d\d)? +\.{3}\S+-seed1 *", row)  # only the name is cut
        assert len(row) <= 70


def test_jobs_know_their_folder_wherever_they_are_started(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--root runs/``, the default, is of the manager's directory; a cluster starts jobs in any other."""
    folders: list[Path] = []

    def run(runs: object, queue: object, engine: object, display: object, template: JobSpec, *limits: object) -> Result:
        folders.append(template.folder)
        return Result({State.DONE: 1}, [], 0, False)

    monkeypatch.setattr(module, "run_experiment", run)
    monkeypatch.chdir(lab.folder)
    lab.write(args=[""])
    module.main(["--exp", "lab.json", "--root", "runs/", "--device", "cpu"])
    assert folders == [lab.folder / "runs" / "lab"]


def test_one_run_is_no_plural(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[""])
    assert lab.run("--dry_run", "--processes", "1") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{lab.paths.folder}: 1 run: 1 new, 0 known, 0 duplicate",
        "on cpu: 1 run at once",
    ]


class ReportCalls(list[list[str]]):
    """The command lines of reports, which are not drawn."""

    def __init__(self, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()

        def run(words: list[str]) -> subprocess.CompletedProcess[str]:
            assert words[:3] == [sys.executable, "-c", module.REPORT]
            self.append(words[3:])
            return subprocess.CompletedProcess(words, code)

        fake = types.SimpleNamespace(run=run)
        monkeypatch.setattr(module, "subprocess", fake)


def test_the_report_is_drawn_when_all_is_done(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = ReportCalls(5, monkeypatch)
    lab.write(args=["", "--seed 2"])
    assert lab.run("--report", "--max_jobs", "1") == 1
    assert calls == []
    assert lab.run("--report") == 5
    snapshot = lab.queue.snapshot()
    assert snapshot is not None
    code = str(lab.paths.snapshot(snapshot.id))
    assert calls == [[code, "report", "--exp", "lab", "--root", str(lab.folder / "runs")]]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_report_of_its_own(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {study: commands.COMMANDS[row.report].module for study, row in STUDIES.items()}
    assert len(set(modules.values())) == len(modules) == 2
    calls = ReportCalls(7, monkeypatch)
    lab.write(script=name, args=[""])
    assert lab.run("--report") == 7
    assert [words[1] for words in calls] == [STUDIES[name].report]


def test_a_report_that_cannot_be_drawn_is_refused_before_anything_is_queued(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(commands.PACKAGES, "report", ("ovis_has_no_such_package", "sys", "ovis_nor_this"))
    lab.write(args=[""])
    assert lab.run("--report") == 2
    line = "manager.py: --report needs ovis_has_no_such_package, ovis_nor_this: pip install 'ovis[report]'\n"
    assert capsys.readouterr().err == line
    assert os.listdir(lab.folder) == ["lab.json"]


@pytest.mark.slow
def test_of_many_failures_the_first_are_named_again_at_the_end(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--id fail"], parameters={"seed": list(range(13))})
    assert lab.run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  failed: ") for line in lines) == 10
    command = f"python dbutils.py --exp lab --root {lab.folder / 'runs'}"
    assert lines[-2:] == [f"  and 3 more failed: {command}", f"put them back with: {command} --requeue_level 2"]


@pytest.mark.slow
def test_a_reader_that_leaves_stops_nothing(lab: Lab) -> None:
    """``manager.py 2>&1 | head``, or ``tee`` at Ctrl-C."""
    lab.write(args=[""], **{"global": "--nsteps 40"}, parameters=SEEDS)
    process = lab.start()
    reader, process.stdout = process.stdout, None
    assert reader is not None
    with reader:
        for _ in range(2):  # the plan
            assert reader.readline()
    assert process.wait(60) == 0
    assert lab.counts() == {"done": 3}
