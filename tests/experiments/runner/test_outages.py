"""A ledger that can't be written or locked for a while: the manager and its jobs wait, and one line says for what."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hand_made import POLICY, HandMade, Watcher, queue_runs
from laboratory import Lab, dead_owner

from ovis.experiments.runner.experiment_file import ExperimentRun
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import Result, run_experiment
from ovis.experiments.runner.queue.filesystem import FileSystemError, check_features
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.lock_holder import read_holder, write_holder
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.status import State

HOLD = """
import sys, time
from pathlib import Path
from ovis.experiments.runner.queue.ledger import Ledger
from ovis.experiments.runs.paths import ExperimentPaths
with Ledger(ExperimentPaths(Path(sys.argv[1]))).transaction():
    print("locked", flush=True)
    sys.stdin.read()
"""


#: Constants of the runner's modules, in seconds.
QUICK = {
    **{"manager.PATIENCE": 0.1, "manager.GRACE": 0.5, "outage.TRY_INTERVAL": 0.05},
    **{"outage.TOLD_AFTER": 0.3, "queue.ledger.TOLD_AFTER": 0.3},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in QUICK.items():
        monkeypatch.setattr(f"ovis.experiments.runner.{name}", seconds)


def succeed_all(engine: HandMade) -> None:
    for id in engine.jobs:
        engine.succeed(id)


def work(
    lab: Lab, runs: Sequence[ExperimentRun], play: Callable[[HandMade], None] = succeed_all
) -> tuple[Result, list[str]]:
    """The result of a manager, and the lines that it printed."""
    display = Watcher()
    queue = Queue(lab.paths, POLICY)
    template = JobSpec(lab.paths.folder, "", 0)
    result = run_experiment(runs, queue, HandMade(lab, play), display, template, interval=0.02)
    return result, display.lines


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, target: str, code: int, seconds: float) -> Iterator[list[float]]:
    """A function of ``os`` fails for files of the ledger, or for leases, from now on, for some seconds."""
    function, part = target.split(":")
    real, end, times = getattr(os, function), time.monotonic() + seconds, []

    def fail(*arguments: Any, **options: Any) -> Any:
        if any(part in str(argument) for argument in arguments) and time.monotonic() < end:
            times.append(time.monotonic())
            raise OSError(code, os.strerror(code), str(arguments[0]))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        yield times


# Errors that pass.


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("replace:.db.json", errno.EPERM),
        ("open:.db.json.lock", errno.EROFS),
        ("open:.tmp-.db.json", errno.ENOSPC),  # an inode table that is full
        ("open:.leases", errno.ENOSPC),
    ],
)
def test_a_ledger_that_cannot_be_written_for_a_moment_is_waited_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, target: str, code: int
) -> None:
    runs = queue_runs(lab, 2)
    with failing(monkeypatch, target, code, 0.4) as times:
        result, lines = work(lab, runs)
    assert result.complete
    assert len(times) > 1
    (line,) = lines
    assert line.endswith("; tried again for up to 600 s")
    assert [(record.state, record.attempt, record.lost) for record in lab.records()] == [(State.DONE, 1, 0)] * 2


def test_jobs_that_end_meanwhile_are_recorded_after_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def play(engine: HandMade) -> None:
        if engine.jobs:
            if not ended:
                fault.__enter__()
                ended.append(True)
            succeed_all(engine)

    fault = failing(monkeypatch, "replace:.db.json", errno.EIO, 0.4)
    result, lines = work(lab, queue_runs(lab, 2), play)
    fault.__exit__(None, None, None)
    assert result.complete
    assert len(lines) == 1
    assert [record.attempt for record in lab.records()] == [1, 1]


def test_what_a_kill_left_may_stay_for_now(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = queue_runs(lab, 1)
    rubbish = lab.paths.lease("f" * 12, 1)
    rubbish.parent.mkdir(exist_ok=True)
    rubbish.touch()
    os.utime(rubbish, (0, 0))
    with failing(monkeypatch, f"unlink:{rubbish.name}", errno.EIO, 60.0) as times:
        assert work(lab, runs)[0].complete
    assert times
    assert rubbish.exists()
    work(lab, runs)
    assert not rubbish.exists()


@pytest.mark.parametrize(("code", "least"), [(errno.EIO, 0.3), (errno.ENOSYS, 0.0)])
def test_errors_that_do_not_pass_end_the_manager(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, code: int, least: float
) -> None:
    """After the limit, or at once."""
    monkeypatch.setattr("ovis.experiments.runner.outage.TRY_SECONDS", 0.3)
    runs = queue_runs(lab, 2)
    begin = time.monotonic()
    with failing(monkeypatch, "replace:.db.json", code, 60.0), pytest.raises(LedgerError, match=os.strerror(code)):
        work(lab, runs)
    assert least <= time.monotonic() - begin < 30
    assert lab.counts() == {"queued": 2}


# The lock.


@pytest.fixture
def runs(lab: Lab) -> list[ExperimentRun]:
    return queue_runs(lab, 1)


@pytest.fixture
def holder(lab: Lab, runs: list[ExperimentRun]) -> Iterator[subprocess.Popen[str]]:
    """A process that has the ledger's lock, and is stopped."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lab.paths.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    process.send_signal(signal.SIGSTOP)
    while "stopped" not in read_holder(lab.paths.lock_holder):
        time.sleep(0.01)
    yield process
    process.kill()
    process.communicate()


