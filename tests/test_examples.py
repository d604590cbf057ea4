"""The scripts of examples/ run."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_gmvae_learns_and_draws_its_clusters(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "gmvae.py", "--epochs", "10", "--output", "clusters.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    first, last = (float(bound) for bound in re.findall(r"= (-[\d.]+) nats", done.stdout))
    assert last > first + 5
    image = matplotlib.image.imread(tmp_path / "clusters.png")
    assert image.std() > 0.1
