"""The file system of the root is away for a while: nothing is written to its mount point, and no run is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import Lab, record

from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs import retrying
from ovis.experiments.runs.atomic import append, write_text
from ovis.experiments.runs.fencing import check_fence, read_fence
from ovis.experiments.runs.paths import RunPaths

SHARED = Path("/dev/shm")


@pytest.fixture
def elsewhere(lab: Lab) -> Iterator[Path]:
    """A folder on another file system, to which the root of the experiments is a link: it can be taken away."""
    folder = SHARED / f"ovis-test-{os.getpid()}"
    if not SHARED.is_dir() or SHARED.stat().st_dev == lab.folder.stat().st_dev:
        pytest.skip("no second file system")
    folder.mkdir()
    (lab.folder / "runs").symlink_to(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def unmount(lab: Lab) -> Path:
    """Show what is below the mount point: an empty folder."""
    root = lab.folder / "runs"
    root.unlink()
    root.mkdir()
    return root


def mount(lab: Lab, folder: Path) -> None:
    root = lab.folder / "runs"
    root.rmdir()
    root.symlink_to(folder)


def test_a_ledger_whose_file_system_is_away_is_no_empty_ledger(lab: Lab, elsewhere: Path) -> None:
    queue = lab.queue
    queue.add([record()])
    root = unmount(lab)
    for action in (queue.read, lambda: queue.tick("a:1:1:u", 1)):
        with pytest.raises(LedgerError, match=r"the file system of .*/runs/lab is not there: ") as info:
            action()
        assert retrying.is_transient(info.value)
        assert list(root.iterdir()) == []  # no lock
    with pytest.raises(FileNotFoundError):  # not revoked
        Leases(lab.paths).beat("a" * 12, 1)
    mount(lab, elsewhere)
    assert [claimed.key for claimed in queue.tick("a:1:1:u", 1).claimed] == ["a" * 12]


def test_an_experiment_that_was_deleted_is_an_empty_one(lab: Lab, elsewhere: Path) -> None:
    queue = lab.queue
    queue.add([record()])
    shutil.rmtree(lab.paths.folder)
    assert queue.read() == []
    lab.paths.folder.mkdir()
    assert queue.tick("a:1:1:u", 1).claimed == []


def test_files_of_a_run_wait_for_their_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunPaths(tmp_path / "root" / "lab" / "run")
    run.folder.mkdir(parents=True)
    write_text(run.fence, "3\n")
    away = tmp_path / "away"
    actions = [
        lambda: write_text(run.progress, "{}", durable=False),
        lambda: read_fence(run),
        lambda: check_fence(run, 3),
        lambda: append(run.metrics, b"{}\n"),
    ]
    monkeypatch.setattr(retrying, "RETRY_SECONDS", 0.0)
    (tmp_path / "root").rename(away)
    for action in actions:
        with pytest.raises(OSError, match="its folder is not there") as info:
            action()
        assert retrying.is_transient(info.value)
    assert not (tmp_path / "root").exists()
    away.rename(tmp_path / "root")
    for action in actions:
        action()
    shutil.rmtree(run.folder)  # by somebody: the experiment is there
    assert read_fence(run) == 0


# In a namespace of its own, where mounts are nobody else's.

MOUNTED = """
mount -t tmpfs none "$1" && mkdir "$1/runs" && mount --bind "$1/runs" "$2" && shift 2 && exec "$@"
"""


def in_mount_namespace() -> str:
    """What keeps this from running here; empty: nothing."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("nsenter"):
        return "mounts take root, unshare and nsenter"
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return f"nothing can be mounted here: {done.stderr.strip()}" if done.returncode else ""


@pytest.mark.slow
@pytest.mark.skipif(bool(in_mount_namespace()), reason=in_mount_namespace())
def test_a_sweep_waits_for_an_unmounted_root(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Policy(heartbeat=0.5, ttl=60.0))
    lab.write(args=["--nsteps 60 --id step100"], parameters={"seed": [1, 2, 3, 4]})
    root, disk = tmp_path / "runs", tmp_path / "disk"
    root.mkdir()
    disk.mkdir()
    words = ["unshare", "-m", "bash", "-c", MOUNTED, "bash", str(disk), str(root), *lab.command()]
    manager = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lab.processes.append(manager)

    def inside(*command: str) -> str:
        done = subprocess.run(["nsenter", "-m", "-t", str(manager.pid), *command], capture_output=True, text=True)
        return done.stdout + done.stderr

    try:
        lab.wait(lambda: "checkpoint.txt" in inside("find", str(root)), 30.0)
        assert inside("umount", "-l", str(root)) == ""
        time.sleep(12.0)
        assert inside("find", str(root), "-mindepth", "1") == ""  # no stray lock
        assert inside("mount", "--bind", str(disk / "runs"), str(root)) == ""
        output, _ = manager.communicate(timeout=90)
    finally:
        manager.send_signal(signal.SIGKILL)
    assert manager.returncode == 0, output
    assert "4 done" in output
    assert output.count("the file system of") == 1
    assert "gone" not in output
