"""The job: a process that runs one attempt at one run and says how it ended.

``python -m ovis.runner.job <experiment folder> <key> <attempt>``, started by an engine, perhaps on another machine. It
holds the run's lock and its fence, keeps its lease alive, runs the training as a child that dies with it, hands SIGTERM
on to it, and publishes the outcome. It never writes the ledger.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ovis.runner.failpoints import failpoint
from ovis.runner.guards import hold_run, publish_outcome, read_fence, take_fence
from ovis.runner.leases import Leases
from ovis.runner.ledger import LedgerError
from ovis.runner.paths import ExperimentPaths, RunPaths
from ovis.runner.process import die_with_parent, parent_guard
from ovis.runner.queue import Queue
from ovis.runner.status import (
    ABORTED,
    BUSY,
    EXHAUSTED,
    STALE,
    Ending,
    Outcome,
    Record,
    State,
    last_line,
    read_outcome,
)
from ovis.runner.transitions import accepts

__all__ = ["TRAINING", "JobSpec", "main", "run_job"]

#: The training process; the run's options follow.
TRAINING = (sys.executable, "-m", "ovis.cli.train")

#: What the system says that has run out of something: room on the disk, memory, processes, files.
SHORT_OF = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.ENFILE, errno.EMFILE)


@dataclass(frozen=True)
class JobSpec:
    """What an engine needs to know to start a job.

    Attributes:
        folder: the experiment's folder.
        key: the run.
        attempt: number of the attempt, as claimed.
        data_root: folder of the data sets; empty: the training's default.
        device: what the training is told by ``--device``.
        heartbeat: seconds between two signs of life.
        ttl: seconds of silence after which the queue takes the job for lost.
        parent: process id the job shall die with; 0: none.
        place: where it runs, for people: the job writes it into its lease as it begins, by which the manager knows that
            it has; empty: nobody asks.
        command: the training process.
    """

    folder: Path
    key: str
    attempt: int
    data_root: str = ""
    device: str = "auto"
    heartbeat: float = 10.0
    ttl: float = 60.0
    parent: int = 0
    place: str = ""
    command: tuple[str, ...] = TRAINING

    def argv(self) -> list[str]:
        """The words that start the job."""
        options = [
            f"--data_root={self.data_root}",
            f"--device={self.device}",
            f"--heartbeat={self.heartbeat}",
            f"--ttl={self.ttl}",
            f"--parent={self.parent}",
            f"--place={self.place}",
        ]
        place = [os.path.abspath(self.folder), self.key, str(self.attempt)]
        return [sys.executable, "-m", "ovis.runner.job", *options, "--", *place, *self.command]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job from its command line.

    Returns:
        0: the outcome is published; BUSY: another process holds the run; STALE: the attempt was revoked; 1: an error.
    """
    parser = argparse.ArgumentParser(prog="ovis.runner.job", description="Run one attempt at one run of the queue.")
    parser.add_argument("folder", type=Path, help="the experiment's folder")
    parser.add_argument("key", help="the run's key")
    parser.add_argument("attempt", type=int, help="number of the attempt")
    parser.add_argument("command", nargs="*", default=TRAINING, help="the training process")
    parser.add_argument("--data_root", default="", help="folder of the data sets")
    parser.add_argument("--device", default="auto", help="device of the training")
    parser.add_argument("--heartbeat", type=float, default=10.0, help="seconds between two signs of life")
    parser.add_argument("--ttl", type=float, default=60.0, help="seconds of silence that mean death")
    parser.add_argument("--parent", type=int, default=0, help="process to die with; 0: none")
    parser.add_argument("--place", default="", help="where it runs, for people")
    options = vars(parser.parse_args(argv))
    options["folder"] = Path(os.path.abspath(options["folder"]))  # the training is started in another one
    spec = JobSpec(**{**options, "command": tuple(options["command"] or TRAINING)})
    try:
        return run_job(spec)
    except (LedgerError, OSError, ValueError) as error:
        print(f"job {spec.key}.{spec.attempt}: {error}", file=sys.stderr)
        return 1


