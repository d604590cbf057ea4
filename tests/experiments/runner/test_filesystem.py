"""Local disks and network file systems are distinguished, as locks do not keep two hosts apart on the latter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from laboratory import Lab

from ovis.experiments.runner.queue import filesystem
from ovis.experiments.runner.queue.filesystem import filesystem_type, is_network

MOUNTS = """\
27 1 0:24 / / rw,relatime shared:1 - ext4 /dev/root rw
40 27 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2
41 40 0:41 / /home/scratch\\040disk rw,relatime - xfs /dev/sdb rw
42 27 0:42 / /over rw - ext4 /dev/sdc rw
43 27 0:43 / /over rw - fuse.sshfs there: rw
broken line
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    monkeypatch.setattr(filesystem, "MOUNTS", path)
    return path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "ext4"),
        ("/homes/me", "ext4"),
        ("/home/me/runs", "nfs4"),
        ("/home/scratch disk/runs", "xfs"),
        ("/over/there", "fuse.sshfs"),
    ],
)
def test_the_deepest_and_latest_mount_counts(mounts: Path, path: str, expected: str) -> None:
    assert filesystem_type(Path(path)) == expected
    assert is_network(Path(path)) is (expected in ("nfs4", "fuse.sshfs"))


def test_the_type_is_empty_if_the_system_does_not_report_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "none")
    assert filesystem_type(tmp_path) == ""
    assert not is_network(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux's /proc")
def test_the_type_agrees_with_stat(tmp_path: Path) -> None:
    output = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert filesystem_type(tmp_path)[:3] == output.strip()[:3] or output.startswith("UNKNOWN")


def on_network(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovis.experiments.cli.manager.is_network", lambda path: path.is_relative_to(lab.folder))


def test_a_second_host_is_refused_on_a_network_file_system(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    assert lab.run() == 0
    record = lab.records()[0]
    with lab.queue.ledger.transaction() as transaction:
        transaction.rows[record.key].update(state="running", owner="elsewhere@1:7:7:x")
        transaction.touch(record.key)
    lab.queue.leases.create(record.key, record.attempt)
    before = lab.paths.ledger.read_bytes()
    on_network(lab, monkeypatch)
    capsys.readouterr()
    assert lab.run() == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "elsewhere" in shown
    assert "network file system" in shown
    assert lab.paths.ledger.read_bytes() == before
    assert "if that host is gone for good, put its runs back by dbutils.py --cancel and --requeue" in shown
    assert [lab.dbutils(option, record.key) for option in ("--cancel", "--requeue")] == [0, 0]
    assert lab.run() == 0


def test_one_host_may_use_a_network_file_system(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    on_network(lab, monkeypatch)
    assert lab.run() == 0
