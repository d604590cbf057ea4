"""The job: a process that makes one attempt at one run, or at each of several, and publishes the outcome.

``python -m ovis.experiments.runner.job SPEC``, started by an engine, perhaps on another machine. It locks and fences
the run, keeps its lease alive, runs the training as a child that dies with it, passes SIGTERM on to it, and publishes
the outcome where the training has not done so itself. It never writes the ledger.

An ensemble is a job of several runs, trained by one child. Each has its own lock, fence, lease and outcome, as if it
had a job to itself; one that is revoked or can't be acquired leaves the others alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ovis.experiments.runner.acquire import AcquiredRun, acquire_run
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.snapshot import live_package
from ovis.experiments.runs.atomic import no_link
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.fencing import publish_outcome, read_fence, take_fence
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.process import die_with_parent, parent_guard
from ovis.experiments.runs.retrying import is_transient, retry
from ovis.experiments.runs.status import (
    ABORTED,
    BUSY,
    EXHAUSTED,
    LOCKED,
    STALE,
    AttemptResult,
    Outcome,
    Record,
    last_line,
)

__all__ = ["TRAINING", "JobSpec", "main", "run_job"]

#: The training process; the runs, their attempts and their settings follow.
TRAINING = (sys.executable, "-m", "ovis.experiments.cli.train")


@dataclass(frozen=True)
class JobSpec:
    """What an engine needs to start a job.

    Attributes:
        folder: the experiment's folder.
        key: the run.
        attempt: number of the attempt, as claimed.
        data_root: folder of the data sets; empty: the training's default.
        device: the training's ``--device``.
        heartbeat: seconds between two renewals of the lease.
        ttl: seconds without a renewal after which the queue takes the job for lost.
        parent: id of the process with which the job ends; 0: none.
        location: where the job runs, for messages. The job writes it into its lease when it starts, which tells the
            manager that it has started; empty: not needed.
        companions: key and attempt of further runs, which differ from this one only in the seed and are trained with
            it.
        command: the training process.
        snapshot: the code that the job and the training run on, as of :class:`~.snapshot.Snapshot`; empty: this
            package's. The engine starts the job there, so the job itself is not told.
    """

    folder: Path
    key: str
    attempt: int
    data_root: str = ""
    device: str = "auto"
    heartbeat: float = 10.0
    ttl: float = 60.0
    parent: int = 0
    location: str = ""
    companions: tuple[tuple[str, int], ...] = ()
    command: tuple[str, ...] = TRAINING
    snapshot: str = ""

    @property
    def code(self) -> Path:
        """The folder of that code: the job's working directory, and the first one to be searched for modules."""
        return ExperimentPaths(self.folder).snapshot(self.snapshot) if self.snapshot else live_package().parent

    @property
    def attempts(self) -> list[tuple[str, int]]:
        """Key and attempt of each run."""
        return [(self.key, self.attempt), *self.companions]

    def argv(self) -> list[str]:
        """The words that start the job."""
        return [sys.executable, "-m", "ovis.experiments.runner.job", self.to_json()]

    def to_json(self) -> str:
        """The job as a JSON object."""
        spec = {**vars(self), "folder": os.path.abspath(self.folder)}  # it may start in another folder
        del spec["snapshot"]
        return json.dumps(spec)

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """The job that :meth:`to_json` has written.

        Raises:
            ValueError: it is not the spec of a job.
        """
        try:
            spec = json.loads(text)
            companions = tuple((key, attempt) for key, attempt in spec["companions"])
            folder, command = Path(spec["folder"]), tuple(spec["command"])
            return cls(**{**spec, "folder": folder, "companions": companions, "command": command})
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"not the spec of a job: {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job from its command line.

    Returns:
        0: the outcome is published; BUSY: another process has locked the run; STALE: the attempt was revoked; 1: an
        error; 2: no valid spec.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ovis.experiments.runner.job",
        description="Make one attempt at a run of the queue; started by the engines of the manager.",
    )
    parser.add_argument("spec", help="a JSON object, see ovis.experiments.runner.job.JobSpec")
    try:
        spec = JobSpec.from_json(parser.parse_args(argv).spec)
    except ValueError as error:
        print(f"job: {error}", file=sys.stderr)
        return 2
    try:
        return run_job(spec)
    except (LedgerError, OSError, ValueError) as error:
        print(f"job {spec.key}.{spec.attempt}: {error}", file=sys.stderr)
        return 1