def let_go(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGCONT)
    process.communicate("")


def test_a_stopped_process_with_the_lock_is_named_and_waited_for(
    lab: Lab, runs: list[ExperimentRun], holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovis.experiments.runner.outage.TRY_SECONDS", 0.1)  # not a limit of this
    timer = threading.Timer(1.0, let_go, [holder])
    timer.start()
    result, lines = work(lab, runs)
    timer.join()
    assert result.complete
    (line,) = lines
    assert line.startswith(f"waiting: the queue's lock {lab.paths.lock} is held by process {holder.pid} on ")
    assert re.search(r" since \d\d:\d\d:\d\d: \S*python -c ", line)
    assert line.endswith(f"; it is stopped: kill -CONT {holder.pid} lets it go on")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_manager_that_waits_for_the_lock(
    lab: Lab, runs: list[ExperimentRun], holder: subprocess.Popen[str], times: int
) -> None:
    for number in range(times):
        threading.Timer(0.5 + 0.1 * number, signal.raise_signal, [signal.SIGINT]).start()
    begin = time.monotonic()
    result, _ = work(lab, runs)
    assert 0.4 < time.monotonic() - begin < 30
    assert result.interrupted
    assert lab.counts() == {"queued": 1}


def test_other_commands_wait_for_the_lock_too(
    lab: Lab, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    timer = threading.Timer(1.0, let_go, [holder])
    timer.start()
    (record,) = lab.records()
    assert lab.dbutils("--cancel", record.key) == 0
    timer.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"waiting: the queue's lock {lab.paths.lock} is held by process {holder.pid} on ")
    assert lab.counts() == {"cancelled": 1}


def test_the_holder_is_named_only_while_it_has_the_lock(lab: Lab) -> None:
    queue_runs(lab, 1)
    path = lab.paths.lock_holder
    with lab.queue.ledger.transaction():
        assert read_holder(path).startswith(f"process {os.getpid()} on ")
    assert path.read_text() == ""
    for text in ("", "{", "[]", '{"owner": 3}', '{"owner": "a:1:2:3", "command": "x", "since": 1e999}'):
        path.write_text(text)
        assert read_holder(path) == "an unknown process"
    write_holder(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "owner": dead_owner()}))
    assert read_holder(path) == "an unknown process"  # it was killed while it had the lock


def test_the_holder_is_not_written_through_a_symbolic_link(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("somebody's")
    queue_runs(lab, 1)
    lab.paths.lock_holder.unlink()
    lab.paths.lock_holder.symlink_to(other)
    with lab.queue.ledger.transaction():
        pass
    assert other.read_text() == "somebody's"


# What a file system lacks.


def test_a_file_system_without_locks_is_refused_before_anything_is_queued(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(handle: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    lab.write(args=["--estimator vimco --iw 2"])
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lab.run() == 2
    (line,) = capsys.readouterr().err.splitlines()
    root = lab.folder / "runs"
    assert line.startswith(f"manager.py: {root}: can't lock a file (flock) on this file system (")
    assert line.endswith("which the runner needs: Function not implemented; choose another --root")
    assert list(root.iterdir()) == []


def test_locks_that_exclude_nobody_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)
    with pytest.raises(FileSystemError, match="excludes nobody"):
        check_features(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_other_features_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(
            FileSystemError, match=r"can't write, flush .* and rename a file .* Operation not supported"
        ):
            check_features(tmp_path)
    assert list(tmp_path.iterdir()) == []
    check_features(tmp_path)
    assert list(tmp_path.iterdir()) == []
