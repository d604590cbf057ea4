"""A sweep on a cluster in which a node, a worker and the manager are killed, for any engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from chaos import Chaos, Verdict
from laboratory import Lab, command_of, processes_of

#: Steps of each run.
STEPS = 12


@dataclass
class ClusterSweep:
    """A sweep of runs of twelve steps each, with faults at random moments.

    Attributes:
        lab: the folders, and the engine.
        faults: functions that cause a fault, by name; each is called until it returns True, in this order. The fault
            ``manager``, which kills the manager and starts it again, is added.
        runs: the number of runs.
        step: seconds for each step of a training. A run must last longer than a lease for orphans to be seen.
        seed: of the moments.
        timeout: seconds.
        recoveries: the seconds until each of the affected runs started again, by fault.
    """

    lab: Lab
    faults: Mapping[str, Callable[[], bool]]
    runs: int = 40
    step: float = 0.3
    seed: int = 0
    timeout: float = 240.0
    recoveries: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> Verdict:
        """Cause all faults, then wait until every run is done."""
        options = f"--estimator vimco --iw 2 --nsteps {STEPS} --id step{round(1000 * self.step)}"
        self.lab.write(args=[options], seeds=self.runs)
        chaos = Chaos(self.lab, self.runs, kills=0)
        chaos.verdict.kills = dict.fromkeys([*self.faults, "manager"], 0)
        moments, self.before = self._moments(), dict[str, int]()
        self.manager = self._start()
        begin = time.monotonic()
        try:
            while self.manager.poll() != 0 and time.monotonic() - begin < self.timeout:
                chaos.watch()
                self._note_recoveries()
                if moments and self._trainings() >= moments[0][0]:
                    self._inject(moments, chaos.verdict)
                if self.manager.poll() not in (None, 0):
                    self.manager = self._start()
                time.sleep(0.1)
        finally:
            for pid in [self.manager.pid, *processes_of(self.lab.paths.folder)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.manager.wait()
        chaos.watch()
        return chaos.judge()

    def _moments(self) -> list[tuple[int, str, Callable[[], bool]]]:
        """The number of started trainings at which each fault is due: apart from each other, and before the end."""
        faults = {**self.faults, "manager": self._kill_manager}
        draw, part = random.Random(self.seed), self.runs * 0.8 / len(faults)
        return [
            (round(part * number + draw.uniform(0.15, 0.85) * part) + 1, name, fault)
            for number, (name, fault) in enumerate(faults.items())
        ]

    def _inject(self, moments: list[tuple[int, str, Callable[[], bool]]], verdict: Verdict) -> None:
        _, name, fault = moments[0]
        before = self._starts()
        if fault():
            verdict.kills[name] += 1
            self.last, self.before = (name, time.monotonic()), before
            self.recoveries[name] = []
            del moments[0]

    def _note_recoveries(self) -> None:
        """Note the runs that were running at the last fault and have started again."""
        for name, starts in self._starts().items():
            if self.before.get(name, starts) < starts:
                fault, when = self.last
                self.recoveries[fault].append(round(time.monotonic() - when, 1))
                del self.before[name]

    def _kill_manager(self) -> bool:
        self.manager.kill()
        self.manager.wait()
        return True

    def _trainings(self) -> int:
        """The number of trainings started so far."""
        return sum(self._starts().values())

    def _starts(self) -> dict[str, int]:
        """How often each run was started, without those that never were."""
        counts = {name: sum(line.startswith("start") for line in lines) for name, lines in self.lab.journal().items()}
        return {name: count for name, count in counts.items() if count}

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.lab.folder / "managers.log").open("ab") as log:
            return subprocess.Popen(self.lab.command(), stdout=log, stderr=log)


def workers_of(lab: Lab) -> list[int]:
    """The parents of the running jobs: the workers of the cluster."""
    pids = set()
    for pid in processes_of(lab.paths.folder):
        if "ovis.experiments.runner.job" in command_of(pid):
            with suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as stat:
                pids.add(int(stat.read().rpartition(")")[2].split()[1]))
    return sorted(pids - {1})
