"""The job: a process that runs one attempt at one run and says how it ended.

``python -m ovis.experiments.runner.job <experiment folder> <key> <attempt>``, started by an engine, perhaps on another machine. It
holds the run's lock and its fence, keeps its lease alive, runs the training as a child that dies with it, hands SIGTERM
on to it, and publishes the outcome. It never writes the ledger.

An ensemble is a job of several runs, trained by one child. Each has its own lock, fence, lease and outcome, as if it
had a job to itself; one that is revoked or can't be held leaves the others alone.
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

from ovis.experiments.runner.acquire import Held, hold
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.fencing import publish_outcome, read_fence, take_fence
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.process import die_with_parent, parent_guard
from ovis.experiments.runs.status import (
    ABORTED,
    BUSY,
    EXHAUSTED,
    HELD,
    STALE,
    AttemptResult,
    Outcome,
    Record,
    last_line,
)

__all__ = ["TRAINING", "JobSpec", "main", "run_job"]

#: The training process; the run's options follow.
TRAINING = (sys.executable, "-m", "ovis.experiments.cli.train")

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
        companions: ``<key>.<attempt>`` of further runs, which differ from this one only in the seed: the training makes
            them all.
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
    companions: tuple[str, ...] = ()
    command: tuple[str, ...] = TRAINING

    @property
    def attempts(self) -> list[tuple[str, int]]:
        """Key and attempt of each run."""
        pairs = [text.rpartition(".") for text in self.companions]
        return [(self.key, self.attempt), *((key, int(attempt)) for key, _, attempt in pairs)]

    def argv(self) -> list[str]:
        """The words that start the job."""
        options = [
            f"--data_root={self.data_root}",
            f"--device={self.device}",
            f"--heartbeat={self.heartbeat}",
            f"--ttl={self.ttl}",
            f"--parent={self.parent}",
            f"--place={self.place}",
            *(f"--companion={companion}" for companion in self.companions),
        ]
        place = [os.path.abspath(self.folder), self.key, str(self.attempt)]
        return [sys.executable, "-m", "ovis.experiments.runner.job", *options, "--", *place, *self.command]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job from its command line.

    Returns:
        0: the outcome is published; BUSY: another process holds the run; STALE: the attempt was revoked; 1: an error.
    """
    parser = argparse.ArgumentParser(
        prog="ovis.experiments.runner.job", description="Run one attempt at one run of the queue."
    )
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
    parser.add_argument("--companion", action="append", default=[], metavar="KEY.ATTEMPT", help="a further run")
    options = vars(parser.parse_args(argv))
    options["companions"] = tuple(options.pop("companion"))
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
    code, deadline = STALE, time.monotonic() + spec.ttl / 4

    def is_late() -> bool:
        return training.stopping or time.monotonic() > deadline

    with contextlib.ExitStack() as locks:
        held = []
        for key, attempt in spec.attempts:
            found = hold(ExperimentPaths(spec.folder), key, attempt, spec.place, locks, is_late)
            if isinstance(found, Held):
                held.append(found)
            elif key == spec.key:
                code = found
            elif found == BUSY:  # the exit code is the first run's
                print(f"job {key}.{attempt}: {HELD}", file=sys.stderr)
        if not held:
            return code
        code = STALE
        for run, outcome in training.run(held):
            if run.has_ended():
                code = 0
            elif outcome is not None and read_fence(run.paths) == run.attempt:
                publish_outcome(run.paths, outcome)
                failpoint("outcome.published")
                code = 0
    return code


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

    def run(self, held: Sequence[Held]) -> list[tuple[Held, Outcome | None]]:
        """Start the training, wait for it, and say how it ended; None: the attempt was revoked and it was killed."""
        code: int | None = ABORTED
        if not self.stopping:
            try:
                self._start(held)
            except (OSError, ValueError) as error:  # no such command; a NUL in an option
                short = isinstance(error, OSError) and error.errno in SHORT_OF
                ending = AttemptResult.EXHAUSTED if short else AttemptResult.EXCEPTION
                told, now = f"can't start: {error}", time.time()
                return [(run, Outcome(ending, run.attempt, message=told, t=now)) for run in held]
            failpoint("job.spawned")
            self._tell()
            code = self._wait(held)
        if code is None or code == STALE:
            return [(run, None) for run in held]
        return [(run, self._outcome(run, code, held[0])) for run in held]

    def _start(self, held: Sequence[Held]) -> None:
        spec, folder, first = self.spec, self.spec.folder, held[0]
        where = [f"--exp={folder.name}", f"--root={folder.parent}", f"--device={spec.device}"]
        where += [f"--data_root={spec.data_root}"] if spec.data_root else []
        if len(held) == 1:
            where += [f"--run_dir={first.paths.folder}", f"--attempt={first.attempt}"]
        else:
            where += ["--ensemble", *(f"{run.seed}:{run.attempt}:{run.paths.folder}" for run in held)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else the last line of the log need not be the last said
        code = self._code(first.record)
        if code is not None:
            search = [str(code), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        with first.paths.log(first.attempt).open("ab") as log:
            self.process = subprocess.Popen(
                [*spec.command, *shlex.split(first.record.arg), *where],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=code,  # python -m looks there first, before PYTHONPATH: the user's folder may be a clone
                start_new_session=True,
                preexec_fn=parent_guard(),
                # should this job be killed where nothing kills its child, the child keeps the locks
                pass_fds=[run.lock for run in held],
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

    def _wait(self, held: Sequence[Held]) -> int | None:
        """Wait for the training and renew the leases; None where they are gone.

        Where only some are, their fences are moved on: the training publishes nothing more of these runs.
        """
        assert self.process is not None
        leases = Leases(ExperimentPaths(self.spec.folder))
        last = time.monotonic()
        left = list(held)
        while True:
            try:
                return self.process.wait(timeout=self.spec.heartbeat)
            except subprocess.TimeoutExpired:
                pass
            try:
                gone = [run for run in left if not leases.beat(run.record.key, run.attempt)]
                last = time.monotonic()
            except OSError:  # may pass; but once the queue could take us for lost, we have to be
                gone = left if time.monotonic() - last >= self.spec.ttl / 2 else []
            left = [run for run in left if run not in gone]
            if not left:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return None
            for run in gone:
                take_fence(run.paths, run.attempt + 1)

    def _outcome(self, run: Held, code: int, first: Held) -> Outcome:
        attempt, now = run.attempt, time.time()
        if code == 0:
            return Outcome(AttemptResult.SUCCESS, attempt, exit=0, t=now)
        if code == ABORTED or (self.stopping and code == -signal.SIGTERM):
            return Outcome(AttemptResult.ABORTED, attempt, exit=code, message="stopped on request", t=now)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return Outcome(AttemptResult.SIGNAL, attempt, signal=-code, message=f"killed by {name}", t=now)
        message = last_line(first.paths.log(first.attempt)) or f"ended with exit code {code} and no message"
        ending = AttemptResult.EXHAUSTED if code == EXHAUSTED else AttemptResult.EXCEPTION
        return Outcome(ending, attempt, exit=code, message=message, t=now)


if __name__ == "__main__":
    raise SystemExit(main())
