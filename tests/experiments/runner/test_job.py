"""The job wrapper: how it reports each way a training can end, and what keeps two of them out of one run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from laboratory import STUB, Lab, is_running, record
from slow_cases import slow_except

from ovis.experiments.runner.acquire import AcquiredRun, acquire_run
from ovis.experiments.runner.job import JobSpec, main, run_job
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.queue import Ended
from ovis.experiments.runs.atomic import write_text
from ovis.experiments.runs.attempt import make_attempts
from ovis.experiments.runs.context import RunContext, WorkResult
from ovis.experiments.runs.process import new_owner, owner_is_dead, parent_guard
from ovis.experiments.runs.status import BUSY, EXHAUSTED, STALE, AttemptResult, Outcome, Record, State, read_outcome

KEY = "a" * 12


class Bench:
    """One claimed run and the job for it."""

    def __init__(self, lab: Lab, attempt: int = 1, **settings: Any) -> None:
        self.lab, self.queue = lab, lab.queue
        self.queue.add([record(KEY, settings=settings, attempt=attempt - 1)])
        (self.record,) = self.queue.tick(new_owner(), 1).claimed
        self.run = self.queue.paths.run(self.record.name)
        self.spec = JobSpec(self.queue.paths.folder, KEY, attempt, heartbeat=0.05, ttl=60.0, command=STUB)

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.spec.argv(), stderr=subprocess.PIPE, text=True)
        self.lab.processes.append(process)
        return process

    def finish(self) -> int:
        process = self.start()
        process.communicate(timeout=20)
        return process.returncode

    def outcome(self) -> Outcome:
        outcome = read_outcome(self.run)
        assert outcome is not None
        return outcome

    def journal(self) -> list[str]:
        file = self.run.folder / "journal.txt"
        return file.read_text().splitlines() if file.exists() else []

    def training(self) -> int:
        """The process id of the training, once it works."""
        self.lab.wait(lambda: (self.run.folder / "checkpoint.txt").exists())
        children = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and is_running(int(entry.name)) and self._is_training(entry)
        ]
        (training,) = children
        return training

    def _is_training(self, entry: Path) -> bool:
        words = (entry / "cmdline").read_text(errors="replace").split("\0")
        return words[1:2] == [STUB[1]] and f"--run_dir={self.run.folder}" in words


@pytest.mark.slow
def test_a_ledger_that_is_shown_late_is_waited_for(lab: Lab) -> None:
    """A network file system may show a ledger from before the claim, or none, for a minute."""
    bench = Bench(lab)
    now = lab.paths.ledger.read_bytes()
    bench.queue.tick("later", 0, [Ended(KEY, 1, Outcome(AttemptResult.ABORTED, 1))])
    assert bench.queue.tick("later", 1).claimed[0].attempt == 2
    new, bench.spec = lab.paths.ledger.read_bytes(), replace(bench.spec, attempt=2)
    for old in (now, None):
        lab.paths.ledger.unlink() if old is None else lab.paths.ledger.write_bytes(old)
        threading.Timer(1.5, write_text, [lab.paths.ledger, new.decode()]).start()
        with contextlib.ExitStack() as locks:
            run = acquire_run(lab.paths, KEY, 2, "", locks, lambda: False)
            assert isinstance(run, AcquiredRun)
            assert run.attempt == 2


def test_an_attempt_that_never_appears_in_the_ledger_is_stale(lab: Lab) -> None:
    bench = Bench(lab, attempt=1)
    bench.spec = replace(bench.spec, attempt=2, ttl=2.0)
    assert bench.finish() == STALE
    bench.spec = replace(bench.spec, key="unknown")
    assert bench.finish() == STALE
    assert bench.journal() == []


def test_a_job_that_waits_for_the_ledger_can_be_stopped(lab: Lab) -> None:
    bench = Bench(lab)
    bench.spec = replace(bench.spec, attempt=2, ttl=400.0)
    job = bench.start()
    time.sleep(1.0)
    assert job.poll() is None
    job.terminate()
    assert job.wait(10) in (STALE, -signal.SIGTERM)  # the latter where it has not got so far as to listen


def test_success_is_published(lab: Lab) -> None:
    bench = Bench(lab, id="two words", nsteps=4)
    bench.spec = replace(bench.spec, data_root="/some data", device="cpu")
    assert bench.finish() == 0
    outcome = bench.outcome()
    assert (outcome.status, outcome.attempt, outcome.exit, outcome.message) == (AttemptResult.SUCCESS, 1, 0, "")
    assert bench.run.success.exists()
    assert bench.run.fence.read_text().strip() == "1"
    assert bench.run.log(1).read_text().splitlines() == [f"step {n}" for n in (1, 2, 3, 4)]
    call = json.loads((bench.run.folder / "call.json").read_text())
    folder = bench.queue.paths.folder
    assert call["argv"][:2] == [f"--run_dir={bench.run.folder}", "--attempt=1"]
    assert json.loads(call["argv"][2].removeprefix("--settings=")) == {
        **{"id": "two words", "nsteps": 4, "exp": folder.name, "root": str(folder.parent)},
        **{"device": "cpu", "data_root": "/some data"},
    }


def test_an_error_is_published_with_its_last_line(lab: Lab) -> None:
    bench = Bench(lab, id="fail")
    assert bench.finish() == 0
    outcome = bench.outcome()
    assert (outcome.status, outcome.exit) == (AttemptResult.EXCEPTION, 1)
    assert outcome.message == "ValueError: the loss is not finite"
    assert not bench.run.success.exists()


def test_a_killed_training_is_no_error_of_its_own(lab: Lab) -> None:
    bench = Bench(lab, id="die")
    assert bench.finish() == 0
    assert (bench.outcome().status, bench.outcome().signal) == (AttemptResult.SIGNAL, signal.SIGKILL)
    assert "SIGKILL" in bench.outcome().message


@pytest.mark.parametrize("command", [("/no/such/program",), (sys.executable, "-c", "raise SystemExit(7)")])
def test_a_training_without_output(lab: Lab, command: tuple[str, ...]) -> None:
    bench = Bench(lab)
    bench.spec = replace(bench.spec, command=command)
    assert bench.finish() == 0
    assert bench.outcome().status is AttemptResult.EXCEPTION
    assert ("can't start" if len(command) == 1 else "exit code 7") in bench.outcome().message


def test_a_full_disk_is_no_error_of_the_training(lab: Lab) -> None:
    """A sweep whose disk is full overnight goes on when space is free again, instead of failing run by run."""
    bench = Bench(lab)
    code = f"import sys; print('error: disk full: a', file=sys.stderr); sys.exit({EXHAUSTED})"
    bench.spec = replace(bench.spec, command=(sys.executable, "-c", code))
    assert bench.finish() == 0
    assert (bench.outcome().status, bench.outcome().message) == (AttemptResult.EXHAUSTED, "error: disk full: a")
    (event,) = bench.queue.tick(new_owner(), 0, ended=[Ended(KEY, 1, Outcome(AttemptResult.LOST, 1))]).events
    assert (event.record.state, event.record.lost, event.record.failures) == (State.QUEUED, 1, 0)
    assert event.record.reason == "exhausted"


def test_a_machine_without_a_free_process_is_no_error_of_the_training(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(lab)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # the tests' own stay

    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert run_job(bench.spec) == 0
    assert bench.outcome().status is AttemptResult.EXHAUSTED
    assert bench.outcome().message == "can't start: [Errno 11] Resource temporarily unavailable"


def test_a_training_that_was_superseded_has_no_outcome(lab: Lab) -> None:
    bench = Bench(lab)
    bench.spec = replace(bench.spec, command=(sys.executable, "-c", f"raise SystemExit({STALE})"))
    assert bench.finish() == STALE
    assert not bench.run.outcome.exists()


@pytest.mark.parametrize("label", slow_except(["a 'b\" c", "\udcff"], ["a\0b", "a 'b\" c", "--id=x", "\udcff", "é"]))
def test_any_label_reaches_the_training(lab: Lab, label: str) -> None:
    bench = Bench(lab, id=label)
    assert bench.finish() == 0
    call = json.loads((bench.run.folder / "call.json").read_text())
    assert json.loads(call["argv"][2].removeprefix("--settings="))["id"] == label


def test_a_job_without_a_valid_spec_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("", "{}", "[1]", '{"folder": "x", "companions": [], "command": []}'):
        assert main([text]) == 2
        assert capsys.readouterr().err == f"job: not the spec of a job: {text!r}\n"


def test_sigterm_lets_the_training_checkpoint(lab: Lab) -> None:
    bench = Bench(lab, nsteps=100000)
    job = bench.start()
    bench.training()
    job.terminate()
    assert job.wait(10) == 0
    assert bench.outcome().status is AttemptResult.ABORTED
    assert bench.journal() == ["start at 0 in 1", "stopped in 1"]
    assert not bench.run.success.exists()


def test_sigterm_before_the_training_handles_it(lab: Lab) -> None:
    bench = Bench(lab)
    bench.spec = replace(bench.spec, command=(sys.executable, "-c", "import time; time.sleep(60)"))
    job = bench.start()
    lab.wait(lambda: bench.run.log(1).exists())
    job.terminate()
    assert job.wait(10) == 0
    assert bench.outcome().status is AttemptResult.ABORTED


def test_a_run_in_use_is_left_alone(lab: Lab) -> None:
    bench = Bench(lab)
    bench.run.folder.mkdir()
    with bench.run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert bench.finish() == BUSY
    assert sorted(os.listdir(bench.run.folder)) == [".run.lock"]


def test_two_jobs_never_share_a_run(lab: Lab) -> None:
    bench = Bench(lab, id="wait")
    first = bench.start()
    bench.training()
    assert bench.finish() == BUSY
    first.terminate()
    assert first.wait(10) == 0
    assert bench.journal() == ["start at 0 in 1", "stopped in 1"]


def test_an_orphaned_training_keeps_the_run(lab: Lab) -> None:
    """Where nothing kills the child of a killed job, the child has the lock itself."""
    bench = Bench(lab)
    bench.run.folder.mkdir()
    with bench.run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    assert bench.finish() == BUSY
    orphan.communicate(b"\n")
    assert bench.finish() == 0


def test_the_training_holds_the_lock(lab: Lab) -> None:
    bench = Bench(lab, nsteps=100000)
    bench.start()
    training = bench.training()
    held = {os.readlink(entry) for entry in Path(f"/proc/{training}/fd").iterdir()}
    assert str(bench.run.lock) in held


@pytest.mark.parametrize("attempt", [0, 2])
def test_an_attempt_that_is_not_the_claimed_one_does_nothing(lab: Lab, attempt: int) -> None:
    bench = Bench(lab)
    bench.spec = replace(bench.spec, attempt=attempt, ttl=2.0)
    assert bench.finish() == STALE
    assert not bench.run.folder.exists()


def test_a_later_fence_is_never_lowered(lab: Lab) -> None:
    bench = Bench(lab, attempt=3)
    bench.run.folder.mkdir()
    bench.run.fence.write_text("4\n")
    assert bench.finish() == STALE
    assert bench.run.fence.read_text() == "4\n"
    assert bench.journal() == []


def test_an_attempt_overtaken_while_it_ran_publishes_nothing(lab: Lab) -> None:
    bench = Bench(lab, id="wait")
    job = bench.start()
    bench.training()
    bench.run.fence.write_text("2\n")
    job.terminate()
    assert job.wait(10) == STALE
    assert bench.journal()[-1] == "stopped in 1"
    assert not bench.run.outcome.exists()
    assert not bench.run.success.exists()


def test_a_revoked_lease_ends_the_training(lab: Lab) -> None:
    bench = Bench(lab, nsteps=100000, id="stubborn")
    job = bench.start()
    training = bench.training()
    bench.queue.leases.revoke(KEY, 1)
    assert job.wait(10) == STALE
    assert not is_running(training)
    assert not bench.run.outcome.exists()


def test_a_lease_that_cannot_be_renewed_ends_the_training_before_the_queue_takes_it_for_lost(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(lab, nsteps=100000, id="stubborn")
    bench.spec = replace(bench.spec, ttl=2.0)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # the tests' own stay

    def refuse(leases: Leases, key: str, attempt: int) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Leases, "beat", refuse)
    begin = time.monotonic()
    assert run_job(bench.spec) == STALE
    assert 1.0 <= time.monotonic() - begin < 10.0
    assert not bench.run.outcome.exists()


def test_a_child_whose_parent_ended_before_it_could_ask_does_not_start() -> None:
    guard = parent_guard()
    guard.parent += 10**6
    assert subprocess.Popen([sys.executable, "-c", ""], preexec_fn=guard).wait(10) == -signal.SIGKILL


def test_a_zombie_manager_is_dead(lab: Lab) -> None:
    """In a container its parent may never ask how it ended."""
    code = "from ovis.experiments.runs.process import new_owner; print(new_owner(), flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as manager:
        assert manager.stdin is not None
        assert manager.stdout is not None
        owner = manager.stdout.readline().strip()
        assert not owner_is_dead(owner)
        manager.stdin.write("\n")
        manager.stdin.flush()
        lab.wait(lambda: owner_is_dead(owner))
        assert Path(f"/proc/{manager.pid}").exists()


def test_the_lease_is_kept_alive(lab: Lab) -> None:
    bench = Bench(lab, nsteps=100000)
    lease = bench.queue.paths.lease(KEY, 1)
    bench.start()
    bench.training()
    os.utime(lease, (1, 1))
    lab.wait(lambda: lease.stat().st_mtime > time.time() - 60)


def test_the_training_dies_with_its_job(lab: Lab) -> None:
    bench = Bench(lab, nsteps=100000, id="stubborn")
    job = bench.start()
    training = bench.training()
    job.kill()
    lab.wait(lambda: not is_running(training))


def test_a_job_without_its_parent_does_not_start(lab: Lab) -> None:
    bench = Bench(lab)
    bench.spec = replace(bench.spec, parent=os.getpid() + 10**6)
    assert bench.finish() == STALE
    assert not bench.run.folder.exists()


def test_an_outcome_that_counts_is_not_computed_again(lab: Lab) -> None:
    bench = Bench(lab, attempt=2)
    write(bench, Outcome(AttemptResult.SUCCESS, 1))
    assert bench.finish() == 0
    assert bench.journal() == []
    assert bench.outcome().attempt == 1


def test_an_outcome_that_no_longer_counts_is_replaced(lab: Lab) -> None:
    bench = Bench(lab, attempt=2)
    write(bench, Outcome(AttemptResult.ABORTED, 1))
    assert bench.finish() == 0
    assert (bench.outcome().status, bench.outcome().attempt) == (AttemptResult.SUCCESS, 2)


def test_a_log_that_is_a_link_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    bench = Bench(lab)
    bench.run.folder.mkdir()
    bench.run.log(1).symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("precious")
    assert bench.finish() == 0
    assert bench.outcome().status is AttemptResult.EXCEPTION
    assert bench.outcome().message.endswith(f"is a symbolic link, which is not followed: '{bench.run.log(1)}'")
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_log_of_a_run_by_hand_is_not_followed(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lab.paths.run("by-hand")
    run.folder.mkdir(parents=True)
    run.log(1).symlink_to(tmp_path / "precious")  # which does not exist, and is not created
    assert make_attempts([run], lambda contexts: [WorkResult(True)]) == 1
    assert capsys.readouterr().err == f"error: is a symbolic link, which is not followed: {run.log(1)}\n"
    assert not (tmp_path / "precious").exists()
    run.log(1).unlink()

    def work(contexts: Sequence[RunContext]) -> Sequence[WorkResult]:
        logging.getLogger("test").info("K = 10, \N{GREEK SMALL LETTER GAMMA} = 1")
        return [WorkResult(True)]

    assert make_attempts([run], work) == 0
    assert run.log(2).read_text(encoding="utf-8").splitlines()[0] == "K = 10, \N{GREEK SMALL LETTER GAMMA} = 1"


def test_a_link_as_log_of_the_jobs_is_refused_at_the_start(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    lab.paths.folder.mkdir(parents=True)
    (lab.folder / "precious").write_text("precious")
    lab.paths.jobs_log.symlink_to(lab.folder / "precious")
    assert lab.run() == 2
    assert capsys.readouterr().err == (
        f"manager.py: {lab.paths.jobs_log}: is a symbolic link, which no job would follow: remove it\n"
    )
    assert not lab.paths.ledger.exists()
    assert (lab.folder / "precious").read_text() == "precious"


def test_an_error_of_the_job_itself_is_one_line(lab: Lab) -> None:
    bench = Bench(lab)
    bench.run.folder.write_text("a file where the folder should be")
    job = bench.start()
    message = job.communicate(timeout=10)[1]
    assert job.returncode == 1
    assert message.count("\n") == 1
    assert bench.run.name in message


def write(bench: Bench, outcome: Outcome) -> None:
    bench.run.folder.mkdir()
    bench.run.outcome.write_text(json.dumps(outcome.to_json()))
    assert isinstance(bench.record, Record)
