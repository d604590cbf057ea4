"""Slurm's commands: what they are asked, and what they answer in one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from ovis.experiments.runner.engines.base import EngineError

__all__ = [
    "OURS_BEGIN",
    "Answer",
    "JobRow",
    "QueueWatch",
    "ask",
    "cancel_jobs",
    "cancel_waiting",
    "exit_code",
    "find_commands",
    "is_unheard",
    "one_line",
]

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol", "srun")

#: Seconds a command may take: it tries for about ten to reach a controller.
PATIENCE = 60.0

#: Seconds for scancel, which is said again until it is heard.
HURRY = 8.0

#: What a command says that did not reach the controller.
UNHEARD = ("contact slurm controller", "timed out")

#: Seconds between two questions to the controller, which answers all users; more where its answers take their time.
INTERVAL = 2.0

#: How our jobs' names begin: after a loss of its state, Slurm gives the numbers of old jobs to new ones.
OURS_BEGIN = "ovis-"

#: How its commands begin their complaints.
PREFIX = re.compile(r"^((sbatch|squeue|scancel|sinfo|scontrol|slurm_load_\w+)(:? (error|fatal))?|allocation failure): ")


def find_commands() -> None:
    """Return where Slurm's commands are at hand.

    Raises:
        EngineError: one of them is not.
    """
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise EngineError(f"no Slurm here: there is no command {absent[0]}; start the manager on a login node")


def one_line(text: str) -> str:
    """What a command complained of, without its own name before each line."""
    lines = [PREFIX.sub("", line.strip()).strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason was given"


def ask(*words: str) -> str:
    """What a command prints.

    Raises:
        EngineError: it failed, in its own words.
    """
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{words[0]}: {error}") from None
    if done.returncode:
        raise EngineError(f"{words[0]}: {one_line(done.stderr)}")
    return done.stdout


def is_unheard(complaint: str) -> bool:
    """Whether a command's complaint is that it did not reach the controller."""
    return any(words in complaint for words in UNHEARD)


def cancel_jobs(ids: Sequence[str], force: bool) -> bool:
    """Take waiting jobs out of Slurm's queue; send SIGTERM to running ones, or kill them. What is gone is ignored.

    Returns:
        whether the controller has heard of it.
    """
    if force:  # at once, and then from the queue too, where their node no longer answers
        return _scancel("--signal=KILL", *ids) and _scancel(*ids)
    return cancel_waiting(ids) and _scancel("--batch", "--signal=TERM", *ids)


def cancel_waiting(ids: Sequence[str]) -> bool:
    """Take waiting jobs out of Slurm's queue; those that run, run on.

    Returns:
        whether the controller has heard of it.
    """
    return _scancel("--state=PENDING", *ids)


def _scancel(*words: str) -> bool:
    try:
        done = subprocess.run(
            ["scancel", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
            timeout=HURRY,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return not (done.returncode and is_unheard(done.stderr))


def exit_code(id: str) -> int | None:
    """With which code a job of the last minutes has ended; None: Slurm no longer knows, or a signal ended it."""
    try:
        text = ask("scontrol", "show", "job", id)
    except EngineError:
        return None
    found = re.search(r"\bExitCode=(\d+):0\b", text)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class JobRow:
    """A job in Slurm's queue: its state in Slurm's words, its node, and why it waits or has ended."""

    state: str
    node: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """What squeue said.

    Attributes:
        rows: by job id, those that Slurm knows.
        asked: when it was asked, on the monotonic clock.
    """

    rows: dict[str, JobRow]
    asked: float = float("-inf")


class QueueWatch:
    """squeue, asked in the background about all jobs at once: a controller that is slow, or gone, delays nobody.

    Attributes:
        answer: the last one that came.
        silence: why the last question got none; empty where it did.
    """

    def __init__(self) -> None:
        self.answer = Answer({})
        self.silence = ""
        self._process: subprocess.Popen[str] | None = None
        self._output: IO[str] | None = None
        self._ids: Sequence[str] = ()
        self._asked = self._next = float("-inf")

    def look(self, ids: Sequence[str]) -> None:
        """Take an answer that has come, and ask again when it is time.

        Args:
            ids: the jobs; of an array, its own id or those of its elements. None: it is asked all the same, about the
                last ones, while it is silent.
        """
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._take(code, now)
        elif self._process is not None and now - self._asked > PATIENCE:
            self._process.kill()  # to be taken at the next look
        if ids:
            self._ids = sorted({id.partition("_")[0] for id in ids})
        if self._process is None and (ids or self.silence) and now >= self._next:
            try:
                self._ask(self._ids, now)
            except OSError as error:  # no more processes, or room
                self.silence, self._next = f"squeue: {error}", now + INTERVAL

    def _ask(self, ids: Sequence[str], now: float) -> None:
        self._asked = now
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  a pipe could fill up
        words = [
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            "--format=%i|%T|%N|%r|%j",
            f"--jobs={','.join(ids)}",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is not for it
        )

    def _take(self, code: int, now: float) -> None:
        assert self._output is not None
        self._output.seek(0)
        text = self._output.read()
        self._output.close()
        self._process = None
        self._next = now + max(INTERVAL, 5 * (now - self._asked))
        lines = text.splitlines()
        if code and "Invalid job id" not in text:  # that is what it says of one job that it has forgotten
            said = "\n".join(line for line in lines if "|" not in line)
            self.silence = f"no answer within {PATIENCE:.0f} s" if code == -signal.SIGKILL else one_line(said)
            return
        self.silence = ""
        rows = [line.split("|", 4) for line in lines if line.count("|") >= 4]
        ours = {id: JobRow(*row) for id, *row, name in rows if name.startswith(OURS_BEGIN)}
        self.answer = Answer(ours, self._asked)
