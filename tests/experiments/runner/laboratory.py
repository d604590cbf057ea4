"""Shared by the tests of the runner: experiments with a stub training, and a manager in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovis.experiments.cli.dbutils import main as dbutils
from ovis.experiments.cli.manager import main
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.status import Record, State, count_states

STUB = (sys.executable, str(Path(__file__).with_name("stub_training.py")))

#: ``manager.py`` with the stub; the heartbeat, the time to live and the manager's options follow.
MANAGER = (sys.executable, str(Path(__file__).with_name("stub_manager.py")))

UNGUARDED = Path(__file__).with_name("unguarded")

#: Words by which the command line of a process of each kind is recognized.
COMMAND_WORDS = {"job": "ovis.experiments.runner.job", "training": "--run_dir="}

DBUTILS = (sys.executable, str(Path(__file__).parents[3] / "dbutils.py"))


@dataclass
class Lab:
    """An experiment of stub runs in a folder of its own.

    Attributes:
        folder: contains the experiment file and the run root.
        policy: the queue's times; of managers in processes of their own only the heartbeat and the time to live.
        engine: the options of the manager that choose the engine and its devices.
        processes: those managers.
    """

    folder: Path
    policy: Policy = field(default_factory=lambda: Policy(backoff=0.1))
    engine: Sequence[str] = ("--device", "cpu", "--processes", "2")
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def paths(self) -> ExperimentPaths:
        return ExperimentPaths(self.folder / "runs" / "lab")

    @property
    def queue(self) -> Queue:
        return Queue(self.paths)

    def write(self, **experiment: Any) -> Path:
        path = self.folder / "lab.json"
        path.write_text(json.dumps(experiment))
        return path

    def arguments(self, *more: str) -> list[str]:
        where = ["--exp", str(self.folder / "lab.json"), "--root", str(self.folder / "runs")]
        return [*where, *self.engine, *more]

    def command(self, *more: str) -> list[str]:
        """The command line of a manager in a process of its own."""
        return [*MANAGER, str(self.policy.heartbeat), str(self.policy.ttl), *self.arguments(*more)]

    def run(self, *more: str) -> int:
        """Run the manager in this process."""
        return main(self.arguments(*more), STUB, self.policy)

    def dbutils(self, *options: str) -> int:
        """Run dbutils.py in this process."""
        return dbutils(["--exp", "lab", "--root", str(self.folder / "runs"), *options])

    def dbutils_command(self, *options: str) -> list[str]:
        """The command line of dbutils.py in a process of its own."""
        return [*DBUTILS, "--exp", "lab", "--root", str(self.folder / "runs"), *options]

    def start(
        self, *more: str, prepare: Callable[[], None] = lambda: None, **environment: str
    ) -> subprocess.Popen[str]:
        """The manager, in a process of its own, with these variables; ``prepare`` is called in it before it starts."""

        def before() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background makes the tests deaf to it
            prepare()

        process = subprocess.Popen(
            self.command(*more),
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=before,
        )
        self.processes.append(process)
        return process

    def counts(self) -> dict[str, int]:
        return {s.value: n for s, n in count_states(record.state for record in self.queue.read()).items() if n}

    def records(self) -> list[Record]:
        return self.queue.read()

    def runs(self) -> list[RunPaths]:
        return [self.paths.run(record.name) for record in self.queue.read()]

    def journal(self) -> dict[str, list[str]]:
        """The journal of each run's trainings."""
        files = {run.name: run.folder / "journal.txt" for run in self.runs()}
        return {name: file.read_text().splitlines() if file.exists() else [] for name, file in files.items()}

    def wait(self, condition: Callable[[], bool], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {self.counts()} {self.journal()}"
            time.sleep(0.02)

    def wait_for_steps(self, step: int, runs: int = 2) -> None:
        """Until ``runs`` trainings have come to ``step``."""

        def there() -> bool:
            files = list(self.paths.folder.glob("*/checkpoint.txt"))
            return sum(int(file.read_text()) >= step for file in files) >= runs

        self.wait(there)


def record(key: str = "a" * 12, **changes: Any) -> Record:
    return Record(**{"key": key, "name": f"run-{key}", "settings": {"estimator": "vimco-arithmetic"}, **changes})


def dead_owner() -> str:
    """The owner's name of a process that has ended."""
    code = "from ovis.experiments.runs.process import new_owner; print(new_owner())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_of(folder: Path) -> list[int]:
    """The processes that have ``folder`` on their command line."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder) in (entry / "cmdline").read_text(errors="replace") and is_running(int(entry.name)):
                    pids.append(int(entry.name))
            except OSError:
                continue
    return pids


def command_of(pid: int) -> str:
    """The process's command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether there was such a process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def without_guards(guards: str) -> dict[str, str]:
    """The environment of a process without these guards, see unguarded/sitecustomize.py; empty: with all."""
    if not guards:
        return dict(os.environ)
    search = os.pathsep.join(filter(None, [str(UNGUARDED), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": search, "OVIS_UNGUARDED": guards}


__all__ = [
    "COMMAND_WORDS",
    "STUB",
    "UNGUARDED",
    "Lab",
    "State",
    "command_of",
    "dead_owner",
    "is_running",
    "processes_of",
    "record",
    "send",
    "without_guards",
]
