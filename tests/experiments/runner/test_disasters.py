"""Disk full, frozen processes, wrong clocks, a read-only root, a broken ledger: nothing is lost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from laboratory import Lab, command_of, is_running, processes_of

from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.queue.transitions import RequeueLevel

RUNS = {"args": ["--estimator vimco --iw 2"], "seeds": 3}
#: Two slots, a tenth of a second for each of twelve steps.
SLOW = {"args": ["--estimator vimco --iw 2 --nsteps 12 --id step100"], "seeds": 2}
DONE_ONCE = ["start at 0 in 1", "done in 1"]


def lines_of(manager: subprocess.Popen[str]) -> list[str]:
    return manager.communicate(timeout=60)[0].splitlines()


def errors_of(manager: subprocess.Popen[str]) -> list[str]:
    """The manager's errors: each is one line."""
    return [line for line in lines_of(manager) if line.startswith("manager.py: ")]


def done_lines(lab: Lab) -> list[list[str]]:
    return [[line for line in lines if not line.startswith("step")] for lines in lab.journal().values()]


# Disk full. A limit on the size of files is what an unprivileged test can have of it: a write fails half way.


def file_limit(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_while_runs_are_queued_changes_nothing(lab: Lab) -> None:
    lab.write(**{**RUNS, "seeds": 40})
    manager = lab.start(prepare=file_limit(2000))
    (line,) = errors_of(manager)
    assert manager.returncode == 2
    assert str(lab.folder / "runs") in line
    assert "File too large" in line
    assert not lab.paths.ledger.exists()
    assert not list(lab.paths.folder.glob(".tmp*"))


@pytest.mark.slow
def test_a_full_disk_in_mid_sweep_stops_the_manager_and_loses_nothing(lab: Lab) -> None:
    lab.write(**{**RUNS, "seeds": 40})
    assert lab.run("--max_jobs", "2") == 1
    before = lab.paths.ledger.read_bytes()
    manager = lab.start(prepare=file_limit(len(before) - 1))
    (line,) = errors_of(manager)
    assert manager.returncode == 2
    assert "it stays as it was" in line
    assert lab.paths.ledger.read_bytes() == before
    lab.wait(lambda: not processes_of(lab.paths.folder))
    assert lab.run("--max_jobs", "2") == 1
    assert lab.counts() == {"done": 4, "queued": 36}


@pytest.mark.slow
def test_a_job_that_cannot_write_says_why_and_is_tried_again(lab: Lab) -> None:
    lab.policy = Policy(heartbeat=0.2, ttl=1.0)
    lab.write(**{**RUNS, "seeds": 1})
    lab.run("--max_jobs", "1")
    (run,) = lab.runs()
    shutil.rmtree(lab.paths.folder)
    lab.paths.folder.mkdir()
    run.folder.write_text("in the way")
    manager = lab.start()
    lab.wait(lambda: any(record.lost for record in lab.records()))
    run.folder.unlink()
    shown = "\n".join(lines_of(manager))
    assert manager.returncode == 0
    assert f"File exists: '{run.folder}'" in shown
    assert lab.counts() == {"done": 1}


# Frozen processes.


def check_that_nobody_overlapped(lab: Lab) -> None:
    """The one run's attempts came one after the other."""
    (journal,) = lab.journal().values()
    attempts = [int(line.split()[-1]) for line in journal]
    assert attempts == sorted(attempts)
    assert not any(line.startswith("overlap") for line in journal)


@pytest.mark.slow
def test_a_frozen_job_is_replaced_only_when_it_is_gone(lab: Lab) -> None:
    lab.policy = Policy(heartbeat=0.2, ttl=1.0)
    lab.write(**{**SLOW, "seeds": 1})
    manager = lab.start()
    lab.wait_for_steps(2, runs=1)
    (job,) = [pid for pid in processes_of(lab.paths.folder) if "ovis.experiments.runner.job" in command_of(pid)]
    os.kill(job, signal.SIGSTOP)  # its training goes on
    lab.wait(lambda: any(record.reason == "lost" for record in lab.records()), 20)
    time.sleep(1.0)  # attempt 2 finds the folder taken
    os.kill(job, signal.SIGCONT)
    manager.communicate(timeout=60)
    assert manager.returncode == 0
    check_that_nobody_overlapped(lab)
    assert lab.counts() == {"done": 1}


@pytest.mark.slow
def test_a_frozen_job_and_training_both_thaw(lab: Lab) -> None:
    lab.policy = Policy(heartbeat=0.2, ttl=1.0)
    lab.write(**{**SLOW, "seeds": 1})
    manager = lab.start()
    lab.wait_for_steps(2, runs=1)
    frozen = processes_of(lab.paths.folder)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    lab.wait(lambda: any(record.reason == "lost" for record in lab.records()), 20)
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):  # the manager may have killed what it took for lost
            os.kill(pid, signal.SIGCONT)
    manager.communicate(timeout=60)
    assert manager.returncode == 0
    check_that_nobody_overlapped(lab)
    assert not any(is_running(pid) for pid in frozen)


