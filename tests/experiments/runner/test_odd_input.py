"""Numbers that are no times, closed streams, paths that are no text: one line at most, and the work is done."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hand_made import HandMade, Watcher, queue_runs, work
from laboratory import DBUTILS, Lab, record
from slow_cases import slow_except

from ovis.experiments.runner.engines.interface import JobPhase, JobStatus, unreported_outcome
from ovis.experiments.runner.queue.ledger import SNAPSHOTS, LedgerError
from ovis.experiments.runner.snapshot import Snapshot
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import AttemptResult, State, read_progress

ODD_TIMES = [math.nan, math.inf, -math.inf, 10**400, -(10**400), -1.0, 1e308]
TIMES = ("not_before", "created", "started", "ended")


def short(value: object) -> str:
    return str(value)[:6]


def damage_ledger(lab: Lab, **fields: object) -> None:
    """Set these fields of all records, as no manager does."""
    data = json.loads(lab.paths.ledger.read_text())
    for row in data["runs"].values():
        row.update(fields)
    lab.paths.ledger.write_text(json.dumps(data))


def write_progress(run: RunPaths, **fields: object) -> None:
    run.progress.write_text(json.dumps({"step": 5, "nsteps": 10, "loss": 1.5, "t": 1e9, "begin": 0, **fields}))


@pytest.mark.parametrize("time", ODD_TIMES, ids=short)
def test_odd_times_in_the_ledger(lab: Lab, capsys: pytest.CaptureFixture[str], time: float) -> None:
    lab.queue.add([record("a" * 12), record("b" * 12), record("c" * 12)])
    for run in lab.queue.tick("elsewhere@0:1:1:x", 2).claimed:
        lab.paths.run(run.name).folder.mkdir()
    damage_ledger(lab, **dict.fromkeys(TIMES, time))
    assert lab.dbutils() == 0
    assert "1 queued, 2 running" in capsys.readouterr().out
    assert lab.dbutils("--json") == 0
    assert [run["started"] for run in json.loads(capsys.readouterr().out)["runs"]] == [0.0] * 3
    assert lab.dbutils("--cancel", "c" * 12) == 0
    assert lab.counts() == {"running": 2, "cancelled": 1}


@pytest.mark.parametrize("value", [math.nan, 10**400, 2.5, "1"])
def test_counters_that_count_nothing_are_a_broken_queue(lab: Lab, value: object) -> None:
    lab.queue.add([record()])
    damage_ledger(lab, attempt=value)
    with pytest.raises(LedgerError, match=r"is broken: record 1 has (no valid 'attempt'|a counter that is too large)"):
        lab.queue.read()


def test_an_odd_time_of_a_snapshot(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[""])
    row = {"id": "a" * 12, "digest": "", "commit": "", "diff": "", "version": "1", "dirty": False, "defaults": {}}
    lab.queue.add([record()], Snapshot.from_row({**row, "time": math.inf}))
    assert json.loads(lab.paths.ledger.read_text())[SNAPSHOTS]["1"]["time"] == math.inf
    assert lab.run("--update_lib", "--dry_run") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["step", "nsteps", "loss", "t", "begin"])
@pytest.mark.parametrize("value", [*ODD_TIMES, "x", None, [], 2**60], ids=short)
def test_odd_numbers_in_progress(lab: Lab, capsys: pytest.CaptureFixture[str], name: str, value: object) -> None:
    lab.queue.add([record()])
    (claimed,) = lab.queue.tick("elsewhere@0:1:1:x", 1).claimed
    run = lab.paths.run(claimed.name)
    run.folder.mkdir()
    write_progress(run, **{name: value})
    progress = read_progress(run, claimed.started)
    assert progress is None or 0 <= progress.fraction <= 1
    for options in ([], ["--json"]):
        assert lab.dbutils(*options) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("time", slow_except([math.inf, 10**400], ODD_TIMES), ids=short)
def test_odd_times_do_not_end_a_manager(lab: Lab, time: float) -> None:
    runs = queue_runs(lab, 2)
    polls: list[int] = []

    def play(engine: HandMade) -> None:
        polls.append(len(engine.jobs))
        for id in engine.jobs:
            if engine.statuses[id].phase is JobPhase.PENDING:
                engine.begin(id, "node-1")
        for entry in lab.records():
            run = lab.paths.run(entry.name)
            run.folder.mkdir(exist_ok=True)
            write_progress(run, **{("step", "nsteps", "loss", "t", "begin")[len(polls) % 5]: time})
        damage_ledger(lab, **dict.fromkeys(TIMES, time))
        if len(polls) == 30:
            for id in engine.jobs:
                engine.succeed(id)

    display = Watcher()
    assert work(lab, runs, HandMade(lab, play), display).complete
    assert len(display.views) > 1
    assert [entry.state for entry in lab.records()] == [State.DONE] * 2


CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


def run_closed(command: list[str], closed: str, **environment: str) -> int:
    """Run a command with these streams closed; its exit code."""
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    return subprocess.run(words, env={**os.environ, **environment}, timeout=120, capture_output=True).returncode


@pytest.mark.parametrize("closed", slow_except([">&- 2>&-"], CLOSED))
def test_a_sweep_with_closed_streams(lab: Lab, closed: str) -> None:
    lab.write(args=["--id fail", "--estimator rws"])
    assert run_closed(lab.command(), closed) == 1
    assert lab.counts() == {"done": 1, "failed": 1}
    assert [lines[-1] for name, lines in lab.journal().items() if not name.startswith("fail")] == ["done in 1"]
    assert run_closed(lab.dbutils_command("--requeue_level", "2"), closed) == 0
    assert lab.counts() == {"done": 1, "queued": 1}
    assert run_closed(lab.dbutils_command("--requeue", "nobody"), closed) == 2


def test_files_do_not_take_the_numbers_of_closed_streams(lab: Lab) -> None:
    lab.queue.add([record()])
    code = (
        "import sys; from ovis.experiments.cli.dbutils import main; code = main(sys.argv[1:]); "
        "import os; handle = os.open('/dev/null', os.O_RDONLY); raise SystemExit(100 * code + handle)"
    )
    command = [sys.executable, "-c", code, *lab.dbutils_command()[len(DBUTILS) :]]
    assert run_closed(command, "<&- >&- 2>&-") == 3


def test_a_root_that_is_no_text_on_a_strict_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9"))
    folder.mkdir()
    lab = Lab(folder)
    lab.write(args=["--id fail", "--estimator rws"])
    for run, code in ((lab.run, 1), (lab.dbutils, 0)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
        monkeypatch.setattr(sys, "stdout", stream)
        assert run() == code
        stream.flush()
        assert b"1 done, 1 failed" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_report_that_could_not_be_written_is_refused_before_anything_is_queued(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.folder)
    Path("reports").write_text("in the way")
    lab.write(args=[""])
    assert lab.run("--report") == 2
    line = "manager.py: --report: can't write to the folder reports: Not a directory\n"
    assert capsys.readouterr().err == line
    assert not lab.paths.ledger.exists()
    assert Path("reports").read_text() == "in the way"


def test_no_machine_has_so_many_processes(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=[""])
    with pytest.raises(SystemExit) as left:
        lab.run("--processes", "99999999999999999999")
    assert left.value.code == 2
    assert capsys.readouterr().err == "manager.py: --processes: must be at most 10000, got 99999999999999999999\n"


@pytest.mark.parametrize(("content", "reason"), [(None, "it printed no message"), ("", "it printed no message"),
    ("job b.1: other\n", "see {log}"), ("job KEY.1: out of luck\n", "out of luck")])  # fmt: skip
def test_a_job_without_an_outcome_refers_to_a_log_that_says_something(
    lab: Lab, content: str | None, reason: str
) -> None:
    lab.queue.add([record()])
    (claimed,) = lab.queue.tick("elsewhere@0:1:1:x", 1).claimed
    log = lab.paths.jobs_log
    if content is not None:
        log.write_text(content.replace("KEY", claimed.key))
    outcome = unreported_outcome(claimed, JobStatus(JobPhase.ENDED, -9), log, stopping=False)
    assert outcome.status is AttemptResult.LOST
    assert outcome.message == f"the job ended with code -9 and no outcome: {reason.format(log=log)}"


@pytest.mark.parametrize("number", [10**18, 2**53, -1, 10**400])
def test_an_odd_fence_or_outcome_does_not_break_the_queue(lab: Lab, number: int) -> None:
    lab.queue.add([record("a" * 12), record("b" * 12)])
    for run in lab.runs():
        run.folder.mkdir()
    fenced, ended = lab.runs()
    fenced.fence.write_text(f"{number}\n")
    ended.outcome.write_text(json.dumps({"status": "success", "attempt": number}))
    assert [claimed.attempt for claimed in lab.queue.tick("elsewhere@0:1:1:x", 2).claimed] == [1, 1]
    lab.queue.cancel({"a" * 12, "b" * 12})
    assert lab.dbutils("--requeue_level", "10000", "--fresh") == 0
    assert lab.counts() == {"queued": 2}
