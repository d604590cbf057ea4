"""Slurm's commands: run them, read their answers, and report their errors in one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from ovis.experiments.runner.engines.interface import EngineError

__all__ = [
    "JOB_NAME_PREFIX",
    "JobRow",
    "QueueListing",
    "QueueWatch",
    "SlurmError",
    "cancel_jobs",
    "cancel_waiting",
    "exit_code",
    "find_commands",
    "one_line",
    "run_command",
]

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")

#: Seconds for a command, which tries for about ten seconds to reach a controller.
PATIENCE = 60.0

#: Seconds for scancel, which is repeated until the controller has received it.
SCANCEL_PATIENCE = 8.0

#: Parts of the error messages of a command that did not reach the controller.
UNREACHED = ("contact slurm controller", "timed out")

#: What sbatch prints while the controller's own queue is full; a smaller array does not help.
CONTROLLER_FULL = "temporarily unable to accept job"

#: Seconds between two queries of the controller, which serves all users; more if it answers slowly.
INTERVAL = 2.0

#: Prefix of the names of ovis' jobs: a controller that has lost its state gives the numbers of old jobs to new ones.
JOB_NAME_PREFIX = "ovis-"

#: The beginnings of Slurm's error messages.
MESSAGE_PREFIX = re.compile(
    r"^((sbatch|squeue|scancel|sinfo|scontrol|slurm_load_\w+)(:? (error|fatal))?|allocation failure): "
)


class SlurmError(EngineError):
    """A command has failed, for the reason that it gave, in one line.

    Attributes:
        reason: the reason.
        unreached: whether the command did not reach the controller.
    """

    def __init__(self, command: str, reason: str, unreached: bool = False) -> None:
        super().__init__(f"{command}: {reason}")
        self.reason = reason
        self.unreached = CONTROLLER_FULL not in reason and (unreached or any(part in reason for part in UNREACHED))

    @property
    def may_accept_fewer(self) -> bool:
        """Whether Slurm, having refused an array, may accept a smaller one."""
        return not self.unreached and CONTROLLER_FULL not in self.reason


def find_commands() -> None:
    """Check that Slurm's commands are installed.

    Raises:
        EngineError: one of them is missing.
    """
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise EngineError(f"no Slurm here: there is no command {absent[0]}; start the manager on a login node")


def one_line(text: str) -> str:
    """A command's error messages in one line, without the command's name before each."""
    lines = [MESSAGE_PREFIX.sub("", line.strip()).strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason was given"


def run_command(
    *words: str, patience: float = PATIENCE, text: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """The output of a command. Ctrl-C does not reach it: it has a process group of its own.

    Args:
        words: the command and its arguments.
        patience: seconds after which it is killed.
        text: its standard input.
        environment: its environment; None: that of this process.

    Raises:
        SlurmError: it has failed.
    """
    try:
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            env=environment,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        printed = (error.stderr or b"").decode(errors="replace")
        reason = one_line(printed) if printed else f"no answer within {patience:.0f} s"
        raise SlurmError(words[0], reason, unreached=True) from None
    except OSError as error:
        raise SlurmError(words[0], str(error), unreached=True) from None
    if done.returncode:
        raise SlurmError(words[0], one_line(done.stderr))
    return done.stdout


def cancel_jobs(ids: Sequence[str], force: bool) -> bool:
    """Remove waiting jobs from Slurm's queue; send SIGTERM to running ones, or kill them. Ended jobs are ignored.

    Returns:
        whether the controller has received it.
    """
    if force:  # at once, and then from the queue too, in case their node no longer answers
        return _scancel("--signal=KILL", *ids) and _scancel(*ids)
    return cancel_waiting(ids) and _scancel("--batch", "--signal=TERM", *ids)


def cancel_waiting(ids: Sequence[str]) -> bool:
    """Remove waiting jobs from Slurm's queue; running ones continue.

    Returns:
        whether the controller has received it.
    """
    return _scancel("--state=PENDING", *ids)


def _scancel(*words: str) -> bool:
    try:
        run_command("scancel", *words, patience=SCANCEL_PATIENCE)
    except SlurmError as error:
        return not error.unreached
    return True


def exit_code(id: str) -> int | None:
    """The exit code of a job of the last minutes; None: Slurm no longer knows it, or a signal ended it."""
    try:
        text = run_command("scontrol", "show", "job", id)
    except SlurmError:
        return None
    match = re.search(r"\bExitCode=(\d+):0\b", text)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class JobRow:
    """A job in Slurm's queue: its state as Slurm calls it, its node, and why it waits or has ended."""

    state: str
    node: str
    reason: str


@dataclass(frozen=True)
class QueueListing:
    """An answer of squeue.

    Attributes:
        rows: the jobs that Slurm knows, by id.
        asked: when squeue was started, on the monotonic clock.
    """

    rows: dict[str, JobRow]
    asked: float = float("-inf")


class QueueWatch:
    """Asks squeue in the background about all jobs at once, so that a slow or absent controller blocks nothing.

    Attributes:
        listing: the last answer.
        silence: why the last question was not answered; empty if it was.
    """

    def __init__(self) -> None:
        self.listing = QueueListing({})
        self.silence = ""
        self._process: subprocess.Popen[str] | None = None
        self._output: IO[str] | None = None
        self._ids: Sequence[str] = ()
        self._asked = self._next = float("-inf")

    def look(self, ids: Sequence[str]) -> None:
        """Read an answer that has arrived, and ask again when it is time.

        Args:
            ids: the jobs: elements of an array, or jobs of their own. If there are none, squeue is asked about the last
                ones, as long as it has not answered.
        """
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._read(code, now)
        elif self._process is not None and now - self._asked > PATIENCE:
            self._process.kill()  # read at the next call
        if ids:
            self._ids = sorted({id.partition("_")[0] for id in ids})
        if self._process is None and (ids or self.silence) and now >= self._next:
            try:
                self._ask(self._ids, now)
            except OSError as error:  # too many processes, or no disk space
                self.silence, self._next = f"squeue: {error}", now + INTERVAL

    def _ask(self, ids: Sequence[str], now: float) -> None:
        self._asked = now
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  a pipe could fill up
        fields, jobs = "--format=%i|%T|%N|%r|%j", f"--jobs={','.join(ids)}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
        self._process = subprocess.Popen(
            ["squeue", "--noheader", "--array", "--states=all", fields, jobs],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is not for it
        )

    def _read(self, code: int, now: float) -> None:
        assert self._output is not None
        self._output.seek(0)
        text = self._output.read()
        self._output.close()
        self._process = None
        self._next = now + max(INTERVAL, 5 * (now - self._asked))
        lines = text.splitlines()
        if code and "Invalid job id" not in text:  # which squeue says of a single job that Slurm has forgotten
            errors = "\n".join(line for line in lines if "|" not in line)
            self.silence = f"no answer within {PATIENCE:.0f} s" if code == -signal.SIGKILL else one_line(errors)
            return
        self.silence = ""
        rows = [line.split("|", 4) for line in lines if line.count("|") >= 4]
        listed = {id: JobRow(*row) for id, *row, name in rows if name.startswith(JOB_NAME_PREFIX)}
        self.listing = QueueListing(listed, self._asked)