@pytest.mark.slow
def test_a_frozen_manager_keeps_its_runs(lab: Lab) -> None:
    lab.policy = Policy(heartbeat=0.2, ttl=0.6)
    lab.write(**SLOW)
    first = lab.start()
    lab.wait_for_steps(2)
    first.send_signal(signal.SIGSTOP)
    second = lab.start()
    time.sleep(1.5)  # the jobs end meanwhile: nobody notes it, as their manager lives
    first.send_signal(signal.SIGCONT)
    assert [manager.wait(60) for manager in (first, second)] == [0, 0]
    assert done_lines(lab) == [DONE_ONCE] * 2


# The clock.


@pytest.mark.slow
@pytest.mark.parametrize("shift", [-7200.0, 7200.0])
def test_a_clock_that_jumps_neither_loses_nor_delays_a_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """The manager's clock, that is; the file system's is tested with the queue."""
    lab.policy = Policy(backoff=1.0)  # the clock jumps during this pause
    lab.write(args=["--id die", "--estimator vimco --iw 2"])
    real, begin = time.time, time.monotonic()
    monkeypatch.setattr(time, "time", lambda: real() + (shift if time.monotonic() > begin + 0.5 else 0.0))
    assert lab.run() == 0
    assert time.monotonic() - begin < 15
    assert sorted(record.lost for record in lab.records()) == [0, 1]
    assert sorted(record.attempt for record in lab.records()) == [1, 2]


# A root that can't be written.


