"""dbutils.py --clean: what goes, what stays, and that a manager at work is not disturbed."""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from laboratory import Lab, record
from queue_by_hand import ME, publish

from ovis.experiments.runner.orphans import LeftoverKind, find_leftovers, remove_leftovers
from ovis.experiments.runner.queue import queue as queue_module
from ovis.experiments.runner.queue.ledger import LedgerError, Row
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.attempt import make_attempts
from ovis.experiments.runs.context import RunContext, WorkResult
from ovis.experiments.runs.fencing import lock_run, publish_outcome
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import AttemptResult, Outcome, State
from ovis.experiments.training.journal import MetricsWriter


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (1, 1))


def by_hand(queue: Queue, name: str, *files: str) -> RunPaths:
    """A run's folder that no record knows."""
    run = queue.paths.run(name)
    run.folder.mkdir()
    for file in (".run.lock", ".attempt", "config.json", *files):
        (run.folder / file).touch()
    return run


def kinds(queue: Queue) -> dict[str, LeftoverKind]:
    return {item.path.name: item.kind for item in find_leftovers(queue)}


def test_leftovers_of_each_kind(queue: Queue) -> None:
    (running,) = queue.tick(ME, 1).claimed
    settled = queue.read()[1]
    for name in (running.name, settled.name):
        folder = queue.paths.run(name).folder
        folder.mkdir()
        for file in (".tmp-old", ".tmp-young", "checkpoint.pt"):
            (folder / file).touch()
        age(folder / ".tmp-old")
    strays = [queue.paths.leases / f"{settled.key}.{ending}" for ending in ("3", "2.expired", "4")]
    for stray in strays:
        stray.touch()
    age(*strays[:2], queue.paths.lease(running.key, 1))
    (queue.paths.folder / ".tmp-.db.json1").touch()
    (queue.paths.snapshots / "0123456789ab").mkdir(parents=True)
    queue.paths.trash("x").mkdir()
    age(queue.paths.folder / ".tmp-.db.json1", queue.paths.snapshots / "0123456789ab")
    for name in ("empty-0123456789ab", "young-0123456789ab", "drafts"):
        (queue.paths.folder / name).mkdir()
    (queue.paths.folder / "notes").mkdir()
    (queue.paths.folder / "notes" / "plan.txt").touch()
    (queue.paths.folder / "notes.txt").touch()
    (queue.paths.folder / "linked").symlink_to(queue.paths.run(settled.name).folder)
    age(*(queue.paths.folder / name for name in ("empty-0123456789ab", "drafts")))
    by_hand(queue, "crashed")
    by_hand(queue, "trained", "checkpoint.pt")
    publish_outcome(by_hand(queue, "succeeded"), Outcome(AttemptResult.SUCCESS, 1))
    assert kinds(queue) == {
        f"{settled.key}.3": LeftoverKind.LEASE,
        f"{settled.key}.2.expired": LeftoverKind.LEASE,
        ".tmp-old": LeftoverKind.TEMPORARY,
        ".tmp-.db.json1": LeftoverKind.TEMPORARY,
        "0123456789ab": LeftoverKind.SNAPSHOT,
        ".trash-x": LeftoverKind.TRASH,
        "empty-0123456789ab": LeftoverKind.FOLDER,
        "crashed": LeftoverKind.FOLDER,
        "trained": LeftoverKind.RESULTS,
        "succeeded": LeftoverKind.RESULTS,
        "drafts": LeftoverKind.FOREIGN,
        "notes": LeftoverKind.FOREIGN,
        "linked": LeftoverKind.FOREIGN,
    }
    (temporary,) = [item.path for item in find_leftovers(queue) if item.path.name == ".tmp-old"]
    assert temporary.parent.name == settled.name  # not that of the running one
    leftovers = find_leftovers(queue)
    assert {item.path.name for item in leftovers} - {item.path.name for item in remove_leftovers(queue, leftovers)} == {
        "drafts",
        "notes",
        "linked",
    }
    assert kinds(queue) == dict.fromkeys(("drafts", "notes", "linked"), LeftoverKind.FOREIGN)
    assert {path.name for path in queue.paths.folder.iterdir() if not path.name.startswith(".db")} == {
        ".leases", ".snapshots", "young-0123456789ab", "drafts", "linked", "notes", "notes.txt", running.name,
        settled.name
    }  # fmt: skip
    assert {path.name for path in queue.paths.leases.iterdir()} == {".now", f"{running.key}.1", f"{settled.key}.4"}
    assert (queue.paths.run(settled.name).folder / "checkpoint.pt").exists()


#: Folders of a person: names of files.
FOREIGN = {
    "my_llama": ["config.json", "model.safetensors"],
    "thesis_figures": ["config.json", "success.txt"],
    "other_queue": ["outcome.json", "progress.json", "checkpoint.pt", "log.1.txt"],
}


