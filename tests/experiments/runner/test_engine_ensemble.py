"""Ensembles in the manager: one job for runs that differ only in the seed, each with its own outcome."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ovis.experiments.cli.manager import main
from ovis.experiments.runner.engines.ensemble import EnsembleEngine
from ovis.experiments.runner.engines.interface import EngineError, JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.experiment_file import parse_experiment
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import State

FILE = {
    "description": "two configurations of three seeds",
    "args": ["--estimator vimco", "--estimator reinforce"],
    "global": "--nsteps 12 --mini --bs 28 --eval_freq 1 --grad_samples 0",
    "parameters": {
        **{"dataset": ["gmm"], "N": [5], "hdim": [4], "iw": [2], "seed": [1, 2, 3]},
        **{"iw_test": [2], "iw_valid": [2], "max_eval": [20]},
    },
}


def test_only_studies_that_can_are_run_as_ensembles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "slopes.json"
    file.write_text('{"script": "asymptotic", "seeds": 2}')
    assert main(["--exp", str(file), "--root", str(tmp_path / "runs"), "--device", "cpu", "--ensemble"]) == 2
    line = "manager.py: --ensemble: slopes is of the study 'asymptotic'; valid for: train\n"
    assert capsys.readouterr().err == line


class FakeEngine:
    """Accepts two jobs at a time, which do what a test sets."""

    kind, detached, location, slots = "fake", False, "nowhere", 2

    def __init__(self) -> None:
        self.jobs: dict[str, JobSpec] = {}
        self.ended: set[str] = set()
        self.cancelled: list[tuple[str, bool]] = []

    def check(self, root):
        pass

    def capacity(self):
        return 2 - len(self.jobs.keys() - self.ended)

    def waiting(self):
        return ""

    def submit(self, jobs):
        assert len(jobs) <= self.capacity()
        handles = []
        for job in jobs:
            handles.append(JobHandle(f"job{len(self.jobs)}", "a device"))
            self.jobs[handles[-1].id] = job
        return handles

    def poll(self, ids):
        return {id: JobStatus(JobPhase.ENDED, 0) if id in self.ended else JobStatus(JobPhase.RUNNING) for id in ids}

    def cancel(self, ids, force=False):
        self.cancelled += [(id, force) for id in ids]

    def close(self):
        pass


@pytest.fixture
def experiment():
    return parse_experiment(FILE)


@pytest.fixture
def queue(tmp_path, experiment) -> Queue:
    queue = Queue(ExperimentPaths(tmp_path / "lab"))
    queue.paths.folder.mkdir()
    queue.add([run.record() for run in experiment.runs])
    return queue


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def ensembles(engine, queue, experiment):
    return EnsembleEngine(engine, queue, experiment.runs)


def jobs_of(queue: Queue, count: int) -> list[JobSpec]:
    claimed = queue.tick("me", count).claimed
    return [JobSpec(queue.paths.folder, record.key, record.attempt) for record in claimed]


def seeds(queue: Queue, job: JobSpec) -> list[str]:
    return [queue.find(key).name.split("seed")[1][0] for key, _ in job.attempts]


def test_each_slot_of_the_engine_accepts_an_ensemble(ensembles):
    assert ensembles.capacity() == 6
    assert ensembles.slots == 6
    assert "3" in ensembles.location


def test_runs_that_differ_only_in_the_seed_become_one_job(ensembles, engine, queue):
    handles = ensembles.submit(jobs_of(queue, 6))
    assert len({handle.id for handle in handles}) == 6
    assert [handle.device for handle in handles] == ["a device"] * 6
    assert [seeds(queue, job) for job in engine.jobs.values()] == [["1", "2", "3"]] * 2
    names = [{queue.find(key).name.split("-iw")[0] for key, _ in job.attempts} for job in engine.jobs.values()]
    assert [len(group) for group in names] == [1, 1]
    assert ensembles.capacity() == 0


def test_runs_with_other_code_are_another_job(ensembles, engine, queue, monkeypatch):
    jobs = jobs_of(queue, 3)
    records = [replace(record, snapshot="x" * (record.key == jobs[1].key)) for record in queue.read()]
    monkeypatch.setattr(Queue, "read", lambda self: records)
    ensembles.submit(jobs)
    assert [len(job.attempts) for job in engine.jobs.values()] == [2, 1]


def test_ensembles_wait_for_a_free_slot(ensembles, engine, queue):
    first = jobs_of(queue, 1)
    second = jobs_of(queue, 1)
    third = jobs_of(queue, 1)
    ids = [ensembles.submit(jobs)[0].id for jobs in (first, second, third)]
    assert ensembles.capacity() == 0
    assert [ensembles.poll(ids)[id].phase for id in ids] == [JobPhase.RUNNING, JobPhase.RUNNING, JobPhase.PENDING]
    engine.ended.add("job0")
    assert ensembles.poll(ids)[ids[0]].phase is JobPhase.ENDED
    assert ensembles.poll(ids[1:])[ids[2]] == JobStatus(JobPhase.RUNNING, device="a device")


def test_the_end_of_a_job_is_the_end_of_all_its_runs(ensembles, engine, queue):
    ids = [handle.id for handle in ensembles.submit(jobs_of(queue, 3))]
    engine.ended.add("job0")
    assert {status.phase for status in ensembles.poll(ids).values()} == {JobPhase.ENDED}
    assert ensembles.capacity() == 6


def test_a_job_is_cancelled_with_the_last_of_its_runs(ensembles, engine, queue):
    ids = [handle.id for handle in ensembles.submit(jobs_of(queue, 3))]
    ensembles.cancel(ids[:2])
    assert engine.cancelled == []
    ensembles.cancel(ids[2:])
    assert engine.cancelled == [("job0", False)]
    ensembles.cancel(ids, force=True)
    assert engine.cancelled[1:] == [("job0", True)]


def test_engines_whose_jobs_outlive_the_manager_are_refused(engine, queue):
    engine.detached = True
    with pytest.raises(EngineError, match="--ensemble"):
        EnsembleEngine(engine, queue, ())


def test_a_job_lists_its_companions(queue):
    spec = JobSpec(queue.paths.folder, "a", 1, companions=(("b", 2), ("c", 10)))
    assert spec.attempts == [("a", 1), ("b", 2), ("c", 10)]
    assert JobSpec.from_json(spec.argv()[-1]) == spec
    assert replace(spec, companions=()).attempts == [("a", 1)]


@pytest.mark.slow
def test_an_experiment_in_ensembles(tmp_path):
    """With real trainings: every run is done, with files, log and outcome of its own; nothing is run again."""
    file = tmp_path / "lab.json"
    file.write_text(json.dumps(FILE))
    words = ["--exp", str(file), "--root", str(tmp_path / "runs"), "--device", "cpu", "--processes", "1", "--ensemble"]
    assert main(words) == 0
    folder = tmp_path / "runs" / "lab"
    records = Queue(ExperimentPaths(folder)).read()
    assert [record.state for record in records] == [State.DONE] * 6
    for record in records:
        run = ExperimentPaths(folder).run(record.name)
        assert json.loads(run.outcome.read_text())["status"] == "success"
        assert len(run.metrics.read_text().splitlines()) == 2
        assert record.name in run.log(1).read_text()
        assert json.loads(run.config.read_text())["settings"]["seed"] == int(record.name.split("seed")[1][0])
        assert "one of 3 runs" in run.log(1).read_text()
    written = {path: path.stat().st_mtime_ns for path in Path(folder).glob("*/metrics.jsonl")}
    assert main(words) == 0
    assert written == {path: path.stat().st_mtime_ns for path in Path(folder).glob("*/metrics.jsonl")}
