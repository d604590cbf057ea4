"""A job on a node of Ray: its environment, and its end with the process that started it. Ray is not needed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from laboratory import STUB, Lab, command_of, is_running, processes_of

from ovis.experiments.runner.engines import ray_node
from ovis.experiments.runner.engines.ray_node import RayReport, find_fault, run_here
from ovis.experiments.runner.engines.versions import installed
from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import AttemptResult, read_outcome

HERE = """
import sys
from pathlib import Path
from ovis.experiments.runner.engines.ray_node import run_here
from ovis.experiments.runner.engines.versions import installed
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.paths import ExperimentPaths
folder, key, *command = sys.argv[1:]
spec, paths = JobSpec(Path(folder), key, 1, device="cpu", command=tuple(command)), ExperimentPaths(Path(folder))
print(run_here(spec.argv(), spec.code, paths.ledger, paths.jobs_log, installed(), "n7")[0])
"""


def claim(lab: Lab, *args: str) -> str:
    """The key of a run that is claimed."""
    runs = load_experiment(lab.write(args=list(args))).runs
    lab.queue.add([run.record() for run in runs])
    (record,) = lab.queue.tick("elsewhere:1:1:u", 1).claimed
    return record.key


def run_job_here(spec: JobSpec, python: str = sys.executable) -> RayReport:
    """Run the job of a manager whose interpreter is ``python``."""
    paths, words = ExperimentPaths(spec.folder), [python, *spec.argv()[1:]]
    return RayReport(*run_here(words, spec.code, paths.ledger, paths.jobs_log, installed(), "n7"))


def start(lab: Lab, key: str) -> subprocess.Popen[str]:
    """A worker with the job, in a process of its own."""
    words = [sys.executable, "-c", HERE, str(lab.paths.folder), key, *STUB]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    lab.processes.append(process)
    return process


def test_a_job_runs_and_notes_its_node_in_its_lease(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    key = claim(lab, "--nsteps 3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    spec = JobSpec(lab.paths.folder, key, 1, device="cuda", command=("/elsewhere/python", *STUB[1:]))
    assert run_job_here(spec, "/elsewhere/python") == RayReport(0, node="n7")
    (run,) = lab.runs()
    outcome = read_outcome(run)
    assert outcome is not None
    assert outcome.status is AttemptResult.SUCCESS
    assert lab.queue.leases.location(key, 1) == "n7 cuda:2"
    call = json.loads((run.folder / "call.json").read_text())
    assert call["env"]["CUDA_VISIBLE_DEVICES"] == "2"
    assert call["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert call["env"]["OMP_NUM_THREADS"] == "1"
    assert '"device": "cuda"' in call["argv"][2]


def test_a_run_on_the_cpu_sees_no_gpu(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    key = claim(lab, "--nsteps 3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert run_job_here(JobSpec(lab.paths.folder, key, 1, device="cpu", command=STUB)).code == 0
    assert json.loads((lab.runs()[0].folder / "call.json").read_text())["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert lab.queue.leases.location(key, 1) == "n7"


def test_a_killed_worker_leaves_no_processes(lab: Lab) -> None:
    worker = start(lab, claim(lab, "--nsteps 100000"))
    lab.wait_for_steps(3, runs=1)
    family = [pid for pid in processes_of(lab.paths.folder) if pid != worker.pid]
    assert {"job" if "ovis.experiments.runner.job" in command_of(pid) else "training" for pid in family} == {
        "job",
        "training",
    }
    worker.kill()
    lab.wait(lambda: not any(is_running(pid) for pid in family))


def test_cancelling_lets_the_training_write_its_checkpoint(lab: Lab) -> None:
    worker = start(lab, claim(lab, "--nsteps 100000"))
    lab.wait_for_steps(3, runs=1)
    worker.send_signal(signal.SIGINT)  # how Ray's cancelling arrives
    assert worker.communicate(timeout=30)[0] == "0\n"
    outcome = read_outcome(lab.runs()[0])
    assert outcome is not None
    assert outcome.status is AttemptResult.ABORTED
    assert next(iter(lab.journal().values()))[-1] == "stopped in 1"


def test_an_interrupt_during_the_start_leaves_no_processes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    key = claim(lab, "--nsteps 100000")
    start_process = subprocess.Popen
    jobs: list[subprocess.Popen[bytes]] = []

    def interrupted(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        jobs.append(start_process(*words, **options))
        signal.raise_signal(signal.SIGINT)  # before anybody knows the process
        return jobs[0]

    monkeypatch.setattr(ray_node.subprocess, "Popen", interrupted)
    before = signal.getsignal(signal.SIGINT)
    report = run_job_here(JobSpec(lab.paths.folder, key, 1, command=STUB))
    assert report.node == "n7"
    assert jobs[0].poll() is not None
    assert signal.getsignal(signal.SIGINT) is before


def test_a_revoked_attempt_does_not_start(lab: Lab) -> None:
    key = claim(lab, "--nsteps 3")
    lab.queue.leases.revoke(key, 1)
    assert run_job_here(JobSpec(lab.paths.folder, key, 1, command=STUB)).code != 0
    assert not lab.queue.leases.location(key, 1)
    assert not list(lab.paths.folder.glob("*/call.json"))


def test_faults_of_a_node(lab: Lab, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    assert (
        find_fault(probe, installed())
        == f"does not see {tmp_path}: --root must be on a file system that all nodes share"
    )
    probe.touch()
    assert find_fault(probe, installed()) == ""
    assert find_fault(probe, {**installed(), "torch": "1.0.0"}).startswith("has torch ")
    key = claim(lab, "--nsteps 3")
    report = run_job_here(JobSpec(lab.folder / "elsewhere", key, 1, command=STUB))
    assert (report.code, report.node) == (None, "n7")
    assert not (lab.folder / "elsewhere").exists()
    assert "does not see" in report.fault