def test_folders_without_our_mark_stay(lab: Lab, queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.paths.snapshots.mkdir()
    queue.paths.leases.mkdir(exist_ok=True)
    for name, files in {**FOREIGN, ".leases/mine.1": ["a"], ".snapshots/mine": ["a"], ".tmp-mine": ["a"]}.items():
        (queue.paths.folder / name).mkdir()
        for file in files:
            (queue.paths.folder / name / file).write_text("precious")
    (queue.paths.leases / "notes.txt").write_text("precious")
    age(*queue.paths.leases.iterdir(), *queue.paths.snapshots.iterdir(), queue.paths.folder / ".tmp-mine")
    assert lab.dbutils("--clean", "all", "--yes") == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept:",
        *(f"  {queue.paths.folder / name}  (folder that is not a run's)" for name in sorted(FOREIGN)),
        f"{queue.paths.folder}: nothing to remove",
    ]
    queue.remove_stale()  # as every manager does when it starts
    assert sum(path.read_text() == "precious" for path in queue.paths.folder.rglob("*") if path.is_file()) == 12


@pytest.mark.parametrize(
    "result",
    [
        "metrics.jsonl",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "checkpoint.pt.corrupt",
        "best.pt",
        "gradients.partial.npz",
        "asymptotic.json",
        "states/of-a-plugin.safetensors",
    ],
)
def test_checkpoints_and_results_of_any_study_go_only_on_request(
    lab: Lab, queue: Queue, capsys: pytest.CaptureFixture[str], result: str
) -> None:
    run = by_hand(queue, "by-hand")
    (run.folder / result).parent.mkdir(exist_ok=True)
    (run.folder / result).touch()
    assert lab.dbutils("--clean", "--yes") == 0
    assert f"{run.folder}  (folder without a record, with results)" in capsys.readouterr().out
    assert (run.folder / result).exists()
    assert lab.dbutils("--clean", "all", "--yes") == 0
    assert not run.folder.exists()


def test_an_attempt_that_fails_early_has_no_results(queue: Queue) -> None:
    run = queue.paths.run("by-hand")

    def fail(contexts: Sequence[RunContext]) -> Sequence[WorkResult]:
        for context in contexts:
            write_json(context.paths.config, {})
            MetricsWriter(context.paths).progress(1, 10, math.inf)
            (context.paths.folder / ".tmp-checkpoint.ptabc").touch()
        raise RuntimeError("out of luck")

    assert make_attempts([run], fail) == 1
    assert {path.name.partition(".")[0] for path in run.folder.iterdir() if not path.name.startswith(".")} == {
        "config", "events", "log", "outcome", "progress"
    }  # fmt: skip
    assert kinds(queue) == {"by-hand": LeftoverKind.FOLDER}
    run.checkpoint.touch()
    assert kinds(queue) == {"by-hand": LeftoverKind.RESULTS}


def test_a_folder_with_a_process_in_it_stays(queue: Queue) -> None:
    run = by_hand(queue, "by-hand")
    leftovers = find_leftovers(queue)
    with lock_run(run) as lock:
        assert lock is not None
        assert remove_leftovers(queue, leftovers) == []  # it came after the listing
        assert kinds(queue) == {"by-hand": LeftoverKind.BUSY}
        assert remove_leftovers(queue, find_leftovers(queue)) == []
    assert [item.kind for item in remove_leftovers(queue, leftovers)] == [LeftoverKind.FOLDER]
    assert not run.folder.exists()


def test_a_folder_that_got_a_record_or_a_result_after_the_listing_stays(queue: Queue) -> None:
    one, two = by_hand(queue, "run-c1"), by_hand(queue, "run-c2")
    leftovers = find_leftovers(queue)
    assert [item.kind for item in leftovers] == [LeftoverKind.FOLDER] * 2
    queue.add([record("c1")])
    two.checkpoint.touch()
    assert remove_leftovers(queue, leftovers) == []
    assert one.config.exists()
    assert two.config.exists()


