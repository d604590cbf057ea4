"""dbutils.py: what it shows of a queue, and putting runs back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock
from laboratory import Lab, dead_owner, record

from ovis.cli.dbutils import main as dbutils
from ovis.runner.process import new_owner
from ovis.runner.status import Record


def test_failed_runs_can_be_put_back(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--id fail", "--estimator rws"])
    assert lab.run() == 1
    there = ["--exp", "lab", "--root", str(lab.folder / "runs")]
    capsys.readouterr()
    assert dbutils([*there, "--check"]) == 0
    text = capsys.readouterr().out
    assert "ValueError: the loss is not finite" in text
    assert all(run.name in text for run in lab.runs())
    assert dbutils([*there, "--requeue_level", "1"]) == 0
    assert lab.counts() == {"done": 1, "failed": 1}
    assert dbutils([*there, "--requeue_level", "2"]) == 0
    assert lab.counts() == {"done": 1, "queued": 1}
    capsys.readouterr()
    assert dbutils([*there, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["queued"] == 1


def claim(lab: Lab, key: str, owner: str) -> Record:
    """A run that ``owner`` has claimed and not finished."""
    lab.queue.add([record(key)])
    (claimed,) = lab.queue.tick(owner, 1).claimed
    return claimed


def test_a_run_whose_manager_was_killed_does_not_look_alive(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    alive, orphan = claim(lab, "a" * 12, new_owner()), claim(lab, "b" * 12, dead_owner())
    there = ["--exp", "lab", "--root", str(lab.folder / "runs"), "--check"]
    before = lab.paths.ledger.read_bytes()
    with FileLock(lab.paths.lock):  # reading takes none
        assert dbutils(there) == 0
        shown = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
        assert dbutils([*there, "--json"]) == 0
    assert "running (its manager is gone)" in shown[orphan.name]
    assert "running  " in shown[alive.name]
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert {name: row["manager_gone"] for name, row in rows.items()} == {alive.name: False, orphan.name: True}
    assert {row["state"] for row in rows.values()} == {"running"}
    assert lab.paths.ledger.read_bytes() == before


def test_checking_and_putting_back_exclude_each_other(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        dbutils(["--exp", "lab", "--check", "--requeue_level", "2"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_dbutils_without_a_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nothing", "../x", ""):
        assert dbutils([f"--exp={name}", "--root", str(tmp_path)]) == 2
        assert "there is no queue" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
