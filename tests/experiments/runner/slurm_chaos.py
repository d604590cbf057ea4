"""Managers on a real Slurm; and a sweep while a node, a job and the manager are killed, and what is then true.

``python tests/experiments/runner/slurm_chaos.py --seed 1`` runs it by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos import COMMAND_WORDS, Verdict
from cluster_sweep import ClusterSweep, workers_of
from laboratory import Lab, command_of, processes_of
from slurm_cluster import SlurmCluster, running

from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.status import State

#: The runs last longer than a lease, and a lease longer than sixteen of them take to start on two cores.
POLICY, STEP = Policy(heartbeat=1.0, ttl=15.0), 1.3

ENGINE = ("--engine", "slurm")

#: What a manager prints once a minute where no terminal is.
PROGRESS = re.compile(r"\[\d\d:\d\d\] \d+% of \d+ runs?(, about [\d:]+ left)?: ")


def write(lab: Lab, runs: int, steps: int = 3, pace: int = 10) -> None:
    """Write an experiment of runs that take ``pace`` milliseconds for a step."""
    lab.write(args=[f"--estimator vimco --iw 2 --nsteps {steps} --id step{pace}"], seeds=runs)


def start(lab: Lab, runs: int) -> subprocess.Popen[str]:
    """A manager as a user starts it, in a process of its own."""
    write(lab, runs)
    manager = subprocess.Popen(lab.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lab.processes.append(manager)
    return manager


def refusal(manager: subprocess.Popen[str]) -> str:
    """The one line with which a manager gives up: there is no other on its standard error, but for its progress."""
    _, errors = manager.communicate(timeout=120)
    (line,) = beside_progress(errors)
    assert manager.returncode == 2, line
    assert line.startswith("manager.py: ")
    return line.removeprefix("manager.py: ")


def beside_progress(errors: str) -> list[str]:
    """The lines on a manager's standard error that are not its progress."""
    return [line for line in errors.splitlines() if not PROGRESS.match(line)]


@dataclass
class SlurmSweep(ClusterSweep):
    """One trial. With an odd seed the killed node comes back, with an even one it stays away.

    Attributes:
        cluster: where the jobs run.
        dead: processes that died with their node.
        outlived: attempts that were under way when the manager was killed, by run.
    """

    cluster: SlurmCluster = field(kw_only=True)
    faults: Mapping[str, Callable[[], bool]] = field(init=False)
    step: float = STEP
    dead: int = 0
    outlived: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        back = {"back": self._start_node} if self.seed % 2 else {}
        self.faults = {"node": self._kill_node, "job": self._kill_job, **back}
        self.choice = random.Random(self.seed)

    def run(self) -> Verdict:
        os.environ |= self.cluster.environment
        return super().run()

    @property
    def attached(self) -> int:
        """How many of the attempts that outlived their manager have brought their runs to an end."""
        ended = {record.name: record.attempt for record in self.lab.records() if record.state is State.DONE}
        return sum(ended[name] == attempt for name, attempt in self.outlived.items())

    @property
    def log(self) -> str:
        """The output of the managers."""
        return (self.lab.folder / "managers.log").read_text(errors="replace")

    def _kill_node(self) -> bool:
        """Kill the node with the largest number of trainings."""
        work = Counter(self._at_work().values())
        if work:
            self.node = max(work, key=lambda node: work[node])
            self.dead = self.cluster.kill_node(self.node)
        return bool(work)

    def _start_node(self) -> bool:
        """Once its runs are given up for their silence: Slurm would doubt them much later."""
        silent = "no sign of life" in self.log
        if silent:
            self.cluster.start_node(self.node)
        return silent

    def _kill_job(self) -> bool:
        """A wrapper, or the process of Slurm's job that started it: what is below dies with it, and says nothing."""
        pids = [pid for pid in processes_of(self.lab.paths.folder) if COMMAND_WORDS["job"] in command_of(pid)]
        pids = pids if self.seed % 2 else workers_of(self.lab)
        if pids:
            os.kill(self.choice.choice(sorted(pids)), signal.SIGKILL)
        return bool(pids)

    def _kill_manager(self) -> bool:
        work = self._at_work()
        if not work:
            return False
        super()._kill_manager()
        self.outlived = {r.name: r.attempt for r in self.lab.records() if r.name in work and r.state is State.RUNNING}
        return True

    def _at_work(self) -> dict[str, str]:
        """The runs whose trainings are alive, and their nodes."""
        nodes = {}
        for node in self.cluster.nodes:
            for pid in self.cluster.processes_on(node):
                words = command_of(pid).split()
                nodes |= {Path(word).name: node for word in words if word.startswith(COMMAND_WORDS["training"])}
        return nodes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    begin = time.monotonic()
    with running(gpus=0) as cluster, tempfile.TemporaryDirectory() as folder:
        sweep = SlurmSweep(Lab(Path(folder), POLICY, ENGINE), cluster=cluster, **options)
        verdict = sweep.run()
        print(sweep.log)
        facts = {"dead": sweep.dead, "outlived": len(sweep.outlived), "attached": sweep.attached}
    print(json.dumps(asdict(verdict) | facts | {"seconds": round(time.monotonic() - begin)}))
    return not verdict.holds


if __name__ == "__main__":
    raise SystemExit(main())
