"""A Slurm job on its node: the check of the node, and the runs that share the job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_slurm import specs

from ovis.experiments.runner.engines.slurm_dir import JobsFolder
from ovis.experiments.runner.engines.slurm_job import _environment, batch_script, main
from ovis.experiments.runner.engines.versions import difference, installed
from ovis.experiments.runner.snapshot import live_package

CODE = Path(__file__).parents[3]


def test_versions() -> None:
    here = installed()
    assert here["Python"] == sys.version.split()[0]
    assert set(here) == {"Python", "torch"}  # the code of ovis is that of the snapshot, everywhere
    assert difference(here, here) == ""
    assert difference({"Python": "3.11.7"}, {"Python": "3.11.2"}) == ""
    assert difference({"Python": "3.11.7"}, {"Python": "3.1.2"}) == "Python 3.1.2 instead of 3.11.7"
    assert difference({"torch": "2.9.0+cpu"}, {"torch": "2.9.0+cu126"}) == ""
    assert difference({"torch": "2.9.0", "ovis": "1.0"}, {"ovis": "1.1"}) == (
        "torch missing instead of 2.9.0, ovis 1.1 instead of 1.0"
    )


class NodeShell:
    """A node's batch script, in a shell of this machine."""

    def __init__(self, tmp_path: Path, code: Path = CODE) -> None:
        self.folder = tmp_path / "node"
        self.folder.mkdir()
        self.lines = batch_script({}, self.folder, "batch", code).splitlines()[:-1]  # all but the run of the jobs

    def run(self, **variables: str) -> int:
        script = "\n".join([*self.lines, "echo through; echo $PYTHONPATH"])
        environment = {**os.environ, "SLURM_JOB_ID": "12", **variables}
        return subprocess.run(["bash", "-c", script], env=environment, capture_output=True).returncode

    def log(self, name: str = "12") -> list[str]:
        return (self.folder / f"{name}.log").read_text().splitlines()


def test_a_suitable_node(tmp_path: Path) -> None:
    node = NodeShell(tmp_path)
    assert node.run(PYTHONPATH="/more") == 0
    assert node.log() == ["through", f"{CODE}:/more"]
    assert node.run(SLURM_ARRAY_JOB_ID="11", SLURM_ARRAY_TASK_ID="4") == 0
    assert node.log("11_4")[0] == "through"


def test_a_node_uses_the_code_of_its_jobs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ovis the user's folder or search path holds: it may be edited while a job waits."""
    code = tmp_path / "a snapshot"
    shutil.copytree(live_package(), code / "ovis", ignore=shutil.ignore_patterns("__pycache__"))
    edited = tmp_path / "clone" / "ovis"
    edited.mkdir(parents=True)
    (edited / "__init__.py").write_text("def half_typed(")
    monkeypatch.chdir(edited.parent)
    node = NodeShell(tmp_path, code)
    node.lines[-1] += f"; {sys.executable} -c 'import ovis; print(ovis.__file__)'"
    assert node.run(PYTHONPATH=str(edited.parent)) == 0
    assert node.log()[0] == str(code / "ovis" / "__init__.py")
    shutil.rmtree(code)
    assert node.run() == 1


def test_nodes_that_lack_something(tmp_path: Path) -> None:
    node = NodeShell(tmp_path)
    complete = node.lines
    node.lines = [line.replace(installed()["torch"], "0.0.1") for line in complete]
    assert node.run() == 93
    assert node.log() == [f"torch {installed()['torch']} instead of 0.0.1"]
    node.lines = [line.replace(sys.executable, "/no/python") for line in complete]
    assert node.run() == 92
    assert node.log() == ["there is no /no/python"]
    node.lines = complete
    shutil.rmtree(node.folder)
    assert node.run() == 91


def test_runs_share_the_gpus_and_cores_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "9")
    parts = [_environment(index, 4) for index in range(4)]
    assert [part["CUDA_VISIBLE_DEVICES"] for part in parts] == ["2", "5", "2", "5"]
    assert {part["OMP_NUM_THREADS"] for part in parts} == {"2"}


def run_two_that_fail(root: Path, folder: JobsFolder) -> None:
    """Run the process of a Slurm job whose two runs have no ledger: each ends with code 1 and a line."""
    (root / "lab").write_text("no folder")
    batch = folder.write_specs([[job.to_json() for job in specs(root, 2)]])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([str(folder.path), f"{batch}-0"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(folder.path.glob("*.jsonl"))


def test_other_jobs_go_on_if_an_end_cannot_be_noted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, marked = JobsFolder.create(root), []

    def full(self: JobsFolder, name: str, code: int) -> None:
        marked.append(name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobsFolder, "mark_ended", full)
    run_two_that_fail(root, folder)
    assert sorted(marked) == ["key0.1", "key1.1"]


def test_the_end_of_each_job_is_noted(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a line that its manager will look for."""
    folder = JobsFolder.create(root)
    run_two_that_fail(root, folder)
    assert folder.ended() == {"key0.1": 1, "key1.1": 1}
    assert folder.has_suitable_node()
    assert {line.split(":")[0] for line in capfd.readouterr().err.splitlines()} == {"job key0.1", "job key1.1"}


def test_a_job_without_its_file_fails_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(JobsFolder.create(root).path), "nix-0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("this job has no runs: ")
    assert "nix-0.jsonl" in line
