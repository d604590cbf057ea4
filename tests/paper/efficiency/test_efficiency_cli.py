"""measure_efficiency.py from its command line to its files, with a fake measurement: resume, limits."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import ovis.paper.efficiency.cost_measurement as efficiency
from ovis.paper.efficiency.cost_measurement import EPOCH_STEPS, Cost, Point
from ovis.paper.efficiency.cost_tables import read_points
from ovis.paper.efficiency.efficiency_cli import main
from ovis.paper.efficiency.isolated_process import CallResult


class Fake:
    """Measures nothing: memory 2 K MB, a step K milliseconds."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.instead: Callable[[Point], CallResult | None] = lambda point: None

    def __call__(self, point: Point, device: str) -> CallResult:
        self.asked.append((point.estimator, point.iw, point.seed))
        cost = Cost(2e6 * point.iw, 1e-3 * point.iw, "synthetic")
        return self.instead(point) or CallResult("ok", value=cost)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    measure = Fake()
    monkeypatch.setattr(efficiency, "measure_apart", measure)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the lock is
    return measure


def run(*words: str) -> int:
    return main(["--device=cpu", "--estimators=ovis-gamma1,vimco", "--iw=10,79", "--runs=2", *words])


FOLDER = Path("reports/efficiency")
ALL = [(name, k, seed) for seed in (1, 2) for name in ("ovis-gamma1", "vimco-arithmetic") for k in (10, 79)]


