"""Storms: everything that can happen to an experiment in a bad week, in a minute, and what must be true after it.

By hand, over stubs, or with ``--real`` over small real trainings, whose results must be bit-identical to those of
undisturbed ones::

    export PYTHONPATH=.:tests/experiments/training
    python tests/experiments/runner/storm.py --acts 400
    python tests/experiments/runner/storm.py --acts 150 --seeds 6 --slots 2 --real
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults import ERRORS, FUNCTIONS, Faults
from laboratory import COMMAND_WORDS, Lab, command_of, processes_of, send, without_guards
from resume_lab import left_by, unequal

from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.status import AttemptResult, Record, State, read_outcome

MANAGER = (sys.executable, str(Path(__file__).with_name("storm_manager.py")))

#: The acts, and how often each is chosen.
ACTS = {
    **{"kill manager": 2, "kill job": 5, "kill training": 5},
    **{"stop manager": 4, "stop job": 5, "stop training": 5},  # SIGSTOP, and SIGCONT a while later
    **{"hang up": 1, "Ctrl-C": 1, "Ctrl-C twice": 1},  # of a manager
    **{"cancel": 4, "redo": 4, "requeue": 2, "clean": 3},  # with dbutils.py
    **{"fault": 12},  # a kind of call fails, with one error, for about a second
}

STUBS = {"args": ["--estimator vimco --iw 2 --nsteps 12 --id step150"]}

#: Three kinds of runs: a checkpoint is written at each of eight evaluations.
COMMON = "--lr 1e-2 --max_eval 40 --iw_valid 5 --iw_test 5 --iw 4 --device cpu --epochs 16 --eval_freq 2"
REAL = {
    "global": COMMON,
    "args": [
        "--dataset digits --model sbm --N 8 --depth 2 --nlayers 0 --estimator ovis-gamma1 --bs 150 --warmup 15",
        "--dataset gmm --N 20 --hdim 16 --estimator reinforce-baseline --mini --bs 28 --lr_reduce_steps 1",
        "--dataset digits --model vae --nlayers 1 --hdim 16 --N 4 --estimator tvo-part2-config1 --dropout 0.3 "
        "--normalization batchnorm --bs 150 --optimizer rmsprop",
    ],
}


@dataclass
class Verdict:
    """The acts, and counts that must be zero.

    Attributes:
        runs: runs in the experiment.
        acts: acts by kind.
        faults: calls that failed by a fault.
        attempts: attempts at all runs.
        lost: runs that are not done in the end, or have no outcome or no record, or are not complete.
        twice: runs whose record changed after it was done, though nobody redid them; and overlapping trainings.
        mismarked: readings of a record that is failed, though no run has an error, or cancelled, though nobody did it.
        unreadable: readings of the ledger that failed.
        unequal: runs whose results differ from those of an undisturbed one.
        compared: runs that were compared.
        disturbed: runs that took more than one attempt.
    """

    runs: int
    acts: dict[str, int] = field(default_factory=dict)
    faults: int = 0
    attempts: int = 0
    lost: int = 0
    twice: int = 0
    mismarked: int = 0
    unreadable: int = 0
    unequal: int = 0
    compared: int = 0
    disturbed: int = 0
    details: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.lost == self.twice == self.mismarked == self.unreadable == self.unequal == 0


class Storm:
    """One storm.

    Args:
        lab: where; its policy is that of the managers.
        acts: how many.
        seeds: runs of each line of the experiment.
        real: small real trainings instead of stubs.
        pause: shortest and longest pause between two acts, in seconds.
        stop: shortest and longest time for which a process is stopped.
        managers: at work at the same time.
        slots: of each of them.
        seed: of the choices.
        timeout: seconds.
        weights: the acts, and how often each is chosen.
        functions: those that fail by a fault.
        unguarded: guards to take away, see unguarded/sitecustomize.py.
    """

    def __init__(
        self,
        lab: Lab,
        acts: int,
        seeds: int,
        real: bool = False,
        pause: tuple[float, float] = (0.1, 0.4),
        stop: tuple[float, float] = (0.1, 2.5),
        managers: int = 2,
        slots: int = 4,
        seed: int = 0,
        timeout: float = 900.0,
        weights: Mapping[str, int] = ACTS,
        functions: Sequence[str] = FUNCTIONS,
        unguarded: str = "",
    ) -> None:
        self.weights, self.functions, self.unguarded = weights, functions, unguarded
        self.lab, self.left, self.real, self.pause, self.stop = lab, acts, real, pause, stop
        self.slots, self.timeout = slots, timeout
        self.random = random.Random(seed)
        self.lab.write(**(REAL if real else STUBS), seeds=seeds)
        self.faults = Faults(lab.folder, lab.paths.folder)
        self.verdict = Verdict(seeds * len((REAL if real else STUBS)["args"]))
        self.done: dict[str, dict[str, Any]] = {}
        self.cancelled: set[str] = set()
        self.timers: list[threading.Timer] = []
        self.count = managers
        self.managers: list[subprocess.Popen[bytes]] = []

    def run(self) -> Verdict:
        """Act until enough was done, then wait until every run is done, and judge."""
        self.managers = [self._start_manager() for _ in range(self.count)]
        end, due = time.monotonic() + self.timeout, 0.0
        try:
            while time.monotonic() < end and not self._is_over() and not self.verdict.mismarked:
                records = self.watch()
                if self.left and time.monotonic() > due and self._under_way():
                    self._act(records)
                    due = time.monotonic() + self.random.uniform(*self.pause)
                over = (None,) if self.left else (None, 0)  # a redo may come after the manager that found all done
                self.managers = [m if m.poll() in over else self._start_manager() for m in self.managers]
                if not self.left:
                    self._requeue_cancelled()
                    self._disturb_the_others(records)
                time.sleep(0.03)
        finally:
            for timer in self.timers:
                timer.cancel()
            for pid in processes_of(self.lab.paths.folder.parent):
                send(pid, signal.SIGKILL)
        self.watch()
        return self._judge()

    def _start_manager(self) -> subprocess.Popen[bytes]:
        policy = self.lab.policy
        words = [*MANAGER, str(policy.heartbeat), str(policy.ttl), "real" if self.real else "stub"]
        words += self.lab.arguments("--processes", str(self.slots))
        environment = without_guards(self.unguarded) | self.faults.environment
        with (self.lab.folder / "managers.log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=environment, preexec_fn=_heed_ctrl_c)

    def _is_over(self) -> bool:
        return not self.left and not self.cancelled and all(manager.poll() == 0 for manager in self.managers)

    def _under_way(self) -> bool:
        """Whether the managers have come so far that there is something to lose; again after each restart."""
        name = "checkpoint.pt" if self.real else "journal.txt"
        return any(self.lab.paths.folder.glob(f"*/{name}"))

    def watch(self) -> list[Record]:
        """Read the ledger as ``dbutils.py --watch`` would."""
        try:
            records = self.lab.queue.read()
        except LedgerError as error:
            self.verdict.unreadable += 1
            self.verdict.details.append(str(error))
            return []
        for record in records:
            row = record.to_row()
            if row != self.done.get(record.key, row):
                self._blame("twice", f"{record.key}: {self.done[record.key]} -> {row}")
            if record.state is State.DONE:
                self.done[record.key] = row
            wrong = record.state is State.FAILED
            wrong |= record.state is State.CANCELLED and record.key not in self.cancelled
            if wrong:
                self._blame("mismarked", f"{record.key}: {row}")
        return records

    def _blame(self, count: str, detail: str) -> None:
        setattr(self.verdict, count, getattr(self.verdict, count) + 1)
        self.verdict.details.append(f"{count}: {detail}")

    # Acts.

    def _act(self, records: list[Record]) -> None:
        (name,) = self.random.choices(list(self.weights), weights=list(self.weights.values()))
        if not any(record.state in (State.QUEUED, State.RUNNING) for record in records):
            name = "redo"  # else nothing would be under way
        verb, _, kind = name.partition(" ")
        if verb in ("kill", "stop"):
            pids = self._processes(kind)
            acted = bool(pids) and self._disturb(self.random.choice(pids), verb)
        elif name in ("hang up", "Ctrl-C", "Ctrl-C twice"):
            acted = self._signal_manager(name)
        else:
            actions: dict[str, Callable[[list[Record]], bool]] = {
                **{"cancel": self._cancel, "redo": self._redo, "requeue": self._requeue, "clean": self._clean},
                **{"fault": self._fault},
            }
            acted = actions[name](records)
        if acted:
            self.verdict.acts[name] = self.verdict.acts.get(name, 0) + 1
            self.left -= 1

    def _disturb_the_others(self, records: list[Record]) -> None:
        """Kill the trainings that nothing has befallen, once they have a checkpoint, so that every run is disturbed."""
        for record in records:
            untouched = self.real and record.state is State.RUNNING and record.attempt == 1
            if untouched and self.lab.paths.run(record.name).checkpoint.exists():
                pids = [pid for pid in self._processes("training") if record.name in command_of(pid)]
                if pids and send(pids[0], signal.SIGKILL):
                    self.verdict.acts["kill training"] = self.verdict.acts.get("kill training", 0) + 1

    def _processes(self, kind: str) -> list[int]:
        if kind == "manager":
            return [manager.pid for manager in self.managers if manager.poll() is None]
        pids = processes_of(self.lab.paths.folder)
        return sorted(pid for pid in pids if COMMAND_WORDS[kind] in command_of(pid))

    def _disturb(self, pid: int, verb: str) -> bool:
        if verb == "kill":
            return send(pid, signal.SIGKILL)
        stopped = send(pid, signal.SIGSTOP)
        self._later(self.random.uniform(*self.stop), pid, signal.SIGCONT)
        return stopped

    def _signal_manager(self, name: str) -> bool:
        pids = self._processes("manager")
        if not pids:
            return False
        pid = self.random.choice(pids)
        sent = send(pid, signal.SIGHUP if name == "hang up" else signal.SIGINT)
        if name == "Ctrl-C twice":
            self._later(self.random.uniform(0.05, 0.5), pid, signal.SIGINT)
        return sent

    def _later(self, seconds: float, pid: int, number: signal.Signals) -> None:
        timer = threading.Timer(seconds, send, [pid, number])
        self.timers.append(timer)
        timer.start()

    def _dbutils(self, *options: str) -> bool:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return self.lab.dbutils(*options) == 0

    def _choose(self, records: list[Record], *states: State) -> str | None:
        keys = [record.key for record in records if record.state in states]
        return self.random.choice(keys) if keys else None

    def _cancel(self, records: list[Record]) -> bool:
        key = self._choose(records, State.QUEUED, State.RUNNING)
        if key is None:
            return False
        self.cancelled.add(key)
        return self._dbutils("--cancel", key)

    def _redo(self, records: list[Record]) -> bool:
        """From step 0, whether it is queued, cancelled or done."""
        key = self._choose(records, State.QUEUED, State.CANCELLED, State.DONE)
        if key is None:
            return False
        self.done.pop(key, None)
        if not self._dbutils("--requeue", key, "--fresh"):  # it has begun to run since
            return False
        self.done.pop(key, None)
        self.cancelled.discard(key)
        return True

    def _requeue(self, records: list[Record]) -> bool:
        if not self.cancelled:
            return False
        self._requeue_cancelled()
        return True

    def _requeue_cancelled(self) -> None:
        if self.cancelled and self._dbutils("--requeue_level", "100"):
            self.cancelled.clear()

    def _clean(self, records: list[Record]) -> bool:
        """There is something to clean: a lease and a temporary file of nobody, both a day old."""
        paths = self.lab.paths
        for path in (paths.lease("f" * 12, 1), paths.folder / ".tmp-of-nobody"):
            path.touch()
            os.utime(path, (0, 0))
        return self._dbutils("--clean", "all", "--yes") and not paths.lease("f" * 12, 1).exists()

    def _fault(self, records: list[Record]) -> bool:
        function, error = self.random.choice(self.functions), self.random.choice(ERRORS)
        self.faults.inject(function, error, self.random.uniform(0.5, 1.2))
        return True

    # The end.

    def _judge(self) -> Verdict:
        verdict, records = self.verdict, self.lab.records()
        verdict.faults = self.faults.count
        verdict.attempts = sum(record.attempt for record in records)
        verdict.disturbed = sum(record.attempt > 1 for record in records)
        for _ in range(max(verdict.runs - len(records), len(records) - verdict.runs)):
            self._blame("lost", f"{len(records)} records")
        for record in records:
            run = self.lab.paths.run(record.name)
            outcome = read_outcome(run)
            good = outcome is not None and outcome.status is AttemptResult.SUCCESS and run.success.exists()
            if not self.real:
                good = good and (run.folder / "checkpoint.txt").read_text() == "12"
            if record.state is not State.DONE or not good:
                self._blame("lost", f"{record.to_row()} {outcome}")
        for name, lines in self.lab.journal().items():
            attempts = [int(line.split()[-1]) for line in lines]
            if attempts != sorted(attempts) or any(line.startswith("overlap") for line in lines):
                self._blame("twice", f"{name}: {lines}")
        return verdict

    def compare(self, undisturbed: Lab) -> None:
        """Compare the results with those of the same runs in another folder, to the bit."""
        for record in self.lab.records():
            pair = [lab.paths.run(record.name) for lab in (self.lab, undisturbed)]
            differences = unequal(*(left_by(run) for run in pair))
            self.verdict.compared += 1
            if differences:
                self._blame("unequal", f"{record.name}: {differences}")


def run_undisturbed(lab: Lab, seeds: int, slots: int) -> None:
    """The real runs of a storm, without one; as many slots as there give each training as many threads."""
    lab.write(**REAL, seeds=seeds)
    words = [*MANAGER, "10", "60", "real", *lab.arguments("--processes", str(slots))]
    with (lab.folder / "managers.log").open("ab") as log:
        subprocess.run(words, stdout=log, stderr=log, check=True)


def _heed_ctrl_c() -> None:
    """A shell's background makes its processes deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acts", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--folder", type=Path, help="keep the files there")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.pop("folder") or Path(temporary)
        storm, quiet = folder / "storm", folder / "quiet"
        storm.mkdir(parents=True)
        quiet.mkdir()
        if options["real"]:
            lab = Lab(storm, Policy(heartbeat=1.0, ttl=6.0))
            trial = Storm(lab, **options, pause=(0.2, 1.0), stop=(0.1, 8.0))
            trial.run()
            run_undisturbed(Lab(quiet), options["seeds"], options["slots"])
            trial.compare(Lab(quiet))
        else:
            trial = Storm(Lab(storm, Policy(heartbeat=0.25, ttl=1.5)), **options)
            trial.run()
        print(json.dumps(asdict(trial.verdict), indent=1))
    return not trial.verdict.holds


if __name__ == "__main__":
    raise SystemExit(main())
