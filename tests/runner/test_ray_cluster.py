"""A real Ray: a head and two nodes on this machine, of which one is killed, and a worker, and the manager."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray_cluster import in_own_network, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sweep_outlives_a_node_a_worker_and_its_manager(tmp_path: Path, seed: int) -> None:
    said = in_own_network("sweep", "--seed", str(seed), "--folder", str(tmp_path))
    print(said)
    assert said["holds"], said
    assert said["kills"] == {"worker": 1, "node": 1, "manager": 1}
    assert said["runs"] == 40
    assert said["starts"] > 43  # what was killed began again
    assert said["devices"] == ["n1", "n2", "n3"]