def test_files_and_printed_lines(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert fake.asked == ALL
    names = [f"efficiency_cpu.{suffix}" for suffix in ("csv", "pdf", "png", "txt")]
    names = ["claims.csv", *names, "index.html", "points.jsonl"]
    assert sorted(path.name for path in FOLDER.iterdir()) == names
    printed = capsys.readouterr().out
    assert printed.startswith("on cpu: ")
    assert "0 of 8 points are measured\nmeasuring 8 more, each in a process of its own: about " in printed
    assert "random images of the same shape" in printed
    assert printed.endswith(f"{FOLDER}/efficiency_cpu.png\n{FOLDER}/index.html\n")
    assert "HOLDS  " in printed
    costs = pd.read_csv(FOLDER / "efficiency_cpu.csv").set_index(["measure", "estimator", "iw"])
    assert costs.loc[("memory_mb", "ovis-gamma1", 79), "mean"] == pytest.approx(158.0)
    assert costs.loc[("epoch_s", "vimco-arithmetic", 10), "mean"] == pytest.approx(0.01 * EPOCH_STEPS)
    assert (costs["runs"] == 2).all()


@pytest.mark.usefixtures("saved")
def test_the_page_says_what_was_run_and_where(fake: Fake) -> None:
    assert run() == 0
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert "python measure_efficiency.py --device=cpu --estimators=ovis-gamma1,vimco --iw=10,79 --runs=2" in page
    for words in ("<dt>PyTorch</dt>", "<dt>Python</dt>", "<dt>ovis</dt>", "<dt>device</dt>", "synthetic, "):
        assert words in page
    rows = dict(re.findall(r'<th scope="row">(\w+)</th><td>([^<]*)</td>', page))
    assert rows["iw"] == "10, 79"
    assert rows["estimator"] == "ovis-gamma1, vimco-arithmetic"
    assert "mean of 2 repetitions on cpu" in page


@pytest.mark.usefixtures("saved")
def test_two_devices_do_not_overwrite_each_other(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """Points of a GPU, brought here: the page and the claims hold both devices, each under its name."""
    assert run() == 0
    path = FOLDER / "points.jsonl"
    here = [json.loads(line) for line in path.read_text().splitlines()]
    there = [{**point, "device": "cuda: a GPU", "memory_mb": 3.0 * point["iw"]} for point in here]
    with path.open("a") as file:
        file.writelines(json.dumps(point) + "\n" for point in there)
    capsys.readouterr()
    assert run() == 0
    assert {"efficiency_cpu.png", "efficiency_cuda.png", "efficiency_cuda.csv"} <= {p.name for p in FOLDER.iterdir()}
    claims = pd.read_csv(FOLDER / "claims.csv")
    assert claims.groupby("id")["subject"].agg(list).tolist() == [["cpu", "cuda"]] * claims["id"].nunique()
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2
    assert "mean of 2 repetitions on cuda: a GPU" in page
    printed = capsys.readouterr().out
    assert "cuda" not in printed.replace("claims.csv", "")  # only what was asked for is printed


@pytest.mark.usefixtures("saved")
def test_what_is_measured_is_not_measured_again(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    fake.asked.clear()
    assert run() == 0
    assert fake.asked == []
    assert run("--iw=10,19,79") == 0
    assert fake.asked == [(name, 19, seed) for seed in (1, 2) for name in ("ovis-gamma1", "vimco-arithmetic")]
    fake.asked.clear()
    assert run("--steps=7") == 0  # another measurement
    assert fake.asked == ALL


@pytest.mark.usefixtures("saved")
def test_stopped_and_started_again(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(point: Point) -> CallResult | None:
        if len(fake.asked) == 4:
            raise KeyboardInterrupt
        return None

    fake.instead = stop
    assert run() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(read_points(FOLDER / "points.jsonl")) == 3
    fake.instead = lambda point: None
    fake.asked.clear()
    assert run() == 0
    assert fake.asked == ALL[3:]
    assert "3 of 8 points are measured\nmeasuring 5 more" in capsys.readouterr().out


@pytest.mark.usefixtures("saved")
def test_out_of_memory_is_recorded_and_larger_k_are_left_out(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    beyond = CallResult("memory", "CUDA out of memory")
    fake.instead = lambda point: beyond if point.estimator == "vimco-arithmetic" and point.iw >= 79 else None
    assert run("--iw=10,79,158") == 0
    assert ("vimco-arithmetic", 79, 1) in fake.asked
    assert not {("vimco-arithmetic", 158, 1), ("vimco-arithmetic", 79, 2)} & set(fake.asked)
    assert ("vimco-arithmetic", 10, 2) in fake.asked
    captured = capsys.readouterr()
    assert "VIMCO out of memory from K = 79 on" in captured.out
    assert "vimco-arithmetic at K = 79: memory: CUDA out of memory" in captured.err
    points = read_points(FOLDER / "points.jsonl")
    assert list(points.loc[points["state"] == "memory", "iw"]) == [79]
    # It is not tried again.
    fake.asked.clear()
    assert run("--iw=10,79,158") == 0
    assert fake.asked == []


@pytest.mark.usefixtures("saved")
def test_a_failure_is_reported_and_tried_again(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.instead = lambda point: CallResult("failed", "ValueError: x") if point.iw == 79 else None
    assert run() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "report: 2 points failed, the first: ovis-gamma1 at K = 79: ValueError: x"
    assert (FOLDER / "efficiency_cpu.png").exists()
    fake.instead = lambda point: None
    assert run() == 0
    fake.instead = lambda point: CallResult("failed", "ValueError: x")
    assert run("--iw=5") == 1


def test_nothing_measured_is_one_line(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.instead = lambda point: CallResult("time", "too slow")
    assert run() == 1
    assert "nothing to draw" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in FOLDER.iterdir()] == ["points.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--estimators=vimko"], "did you mean 'vimco'"),
        (["--estimators=vimco", "--iw=1"], "at least 2"),
        (["--device=cuda:99"], "is not here"),
        (["--device=gpu"], "unknown device"),
    ],
)
def test_what_is_unknown_is_refused(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert fake.asked == []
    assert not Path("reports").exists()


@pytest.mark.parametrize("word", ["--iw=0", "--iw=a", "--steps=0", "--runs=-1", "--estimator=vimco"])
def test_the_command_line_is_refused_in_one_line(fake: Fake, capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit) as refused:
        run(word)
    assert refused.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_measurements_on_a_machine_do_not_run_at_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits, and measures what is missing then; another folder or device makes no difference."""
    began, go_on, at_work = threading.Event(), threading.Event(), []
    output = io.StringIO()  # capsys would lose what a thread prints while this one reads
    monkeypatch.setattr(sys, "stdout", output)

    def instead(point: Point) -> None:
        at_work.append(point)
        began.set()
        if threading.current_thread() is second:
            first.join()  # matplotlib must not draw both reports at once
        assert go_on.wait(20)
        assert len(at_work) == 1
        at_work.remove(point)

    fake.instead = instead
    codes: list[int] = []
    first = threading.Thread(target=lambda: codes.append(run("--output=first")))
    second = threading.Thread(target=lambda: codes.append(run("--output=second", "--runs=1")))
    first.start()
    assert began.wait(20)
    second.start()
    while "waiting" not in output.getvalue():
        assert second.is_alive()
        time.sleep(0.01)
    assert f"waiting for another measurement on this machine: process {os.getpid()} on " in output.getvalue()
    go_on.set()
    first.join()
    second.join()
    assert codes == [0, 0]
    assert fake.asked == ALL + ALL[:4]
