"""A sweep through a real Slurm while a node, a job and the manager are killed, and what is then true.

``python tests/runner/slurm_chaos.py --seed 1`` runs it by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos import WORDS, Chaos, Verdict
from laboratory import MANAGER, Lab, command_of, processes_of
from slurm_cluster import SlurmCluster, running

from ovis.runner.status import State
from ovis.runner.transitions import Policy

#: The runs last longer than a lease, and a lease longer than eight of them take to start on two cores.
POLICY = Policy(heartbeat=1.0, ttl=15.0)
STEP = 1.3


@dataclass
class SlurmChaos(Chaos):
    """One trial, with one manager.

    Attributes:
        cluster: where the jobs run.
        options: of the manager, beside its engine.
        slots: not used: Slurm counts.
        dead: processes that died with their node.
        outlived: attempts that were under way when the manager was killed, of runs whose jobs were not.
        attached: of these, those by which their runs came to their ends.
    """

    cluster: SlurmCluster = field(kw_only=True)
    options: tuple[str, ...] = ()
    dead: int = 0
    outlived: dict[str, int] = field(default_factory=dict)
    attached: int = 0

    def run(self) -> Verdict:
        self.lab.write(args=[f"--estimator vimco --iw 2 --nsteps 12 --id step{round(1000 * STEP)}"], seeds=self.runs)
        self.alive = [self._start_manager()]
        deeds = [self._kill_job, self._kill_node, self._kill_manager]
        self.random.shuffle(deeds)
        try:
            for deed in deeds:
                self._until(lambda: len(self._at_work()) >= 4)
                self._watch_for(self.random.uniform(1.0, 4.0))
                deed()
            # Found by their silence: Slurm believes in them for twice as long, which may be much longer elsewhere.
            self._until(lambda: "no sign of life" in self._log())
            if self.seed % 2:  # else it stays away to the end
                self.cluster.start_node(self.node)
            self._until(lambda: self.alive[0].poll() is not None)
        finally:
            self.alive[0].kill()
            self.alive[0].wait()
        self.watch()
        ended = {record.name: record.attempt for record in self.lab.records() if record.state is State.DONE}
        self.attached = sum(ended.get(name) == attempt for name, attempt in self.outlived.items())
        return self._judge()

    def _start_manager(self) -> subprocess.Popen[bytes]:
        times = [str(self.lab.policy.heartbeat), str(self.lab.policy.ttl)]
        where = ["--exp", str(self.lab.folder / "lab.json"), "--root", str(self.lab.folder / "runs")]
        with (self.lab.folder / "managers.log").open("ab") as log:
            return subprocess.Popen(
                [*MANAGER, *times, *where, "--engine", "slurm", *self.options],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.cluster.environment},
            )

    def _kill_node(self) -> None:
        """The one with the most of our runs, so that there is something to lose."""
        work = self._at_work()
        self.node = max(self.cluster.nodes, key=lambda node: list(work.values()).count(node))
        for name in [name for name, node in work.items() if node == self.node]:
            self.outlived.pop(name, None)
        self.dead = self.cluster.kill_node(self.node)

    def _kill_job(self) -> None:
        """A wrapper: its training dies with it, and it says nothing."""
        names = {record.key: record.name for record in self.lab.records()}
        found = {}
        for pid in processes_of(self.lab.paths.folder):
            key = next((key for key in names if f" {key} " in command_of(pid)), "")
            if WORDS["job"] in command_of(pid) and names.get(key) in self._at_work():
                found[names[key]] = pid
        name = self.random.choice(sorted(found))
        self.outlived.pop(name, None)
        os.kill(found[name], signal.SIGKILL)
        self.verdict.kills["job"] += 1

    def _kill_manager(self) -> None:
        self.alive[0].kill()
        self.alive[0].wait()
        self.verdict.kills["manager"] += 1
        work = self._at_work()
        self.outlived = {r.name: r.attempt for r in self.lab.records() if r.state is State.RUNNING and r.name in work}
        self._watch_for(self.random.uniform(0.5, 5.0))
        self.alive = [self._start_manager()]

    def _at_work(self) -> dict[str, str]:
        """The runs whose trainings are alive, and their nodes."""
        places = {}
        for node in self.cluster.nodes:
            for pid in self.cluster.processes_on(node):
                words = command_of(pid).split()
                places |= {Path(word).name: node for word in words if word.startswith(WORDS["training"])}
        return places

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.timeout
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {self.lab.counts()}\n{self._log()}"
            self._watch_for(0.2)

    def _watch_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.watch()
            time.sleep(0.1)

    def _log(self) -> str:
        return (self.lab.folder / "managers.log").read_text(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.monotonic()
    with running(gpus=0) as cluster, tempfile.TemporaryDirectory() as folder:
        chaos = SlurmChaos(Lab(Path(folder), POLICY), options.runs, 0, seed=options.seed, cluster=cluster)
        with contextlib.suppress(KeyboardInterrupt):
            verdict = chaos.run()
        print(chaos._log())
    facts = {"dead": chaos.dead, "outlived": len(chaos.outlived), "attached": chaos.attached}
    print(json.dumps(asdict(verdict) | facts | {"seconds": round(time.monotonic() - begin)}))
    return not verdict.holds


if __name__ == "__main__":
    raise SystemExit(main())
