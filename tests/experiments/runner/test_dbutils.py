"""dbutils.py from its command line: what it shows of a queue, putting runs back, cancelling them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from filelock import FileLock
from laboratory import Lab, dead_owner, record
from queue_by_hand import KEYS, ME, settle, states

from ovis.experiments.cli.dbutils import main as dbutils
from ovis.experiments.runner import overview
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.process import new_owner
from ovis.experiments.runs.status import AttemptResult, Record


def test_failed_runs_can_be_put_back(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--id fail", "--estimator rws"])
    assert lab.run() == 1
    capsys.readouterr()
    assert lab.dbutils("--check") == 0
    text = capsys.readouterr().out
    assert "1 done, 1 failed\n" in text
    (failed,) = [run for run in lab.runs() if run.name.startswith("fail")]
    assert f"  {failed.name}\n          ValueError: the loss is not finite\n          {failed.log(1)}\n" in text
    assert all(run.name in text for run in lab.runs())
    assert lab.dbutils("--requeue_level", "1") == 0
    assert lab.counts() == {"done": 1, "failed": 1}
    assert lab.dbutils("--requeue_level", "2") == 0
    assert lab.counts() == {"done": 1, "queued": 1}
    capsys.readouterr()
    assert lab.dbutils("--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["queued"] == 1


def test_an_experiment_has_its_other_name_here_too(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.queue.add([record("a" * 12)])
    (lab.folder / "runs" / "lab").rename(lab.folder / "runs" / "asymptotic-analysis")
    root = str(lab.folder / "runs")
    assert dbutils(["--exp", "asymptotic-variance", "--root", root]) == 0
    assert "1 queued" in capsys.readouterr().out
    assert dbutils(["--exp", "asymptotic", "--root", root]) == 2
    assert "experiments in" in capsys.readouterr().err


def claim(lab: Lab, key: str, owner: str) -> Record:
    """A run that ``owner`` has claimed and not finished."""
    lab.queue.add([record(key)])
    (claimed,) = lab.queue.tick(owner, 1).claimed
    return claimed


def test_a_run_whose_manager_was_killed_does_not_look_alive(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    alive, orphan = claim(lab, "a" * 12, new_owner()), claim(lab, "b" * 12, dead_owner())
    before = lab.paths.ledger.read_bytes()
    with FileLock(lab.paths.lock):  # reading takes none
        assert lab.dbutils("--check") == 0
        shown = {line[:8]: line for line in capsys.readouterr().out.splitlines()}
        assert lab.dbutils("--json") == 0
    assert "running (its manager is gone)" in shown[orphan.key[:8]]
    assert "starting" in shown[alive.key[:8]]
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert {name: row["manager_gone"] for name, row in rows.items()} == {alive.name: False, orphan.name: True}
    assert {row["state"] for row in rows.values()} == {"running"}
    assert lab.paths.ledger.read_bytes() == before


#: level -> the runs it puts back, of those of the fixture below
LEVELS = {0: "", 1: "lost", 2: "lost failed", 100: "lost failed cancelled", 10_000: "lost failed cancelled done"}


@pytest.fixture
def mixed(queue: Queue) -> dict[str, str]:
    """A queue with a run in each state; their keys."""
    names = ("running", "done", "failed", "lost", "cancelled")
    runs = dict(zip(names, queue.tick(ME, len(names)).claimed, strict=True))
    settle(queue, runs["done"], AttemptResult.SUCCESS)
    settle(queue, runs["failed"], AttemptResult.EXCEPTION)
    with queue.ledger.transaction() as transaction:
        transaction.rows[runs["lost"].key].update(state="failed", reason="lost", lost=20)
        transaction.touch(runs["lost"].key)
    queue.cancel({runs["cancelled"].key})
    return {**{name: run.key for name, run in runs.items()}, "queued": KEYS[5]}


@pytest.mark.parametrize("level", LEVELS)
def test_levels(queue: Queue, lab: Lab, mixed: dict[str, str], level: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = states(queue)
    assert lab.dbutils("--requeue_level", str(level), "--json") == 0
    expected = {mixed[name] for name in LEVELS[level].split()}
    assert set(json.loads(capsys.readouterr().out)["changed"]) == expected
    assert states(queue) == {**before, **dict.fromkeys(expected, "queued")}
    assert states(queue)[mixed["running"]] == "running"  # at every level: what runs runs


def test_find_narrows_what_is_shown_and_put_back(
    queue: Queue, lab: Lab, mixed: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.dbutils("--requeue_level", "10000", "--find", f"VIMCO {mixed['failed']}") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("put back 1 run\n")
    assert "1 of 8 runs\n1 queued\n" in shown
    assert states(queue)[mixed["failed"]] == "queued"
    assert states(queue)[mixed["done"]] == "done"
    assert lab.dbutils("--find", "no such words") == 0
    assert capsys.readouterr().out == f"{queue.paths.folder}: 0 of 8 runs\n"
    assert lab.dbutils("--requeue_level", "10000", "--find", " ") == 2
    assert capsys.readouterr().err.startswith("dbutils.py: there is no word to find")
    assert states(queue)[mixed["done"]] == "done"


@pytest.mark.parametrize("state", ["done", "failed", "lost", "cancelled"])
def test_a_settled_run_is_put_back_by_its_key(
    queue: Queue, lab: Lab, mixed: dict[str, str], state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(queue)
    assert lab.dbutils("--requeue", mixed[state]) == 0
    shown = capsys.readouterr().out
    begin = "done before: 1 run, to be resumed at the last checkpoint, where nothing is left to train"
    note = f"{begin}; with --fresh, they begin at step 0\n" if state == "done" else ""
    status = f"{queue.paths.folder}: 1 of 8 runs\n1 queued\n"
    assert shown.startswith(f"put back 1 run\n  run-{mixed[state]}\n{note}{status}")
    assert states(queue) == {**before, mixed[state]: "queued"}


def test_several_keys(queue: Queue, lab: Lab, mixed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = (f"run-{mixed[name]}" for name in ("done", "failed", "queued"))
    assert lab.dbutils("--requeue", f"{one},{two}", "--requeue", three) == 0
    shown = capsys.readouterr().out
    assert "put back 2 runs\n" in shown
    assert f"unchanged: {three} is queued already\n" in shown


def test_a_running_run_is_not_put_back(
    queue: Queue, lab: Lab, mixed: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = queue.paths.ledger.read_bytes()
    assert lab.dbutils("--requeue", f"{mixed['done']},{mixed['running']}") == 2
    assert capsys.readouterr().err == (
        f"dbutils.py: nothing was put back, as run-{mixed['running']} is running: cancel first\n"
    )
    assert queue.paths.ledger.read_bytes() == before


def test_cancelling(queue: Queue, lab: Lab, mixed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    keys = ",".join(mixed[name] for name in ("queued", "running", "done", "cancelled"))
    assert lab.dbutils("--cancel", keys) == 0
    shown = capsys.readouterr().out
    assert "cancelled 2 runs\n" in shown
    assert f"unchanged: run-{mixed['done']} is done already\n" in shown
    assert f"unchanged: run-{mixed['cancelled']} is cancelled already\n" in shown
    assert {states(queue)[mixed[name]] for name in ("queued", "running", "cancelled")} == {"cancelled"}


@pytest.mark.parametrize("option", ["--cancel", "--requeue"])
def test_an_unknown_or_ambiguous_key_changes_nothing(
    queue: Queue, lab: Lab, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = queue.paths.ledger.read_bytes()
    for key, message in (("0000", "could be 000000000000 (run-000000000000), "), ("zzz", "no run has the key or name")):
        assert lab.dbutils(option, f"{KEYS[0]},{key}") == 2
        error = capsys.readouterr().err
        assert error.startswith("dbutils.py: ")
        assert message in error
        assert error.count("\n") == 1
    assert queue.paths.ledger.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        "--check --requeue_level 2",
        "--requeue a --cancel b",
        "--watch --clean",
        "--watch --json",
        "--yes",
        "--find a --cancel b",
        "--find a --clean",
        "--requeue_level 3",
        "--clean everything",
    ],
)
def test_what_does_not_go_together_is_refused(lab: Lab, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        lab.dbutils(*options.split())
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dbutils.py: --")


def test_an_unknown_option_is_refused_with_the_nearest(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lab.dbutils("--chekc")
    assert capsys.readouterr().err.startswith("dbutils.py: unknown option '--chekc'; did you mean '--check'?")


def test_dbutils_without_a_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nothing", "../x", ""):
        for action in ("--check", "--watch", "--clean", "--cancel=x"):
            assert dbutils([f"--exp={name}", "--root", str(tmp_path), action]) == 2
            assert "there is no queue" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_queue_that_is_not_there_is_refused_with_those_that_are(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.queue.add([record("a" * 12)])
    assert dbutils(["--exp", "lap", "--root", str(lab.folder / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"experiments in {lab.folder}/runs: lab")


@pytest.mark.slow
def test_ten_thousand_runs_are_checked_quickly_and_in_a_few_lines(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.queue.add([record(f"{n:012x}") for n in range(10_000)])
    lab.queue.tick(ME, 3)
    reads: list[object] = []
    monkeypatch.setattr(overview, "read_progress", lambda *args: reads.append(args))
    begin = time.perf_counter()
    assert lab.dbutils("--check") == 0
    assert time.perf_counter() - begin < 3.0  # 0.3 s, where nobody else uses the machine
    assert len(reads) == 3
    assert len(capsys.readouterr().out.splitlines()) == 9
    assert lab.dbutils("--find", "run-0000000003") == 0
    assert len(capsys.readouterr().out.splitlines()) == 256 + 4


def test_a_pager_that_is_left_early_is_no_error(lab: Lab) -> None:
    lab.queue.add([record(f"{n:012x}") for n in range(3000)])
    reader, writer = os.pipe()
    with subprocess.Popen(lab.dbutils_command("--json"), stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        assert process.communicate(timeout=20)[1] == b""
        assert process.returncode == 0
