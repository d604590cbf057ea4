"""Chaos: kill managers, jobs and trainings at random while they work on an experiment, and check the result.

``python tests/experiments/runner/chaos.py --runs 60 --kills 60 --seed 1`` runs it by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from laboratory import COMMAND_WORDS, Lab, command_of, processes_of, send, without_guards

from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.status import State

#: Weights of the kinds of processes that are killed.
TARGETS = {"manager": 35, "job": 30, "training": 35}


@dataclass
class Verdict:
    """The kills, and counts of which some must be zero.

    Attributes:
        runs: runs in the experiment.
        kills: processes killed, by kind.
        starts: trainings that were started.
        refused: jobs whose run another process had locked.
        lost: runs that are not done, or have no outcome, or no record.
        done_twice: runs whose record changed after its state was done.
        overlaps: events of an older attempt after a newer one's start, and trainings that met another one.
        unreadable: readings of the ledger, without a lock, that failed.
    """

    runs: int
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0))
    starts: int = 0
    refused: int = 0
    lost: int = 0
    done_twice: int = 0
    overlaps: int = 0
    unreadable: int = 0

    @property
    def holds(self) -> bool:
        return self.lost == self.done_twice == self.overlaps == self.unreadable == 0


@dataclass
class Chaos:
    """One trial.

    Attributes:
        lab: where.
        runs: how many.
        kills: how many.
        managers: at work at the same time, on the same experiment.
        slots: of each of them.
        step: seconds per step of a training; it has twelve.
        seed: of the killer's choices.
        unguarded: guards to take away, see unguarded/sitecustomize.py.
        targets: who is killed, with what weight.
        timeout: seconds.
    """

    lab: Lab
    runs: int
    kills: int
    managers: int = 2
    slots: int = 4
    step: float = 0.25
    seed: int = 0
    unguarded: str = ""
    targets: Mapping[str, int] = field(default_factory=lambda: TARGETS)
    timeout: float = 240.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.verdict = Verdict(self.runs)
        self.settled: dict[str, dict[str, object]] = {}

    def run(self) -> Verdict:
        """Kill until enough were killed, then wait until every run is done."""
        options = f"--estimator vimco --iw 2 --nsteps 12 --id step{round(1000 * self.step)}"
        self.lab.write(args=[options], seeds=self.runs)
        self.alive = [self._start_manager() for _ in range(self.managers)]
        begin = due = time.monotonic()
        try:
            while time.monotonic() - begin < self.timeout and not self._finished():
                self.watch()
                if time.monotonic() > due and sum(self.verdict.kills.values()) < self.kills:
                    self._kill()
                    due = time.monotonic() + self.random.uniform(0.15, 0.45)
                self._restart_managers()
                time.sleep(0.03)
            for manager in self.alive:  # with a guard away it may be waiting for a run's folder
                manager.wait(timeout=60)
        finally:
            for pid in [manager.pid for manager in self.alive] + processes_of(self.lab.paths.folder):
                send(pid, signal.SIGKILL)
        self.watch()
        return self.judge()

    def _start_manager(self) -> subprocess.Popen[bytes]:
        words = self.lab.command("--processes", str(self.slots))
        with (self.lab.folder / "managers.log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=without_guards(self.unguarded))

    def _restart_managers(self) -> None:
        """One that was killed comes back; one that ended because all is done does not."""
        self.alive = [m if m.poll() in (None, 0) else self._start_manager() for m in self.alive]

    def _finished(self) -> bool:
        return all(manager.poll() == 0 for manager in self.alive)

    def _kill(self) -> None:
        kind = self.random.choices(list(self.targets), weights=list(self.targets.values()))[0]
        if kind == "manager":
            pids = [manager.pid for manager in self.alive if manager.poll() is None]
        else:
            pids = [pid for pid in processes_of(self.lab.paths.folder) if COMMAND_WORDS[kind] in command_of(pid)]
        if pids and self._under_way():
            send(self.random.choice(sorted(pids)), signal.SIGKILL)
            self.verdict.kills[kind] += 1

    def _under_way(self) -> bool:
        """Whether the managers have come so far that there is something to lose."""
        return any(self.lab.paths.folder.glob("*/journal.txt"))

    def watch(self) -> None:
        """Read the ledger as ``dbutils.py --watch`` would; a record that says done must never change again."""
        try:
            records = self.lab.queue.read()
        except LedgerError:
            self.verdict.unreadable += 1
            return
        for record in records:
            row = record.to_row()
            if record.key in self.settled:
                self.verdict.done_twice += row != self.settled[record.key]
            if record.state is State.DONE:
                self.settled[record.key] = row

    def judge(self) -> Verdict:
        """What became of the runs, by the ledger, their outcomes and what their trainings have noted."""
        verdict, records = self.verdict, self.lab.records()
        done = [record for record in records if record.state is State.DONE]
        published = [record for record in done if self.lab.paths.run(record.name).outcome.exists()]
        verdict.lost = max(self.runs - len(published), len(records) - self.runs)
        for lines in self.lab.journal().values():
            verdict.starts += sum(line.startswith("start") for line in lines)
            verdict.overlaps += sum(line.startswith("overlap") for line in lines)
            newest = 0
            for line in lines:
                attempt = int(line.split()[-1])
                verdict.overlaps += attempt < newest
                newest = max(newest, attempt)
        verdict.refused = (self.lab.folder / "managers.log").read_text(errors="replace").count(" busy: ")
        return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unguarded", default="", help="deathsignal,runlock")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        verdict = Chaos(Lab(Path(folder), Policy(heartbeat=0.25, ttl=1.5)), **options).run()
    print(json.dumps(asdict(verdict)))
    return not verdict.holds


if __name__ == "__main__":
    raise SystemExit(main())