def forget_privileges() -> None:
    """Root may write where nobody may: drop that power for the process that follows."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_read_only_root(lab: Lab) -> None:
    lab.write(**RUNS)
    root = lab.folder / "runs"
    root.mkdir()
    with read_only(root):
        manager = lab.start(prepare=forget_privileges)
        (line,) = errors_of(manager)
    assert manager.returncode == 2
    assert "Permission denied" in line
    assert str(root) in line
    assert not list(root.iterdir())


@pytest.mark.slow
def test_a_root_that_becomes_read_only(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(**{**SLOW, "seeds": 3})
    manager = lab.start(prepare=forget_privileges, OVIS_TRY_SECONDS="2")
    lab.wait_for_steps(3)
    with read_only(lab.paths.folder):
        (line,) = errors_of(manager)
        assert lab.dbutils("--check") == 0
    assert manager.returncode == 2
    assert "Permission denied" in line
    lab.wait(lambda: not processes_of(lab.paths.folder))
    assert "3 runs" in capsys.readouterr().out
    assert lab.run() == 0
    assert all(lines[-1].startswith("done") and "overlap" not in str(lines) for lines in lab.journal().values())


# A broken ledger.


def test_the_commands_refuse_a_broken_ledger_and_keep_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    content = b'{"runs": {"1": {"key": "a'
    lab.write(**RUNS)
    assert lab.run("--max_jobs", "1") == 1
    lab.paths.ledger.write_bytes(content)
    capsys.readouterr()
    for call in (lab.run, lab.dbutils):
        assert call() == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        assert str(lab.paths.ledger) in shown
        assert "move it aside" in shown
    assert lab.paths.ledger.read_bytes() == content


def test_a_lost_ledger_is_made_anew_from_the_folders(lab: Lab) -> None:
    """What the message about a broken one advises."""
    lab.write(**RUNS)
    assert lab.run("--max_jobs", "2") == 1
    before = done_lines(lab)
    assert before.count(DONE_ONCE) == 2
    lab.paths.ledger.unlink()
    assert lab.run("--max_jobs", "1") == 0
    assert done_lines(lab) == [DONE_ONCE] * 3
    assert lab.counts() == {"done": 3}


@pytest.mark.slow
def test_without_their_ledger_runs_go_on_from_their_own_attempts(lab: Lab) -> None:
    lab.write(args=["--id die", "--id fail"])
    assert lab.run() == 1
    lab.paths.ledger.unlink()
    assert lab.run() == 1  # a failure is known by its folder, too
    assert lab.counts() == {"done": 1, "failed": 1}
    died, failed = lab.records()
    assert (died.attempt, failed.attempt) == (2, 1)
    runs = lab.runs()
    lab.paths.ledger.unlink()
    for run in runs:
        run.outcome.unlink()
        (run.folder / "checkpoint.txt").write_text("4")
    begin = time.monotonic()
    assert lab.run() == 0
    assert time.monotonic() - begin < 8  # no attempt is refused for being older than the fence
    assert [record.attempt for record in lab.records()] == [3, 2]


@pytest.mark.slow
def test_runs_copied_without_their_hidden_files_are_known_and_can_be_put_back(lab: Lab) -> None:
    """As an upload of artefacts copies them: no ledger, no fence."""
    lab.write(args=["--estimator vimco --iw 2"])
    assert lab.run() == 0
    (run,) = lab.runs()
    for hidden in (lab.paths.ledger, run.fence):
        hidden.unlink()
    assert lab.run() == 0
    assert lab.journal()[run.name] == DONE_ONCE
    lab.queue.requeue(RequeueLevel.ALL)
    assert not run.outcome.exists()
    assert lab.run() == 0
    assert lab.journal()[run.name][2:] == ["start at 5 in 2", "done in 2"]


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ('"message": null', {"failed": 1}),
        pytest.param('"t": "yesterday"', {"done": 1}, marks=pytest.mark.slow),
        pytest.param('"attempt": 1e999', {"done": 1}, marks=pytest.mark.slow),
        ('"of_a_later_version": 1', {"failed": 1}),
        pytest.param('"message": ' + "[" * 100_000, {"done": 1}, marks=pytest.mark.slow),
    ],
    ids=["message", "time", "attempt", "later", "deep"],
)
def test_a_damaged_outcome_does_not_damage_the_ledger(lab: Lab, change: str, counts: dict[str, int]) -> None:
    """One that can't be understood is none: the run goes on."""
    lab.write(args=["--estimator vimco --iw 2"])
    assert lab.run() == 0
    (run,) = lab.runs()
    lab.paths.ledger.unlink()
    run.outcome.write_text(f'{{"status": "exception", "attempt": 1, {change}}}')
    assert lab.run() == (0 if "done" in counts else 1)
    assert lab.counts() == counts


@pytest.mark.slow
def test_a_manager_whose_runs_are_deleted_does_not_say_that_all_is_well(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.policy = Policy(heartbeat=0.5, backoff=60.0)
    lab.write(args=["--id die"])

    def delete() -> None:
        lab.wait(lambda: any(record.lost for record in lab.records()))
        lab.queue.clear()  # as ``manager.py --rf`` does

    thread = threading.Thread(target=delete)
    thread.start()
    assert lab.run() == 1
    thread.join()
    shown = capsys.readouterr().out
    assert f"{lab.paths.folder}: 1 gone, after" in shown
    assert "no longer in the queue, as somebody deleted it: 1 run; start again" in shown


def test_a_queue_can_be_read_where_nothing_can_be_written(lab: Lab) -> None:
    lab.write(**RUNS)
    assert lab.run() == 0
    with read_only(lab.paths.folder):
        done = subprocess.run(lab.dbutils_command(), preexec_fn=forget_privileges, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout
