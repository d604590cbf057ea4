"""A real Ray on this machine: a head and two nodes, each of processes of its own, in a network of its own.

``in_own_network("ray_cluster.py sweep --seed 1 --folder DIR")`` runs this file where only the loopback is, as root: the
processes of Ray can then be reached by nobody else. It prints one JSON object. A folder given is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from cluster import ClusterSweep, workers_of
from laboratory import Lab

from ovis.runner.transitions import Policy

#: What a node is started with: small, as this is a machine of two cores.
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}


def missing() -> str:
    """What keeps this from running here; empty: nothing."""
    if find_spec("ray") is None:
        return "ray is not installed: pip install 'ovis[ray]'"
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        return "a network of its own takes root, unshare and ip"
    done = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return f"no network of its own can be had here: {done.stderr.strip()}" if done.returncode else ""


def in_own_network(*words: str, timeout: float = 300.0) -> dict[str, object]:
    """Run this file where only the loopback is, and give what it says."""
    command = ["unshare", "-n", "bash", "-c", 'ip link set lo up; exec "$0" "$@"', sys.executable, __file__, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **QUIET}, start_new_session=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


class RayNodes:
    """A head without room for runs, and nodes with two CPUs each."""

    def __init__(self, nodes: int = 2, **resources: float) -> None:
        from ray.cluster_utils import Cluster

        self.resources = resources or {"num_cpus": 2}
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, as the paths of sockets have to be
        head = {"num_cpus": 0, "temp_dir": self.folder, **SMALL}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.names = iter(f"n{number}" for number in range(1, 100))
        self.nodes = [self.add() for _ in range(nodes)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self):
        return self.cluster.add_node(**self.resources, **SMALL, node_name=next(self.names))

    def kill_node(self) -> None:
        """All of a node's processes at once, as by a power cut; another one is started in its place."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.add())

    def close(self) -> None:
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep(options: argparse.Namespace) -> dict[str, object]:
    """A sweep with one node, one worker and the manager killed."""
    begin = time.monotonic()
    ray = RayNodes()
    ready = time.monotonic() - begin
    lab = Lab(options.folder, Policy(heartbeat=0.5, ttl=3.0))
    chance = random.Random(options.seed)

    def kill_worker() -> bool:
        workers = workers_of(lab)
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
        return bool(workers)

    def kill_node() -> bool:
        ray.kill_node()
        return True

    try:
        trial = ClusterSweep(
            lab,
            ["--engine", "ray", "--address", ray.address, "--device", "cpu"],
            {"worker": kill_worker, "node": kill_node},
            runs=options.runs,
            seed=options.seed,
        )
        verdict = trial.run()
        devices = sorted({record.device for record in lab.records()})
        seconds = time.monotonic() - begin
        times = {"recoveries": trial.recoveries, "start": round(ready, 1), "seconds": round(seconds, 1)}
        return {**asdict(verdict), "holds": verdict.holds, "devices": devices, **times}
    finally:
        ray.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=["sweep"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    print(json.dumps({"sweep": sweep}[options.scenario](options)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
