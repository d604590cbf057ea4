"""Fixtures of the runner's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from laboratory import Lab, record
from queue_by_hand import KEYS

from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    for process in lab.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def queue(lab: Lab) -> Queue:
    """A queue of eight runs that nobody works on."""
    queue = Queue(lab.paths, Policy(max_failures=1))
    queue.add([record(key) for key in KEYS])
    return queue


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands as scripts, asked as often as they answer."""
    monkeypatch.setattr("ovis.experiments.runner.engines.slurm.LOOK", 0.0)
    monkeypatch.setattr("ovis.experiments.runner.engines.slurm_commands.INTERVAL", 0.0)
    return FakeSlurm.install(tmp_path / "bin", monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of all experiments."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"