def run_job(spec: JobSpec) -> int:
    """Make the attempts, to their end.

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
        runs = []
        for key, attempt in spec.attempts:
            result = acquire_run(ExperimentPaths(spec.folder), key, attempt, spec.location, locks, is_late)
            if isinstance(result, AcquiredRun):
                runs.append(result)
            elif key == spec.key:
                code = result
            elif result == BUSY:  # the exit code is the first run's
                print(f"job {key}.{attempt}: {LOCKED}", file=sys.stderr)
        if not runs:
            return code
        code = STALE
        for run, outcome in training.run(runs):
            if run.has_outcome():
                code = 0
            elif outcome is not None and retry(functools.partial(read_fence, run.paths)) == run.attempt:
                publish_outcome(run.paths, outcome)
                failpoint("outcome.published")
                code = 0
    return code


class _CodeMissing(OSError):
    """The snapshot of the code is gone. The manager writes it again, if it can."""


class _Training:
    """The training process, from its start to its outcome."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.terminated = False

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: ask the training to write its checkpoint and leave."""
        self.stopping = True
        self._pass_on_stop()

    def run(self, runs: Sequence[AcquiredRun]) -> list[tuple[AcquiredRun, Outcome | None]]:
        """Start the training and wait for it: the outcome of each run; None: the attempt was revoked."""
        code: int | None = ABORTED
        if not self.stopping:
            try:
                self._start(runs)
            except OSError as error:
                passes = is_transient(error) or isinstance(error, _CodeMissing)
                result = AttemptResult.EXHAUSTED if passes else AttemptResult.EXCEPTION
                message, now = f"can't start: {error}", time.time()
                return [(run, Outcome(result, run.attempt, message=message, t=now)) for run in runs]
            failpoint("job.spawned")
            self._pass_on_stop()
            code = self._wait(runs)
        if code is None or code == STALE:
            return [(run, None) for run in runs]
        return [(run, self._outcome(run, code, runs[0])) for run in runs]

    def _start(self, runs: Sequence[AcquiredRun]) -> None:
        spec, first = self.spec, runs[0]
        where = {"exp": spec.folder.name, "root": str(spec.folder.parent), "device": spec.device}
        if spec.data_root:
            where["data_root"] = spec.data_root
        words = list(spec.command)
        for run in runs:
            settings = json.dumps({**run.record.settings, **where})
            words += [f"--run_dir={run.paths.folder}", f"--attempt={run.attempt}", f"--settings={settings}"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else the log's last line need not be the last printed
        code = self._code(first.record)
        if code is not None:
            search = [str(code), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        with open(first.paths.log(first.attempt), "ab", opener=no_link) as log:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=code,  # python -m looks there first, before PYTHONPATH: the user's folder may be a clone
                start_new_session=True,
                preexec_fn=parent_guard(),
                # should this job be killed where nothing kills its child, the child keeps the locks
                pass_fds=[run.lock for run in runs],
            )

    def _code(self, record: Record) -> Path | None:
        """The folder with the code of the training; None: that of this package."""
        if not record.snapshot:
            return None
        paths = ExperimentPaths(self.spec.folder)
        code = paths.snapshot(record.snapshot)
        if not paths.has_snapshot(record.snapshot):
            raise _CodeMissing(f"the snapshot of the code {code} is gone: manager.py --update_lib takes a new one")
        return code

    def _pass_on_stop(self) -> None:
        if self.stopping and self.process is not None and not self.terminated:
            self.terminated = True
            self.process.terminate()

    def _wait(self, runs: Sequence[AcquiredRun]) -> int | None:
        """Wait for the training and renew the leases: its exit code; None: all leases were revoked, and it was killed.

        Where only some are revoked, their fences are moved on: the training publishes nothing more of these runs.
        """
        assert self.process is not None
        leases = Leases(ExperimentPaths(self.spec.folder))
        last = time.monotonic()
        left = list(runs)
        while True:
            try:
                return self.process.wait(timeout=self.spec.heartbeat)
            except subprocess.TimeoutExpired:
                pass
            try:
                revoked = [run for run in left if not leases.beat(run.record.key, run.attempt)]
                last = time.monotonic()
            except OSError:  # may pass; but the job has to end before the queue takes it for lost
                revoked = left if time.monotonic() - last >= self.spec.ttl / 2 else []
            left = [run for run in left if run not in revoked]
            if not left:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return None
            for run in revoked:
                take_fence(run.paths, run.attempt + 1)

    def _outcome(self, run: AcquiredRun, code: int, first: AcquiredRun) -> Outcome:
        """The outcome by the exit code of the training, if it has not published one itself."""
        attempt, now = run.attempt, time.time()
        if code == 0:
            return Outcome(AttemptResult.SUCCESS, attempt, exit=0, t=now)
        if code == ABORTED or (self.stopping and code == -signal.SIGTERM):
            return Outcome(AttemptResult.ABORTED, attempt, exit=code, message="stopped on request", t=now)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return Outcome(AttemptResult.SIGNAL, attempt, signal=-code, message=f"killed by {name}", t=now)
        if not run.paths.folder.exists():  # an unmounted root ends what starts from it: that may pass
            message = f"ended with exit code {code}, when its folder was not there"
            return Outcome(AttemptResult.EXHAUSTED, attempt, exit=code, message=message, t=now)
        message = last_line(first.paths.log(first.attempt)) or f"ended with exit code {code} and no message"
        result = AttemptResult.EXHAUSTED if code == EXHAUSTED else AttemptResult.EXCEPTION
        return Outcome(result, attempt, exit=code, message=message, t=now)


if __name__ == "__main__":
    raise SystemExit(main())
