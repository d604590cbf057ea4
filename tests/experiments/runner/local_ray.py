"""A real Ray on this machine: a head and two nodes, each of processes of its own, in a network of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


def in_network_namespace(*words: str, timeout: float = 500.0) -> dict[str, Any]:
    """Run ray_scenarios.py where only the loopback is: nobody else can reach what Ray opens. Return its JSON object."""
    script = str(Path(__file__).with_name("ray_scenarios.py"))
    command = ["unshare", "-n", "bash", "-c", 'ip link set lo up; exec "$0" "$@"', sys.executable, script, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **QUIET}, start_new_session=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class RayNodes:
    """A head without CPUs for runs, and nodes ``n1``, ``n2``... with two CPUs each, or the resources given."""

    def __init__(self, nodes: int = 2, **resources: float) -> None:
        from ray.cluster_utils import Cluster

        self.resources = resources or {"num_cpus": 2}
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, as the paths of sockets have to be
        Path("/tmp/ray").mkdir(exist_ok=True)  # Ray writes the address of the cluster there, whatever its temp_dir is
        head = {"num_cpus": 0, "temp_dir": self.folder, **SMALL}
        self.cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.names = iter(f"n{number}" for number in range(1, 100))
        self.nodes = [self.add() for _ in range(nodes)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, **environment: str) -> Any:
        """One more node, whose processes have these variables."""
        name = next(self.names)
        resources = {**self.resources, **SMALL, "node_name": name, "env_vars": environment or None}
        return _patiently(lambda: self.cluster.add_node(**resources))

    def kill_node(self) -> None:
        """All of a node's processes at once, as by a power cut; another one is started in its place."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.add())


def _patiently(start: Callable[[], Any], times: int = 3) -> Any:
    """Start something of Ray, which gives a node 30 seconds: not always enough on two cores that others use, too."""
    for _ in range(times - 1):
        try:
            return start()
        except Exception as error:  # Ray has no class for it
            if "timed out" not in str(error):
                raise
    return start()