def test_a_lease_made_for_a_claim_under_way_stays(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    leased, go_on = threading.Event(), threading.Event()
    create = queue.leases.create

    def slowly(key: str, attempt: int) -> None:
        create(key, attempt)
        leased.set()
        go_on.wait(10)

    monkeypatch.setattr(queue.leases, "create", slowly)
    monkeypatch.setattr("ovis.experiments.runner.queue.leases.STALE_AFTER", -1.0)  # even if it looks old
    manager = threading.Thread(target=queue.tick, args=(ME, 1))
    manager.start()
    leased.wait(10)
    other = Queue(queue.paths)
    leftovers = find_leftovers(other)
    assert [item.kind for item in leftovers] == [LeftoverKind.LEASE]  # as far as is known without the lock
    threading.Timer(0.2, go_on.set).start()
    assert remove_leftovers(other, leftovers) == []  # waits for the claim
    manager.join()
    (running,) = [r for r in queue.read() if r.attempt == 1]
    assert queue.paths.lease(running.key, 1).exists()


def test_temporary_files_of_a_locked_run_stay(queue: Queue) -> None:
    run = queue.paths.run(queue.read()[0].name)
    run.folder.mkdir()
    (run.folder / ".tmp-checkpoint.pt").touch()
    age(run.folder / ".tmp-checkpoint.pt")
    leftovers = find_leftovers(queue)
    with run.lock.open("w") as handle:  # a cancelled job that is about to end
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert remove_leftovers(queue, leftovers) == []
    assert len(remove_leftovers(queue, leftovers)) == 1


def test_without_a_terminal_it_only_lists(queue: Queue, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    crashed, trained = by_hand(queue, "crashed"), by_hand(queue, "trained", "best.pt")
    before = queue.paths.ledger.read_bytes()
    assert lab.dbutils("--clean") == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept:",
        f"  {trained.folder}  (folder without a record, with results)",
        "to be removed:",
        f"  {crashed.folder}  (folder without a record, and without results)",
        "nothing was removed: say --yes where there is no terminal to ask at",
    ]
    assert crashed.config.exists()
    assert lab.dbutils("--clean", "--yes") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "removed 1"
    assert (crashed.folder.exists(), trained.folder.exists()) == (False, True)
    assert lab.dbutils("--clean") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{queue.paths.folder}: nothing to remove"
    assert lab.dbutils("--clean", "all", "--yes") == 0
    assert not trained.folder.exists()
    assert queue.paths.ledger.read_bytes() == before
    assert not list(queue.paths.folder.glob(".trash*"))


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("YES", True), ("n", False), ("", False), (None, False)])
def test_on_a_terminal_it_asks(
    queue: Queue, lab: Lab, monkeypatch: pytest.MonkeyPatch, answer: str | None, gone: bool
) -> None:
    def reply(question: str) -> str:
        assert question == "remove these 1? [y/N] "
        if answer is None:
            raise EOFError
        return answer

    crashed = by_hand(queue, "crashed")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", reply)
    assert lab.dbutils("--clean") == 0
    assert crashed.folder.exists() is not gone


def test_cleaning_as_json(queue: Queue, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    crashed = by_hand(queue, "crashed")
    item = {"path": str(crashed.folder), "kind": "folder", "why": LeftoverKind.FOLDER.value}
    assert lab.dbutils("--clean", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"exp": "lab", "found": [item], "removed": []}
    assert lab.dbutils("--clean", "--json", "--yes") == 0
    assert json.loads(capsys.readouterr().out) == {"exp": "lab", "found": [item], "removed": [item]}
    assert not crashed.folder.exists()


@pytest.mark.slow
def test_cleaning_while_a_manager_works_harms_nothing(
    queue: Queue, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write(args=["--nsteps 30"], parameters={"seed": list(range(8))})
    manager = lab.start()
    cleanings = 0
    while manager.poll() is None:
        by_hand(queue, f"crashed-{cleanings}")
        assert lab.dbutils("--clean", "all", "--yes") == 0
        assert capsys.readouterr().out.endswith("removed 1\n")
        cleanings += 1
    manager.communicate(timeout=10)
    assert manager.returncode == 0
    assert cleanings > 5
    assert lab.counts() == {"done": 8, "queued": 8}
    journal = [lines for lines in lab.journal().values() if lines]
    assert journal == [["start at 0 in 1", "done in 1"]] * 8


def test_a_broken_ledger_removes_nothing(queue: Queue, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    crashed = by_hand(queue, "crashed")
    leftovers = find_leftovers(queue)
    queue.paths.ledger.write_text("{")
    assert lab.dbutils("--clean", "all", "--yes") == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(LedgerError, match="is broken"):
        remove_leftovers(queue, leftovers)
    assert crashed.folder.exists()


def test_the_outcome_of_a_run_without_a_record_counts(queue: Queue) -> None:
    run = by_hand(queue, "run-c1")
    publish(queue, record("c1"), AttemptResult.EXCEPTION, attempt=1)
    assert kinds(queue) == {run.name: LeftoverKind.FOLDER}
    publish(queue, record("c1"), AttemptResult.SUCCESS, attempt=2)
    assert kinds(queue) == {run.name: LeftoverKind.RESULTS}


def test_a_folder_that_is_cleaned_away_while_its_run_is_queued_leaves_a_fresh_run(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = by_hand(queue, "run-c1")
    run.fence.write_text("3")
    publish_outcome(run, Outcome(AttemptResult.SUCCESS, 3))
    real = queue_module._new_row

    def look_and_clean(*arguments: Any) -> Row:
        monkeypatch.undo()
        row = real(*arguments)
        other = Queue(queue.paths)
        remove_leftovers(other, find_leftovers(other))
        return row

    monkeypatch.setattr(queue_module, "_new_row", look_and_clean)
    queue.add([record("c1")])
    (added,) = [r for r in queue.read() if r.key == "c1"]
    assert (added.state, added.attempt, run.folder.exists()) == (State.QUEUED, 0, False)