def run_job(spec: JobSpec) -> int:
    """Run the attempt to its end.

    Returns:
        the exit code, as of :func:`main`.

    Raises:
        LedgerError: the ledger can't be read.
        OSError: a file of the run can't be written.
    """
    training = _Training(spec)
    signal.signal(signal.SIGTERM, training.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the manager's to handle
    if spec.parent and not die_with_parent(spec.parent):
        return STALE
    paths = ExperimentPaths(spec.folder)
    record = Queue(paths).find(spec.key)
    if record is None or record.state is not State.RUNNING or record.attempt != spec.attempt:
        return STALE
    if spec.place and not Leases(paths).occupy(spec.key, spec.attempt, spec.place):
        return STALE
    run = paths.run(record.name)
    run.folder.mkdir(exist_ok=True)
    with hold_run(run) as lock:
        if lock is None:
            return BUSY
        if not take_fence(run, spec.attempt):
            return STALE
        failpoint("job.fenced")
        if _settled(run, record):
            return 0
        outcome = training.run(record, run, lock)
        if outcome is None or read_fence(run) != spec.attempt:
            return STALE
        publish_outcome(run, outcome)
        failpoint("outcome.published")
    return 0


class _Training:
    """The training process, from its start to its outcome."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.told = False

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: ask the training to write its checkpoint and leave."""
        self.stopping = True
        self._tell()

    def run(self, record: Record, run: RunPaths, lock: int) -> Outcome | None:
        """Start the training, wait for it, and say how it ended; None: the attempt was revoked and it was killed."""
        if self.stopping:
            return self._outcome(run, ABORTED)
        try:
            self._start(record, run, lock)
        except (OSError, ValueError) as error:  # no such command; a NUL in an option
            short = isinstance(error, OSError) and error.errno in SHORT_OF
            ending = Ending.EXHAUSTED if short else Ending.EXCEPTION
            return Outcome(ending, self.spec.attempt, message=f"can't start: {error}", t=time.time())
        failpoint("job.spawned")
        self._tell()
        code = self._wait()
        return None if code is None or code == STALE else self._outcome(run, code)

    def _start(self, record: Record, run: RunPaths, lock: int) -> None:
        spec, folder = self.spec, self.spec.folder
        where = [f"--exp={folder.name}", f"--root={folder.parent}", f"--device={spec.device}"]
        where += [f"--data_root={spec.data_root}"] if spec.data_root else []
        where += [f"--run_dir={run.folder}", f"--attempt={spec.attempt}"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else the last line of the log need not be the last said
        code = self._code(record)
        if code is not None:
            search = [str(code), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        with run.log(spec.attempt).open("ab") as log:
            self.process = subprocess.Popen(
                [*spec.command, *shlex.split(record.arg), *where],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=code,  # python -m looks there first, before PYTHONPATH: the user's folder may be a clone
                start_new_session=True,
                preexec_fn=parent_guard(),
                pass_fds=(lock,),  # should this job be killed where nothing kills its child, the child keeps the lock
            )

    def _code(self, record: Record) -> Path | None:
        """Where the training's code is; None: it is this very package."""
        if not record.snapshot:
            return None
        code = ExperimentPaths(self.spec.folder).snapshot(record.snapshot)
        if not (code / "ovis" / "__init__.py").is_file():  # another ovis would be found, and run
            raise FileNotFoundError(f"the snapshot of the code {code} is gone: manager.py --update_lib takes a new one")
        return code

    def _tell(self) -> None:
        if self.stopping and self.process is not None and not self.told:
            self.told = True
            self.process.terminate()

    def _wait(self) -> int | None:
        """Wait for the training and renew the lease; None where the lease is gone."""
        assert self.process is not None
        leases = Leases(ExperimentPaths(self.spec.folder))
        last = time.monotonic()
        while True:
            try:
                return self.process.wait(timeout=self.spec.heartbeat)
            except subprocess.TimeoutExpired:
                pass
            try:
                alive = leases.beat(self.spec.key, self.spec.attempt)
                last = time.monotonic()
            except OSError:  # may pass; but once the queue could take us for lost, we have to be
                alive = time.monotonic() - last < self.spec.ttl / 2
            if not alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return None

    def _outcome(self, run: RunPaths, code: int) -> Outcome:
        attempt, now = self.spec.attempt, time.time()
        if code == 0:
            return Outcome(Ending.SUCCESS, attempt, exit=0, t=now)
        if code == ABORTED or (self.stopping and code == -signal.SIGTERM):
            return Outcome(Ending.ABORTED, attempt, exit=code, message="stopped on request", t=now)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return Outcome(Ending.SIGNAL, attempt, signal=-code, message=f"killed by {name}", t=now)
        message = last_line(run.log(attempt)) or f"ended with exit code {code} and no message"
        ending = Ending.EXHAUSTED if code == EXHAUSTED else Ending.EXCEPTION
        return Outcome(ending, attempt, exit=code, message=message, t=now)


def _settled(run: RunPaths, record: Record) -> bool:
    """Whether an earlier attempt, taken for lost, has come to its end after all; else what it left is removed."""
    outcome = read_outcome(run)
    if outcome is not None and accepts(record.to_row(), outcome, record.attempt):
        return True
    run.success.unlink(missing_ok=True)
    run.outcome.unlink(missing_ok=True)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
