"""Submissions to Slurm, with a script in place of sbatch: the options, and refusals."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, engine_at, poll, poll_until, specs, submit

from ovis.experiments.runner.engines import slurm_job
from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.interface import EngineError, EngineRequest, JobHandle, SubmissionDeferred
from ovis.experiments.runner.engines.slurm import SlurmEngine


def test_options_in_the_batch_script(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root, partition="short", time=30, array_parallelism=2)
    submit(engine, root, 3)
    lines = fake.script(1)
    for wanted in ("array=0-2%2", "no-requeue", "signal=B:TERM@120", "time=30", "partition=short", "gpus-per-node=1",
                   "output=/dev/null", "job-name=ovis-lab"):  # fmt: skip
        assert f"#SBATCH --{wanted}" in lines, wanted
    assert lines[-1].startswith(f"exec {sys.executable} -u -m {slurm_job.MODULE} {engine._own.path} ")
    submit(engine_at(root, time=2), root)
    assert "#SBATCH --signal=B:TERM@30" in fake.script(2)  # in a quarter of it at most
    assert not [line for line in fake.script(2) if "--array" in line]
    submit(engine_at(root, device="cpu", processes=3), root)
    assert "#SBATCH --cpus-per-task=3" in fake.script(3)
    assert not [line for line in fake.script(3) if "--time" in line or "gpus" in line]
    assert not [line for line in fake.script(1) if "cpus" in line]  # as many as the site gives with a GPU
    submit(engine_at(root, processes=3), root)
    assert {"#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=3"} <= set(fake.script(4))


def test_overridden_variables_are_hidden_from_sbatch(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch would prefer them to the options in the script."""
    for name, value in {"ACCOUNT": "lab", "PARTITION": "short", "REQUEUE": "1", "TIMELIMIT": "9"}.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")  # the manager's own
    submit(engine_at(root), root)
    environment = fake.folder / "environment"
    assert environment.read_text().splitlines() == ["SBATCH_ACCOUNT=lab", "SBATCH_TIMELIMIT=9"]
    assert "#SBATCH --partition=short" in fake.script(1)
    submit(engine_at(root, partition="main", time=5), root)
    assert environment.read_text().splitlines() == ["SBATCH_ACCOUNT=lab"]
    assert "#SBATCH --partition=main" in fake.script(2)
    assert os.environ["SBATCH_TIMELIMIT"] == "9"


def test_arrays_have_at_most_the_site_s_maximum_size(fake: FakeSlurm, root: Path) -> None:
    fake.say("scontrol", "MaxArraySize            = 3\n")
    ids = submit(engine_at(root), root, 7)
    assert [id.split("/")[1] for id in ids] == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2", "3"]


def test_a_refused_first_job_ends_the_engine_and_a_later_one_waits(fake: FakeSlurm, root: Path) -> None:
    refusal = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates policy"
    words = "AssocMaxSubmitJobLimit; Batch job submission failed: Job violates policy"
    engine = engine_at(root)
    fake.fail("sbatch", refusal)
    with pytest.raises(EngineError, match=words):
        engine.submit(specs(root, 1))
    fake.fail("sbatch")
    submit(engine, root)
    fake.fail("sbatch", refusal)
    refused = engine.submit(specs(root, 2))
    assert [str(error) for error in refused] == [f"{words}; fewer at once: --array_parallelism"] * 2
    assert {type(error) for error in refused} == {SubmissionDeferred}  # nothing is counted against the runs
    assert engine.capacity() == 0
    assert words in engine.waiting()


def test_as_many_jobs_are_submitted_as_slurm_accepts(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on a user's jobs refuses an array as a whole."""
    engine = engine_at(root)
    fake.take(5)
    handles = engine.submit(specs(root, 8))
    assert [type(handle) for handle in handles] == [JobHandle] * 5 + [SubmissionDeferred] * 3
    assert [handle.id.split("/")[1:] for handle in handles if isinstance(handle, JobHandle)] == [
        [id, f"key{number}.1"] for number, id in enumerate(["1_0", "1_1", "1_2", "1_3", "2"])
    ]
    assert "fewer at once: --array_parallelism" in str(handles[-1])
    assert engine.capacity() == 0
    monkeypatch.setattr(engine, "_resume", 0.0)  # a minute later
    assert engine.capacity() == 1
    assert [type(handle) for handle in engine.submit(specs(root, 1))] == [SubmissionDeferred]  # still
    engine._own.mark_ended("key0.1", 0)
    engine._own.mark_ended("key1.1", 0)
    fake.say("squeue", "1_2|RUNNING|n1|None\n1_3|RUNNING|n1|None\n2|RUNNING|n2|None\n")
    poll(engine, *(handle.id for handle in handles if isinstance(handle, JobHandle)))
    monkeypatch.setattr(engine, "_resume", 0.0)
    assert engine.capacity() == 3  # as many as have ended, and one to see
    fake.take(100)
    submit(engine, root, 3)
    assert engine.capacity() == 256 - 6  # it takes more again


def test_a_full_disk_is_not_a_refusal(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_at(root)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine, "_submit_array", fail)
    (error,) = engine.submit(specs(root, 1))
    assert isinstance(error, OSError)
    assert not isinstance(error, SubmissionDeferred)
    assert "No space left" in engine.waiting()
    assert engine.capacity() == 0


def test_ctrl_c_does_not_reach_sbatch(fake: FakeSlurm, root: Path) -> None:
    """At a terminal it goes to the whole group of the manager."""
    engine = engine_at(root)
    (fake.folder / "sbatch").write_text("#!/bin/bash\nps -o pgid= $$ >&2; exit 1\n")
    with pytest.raises(EngineError) as caught:
        engine.submit(specs(root, 1))
    group = int(str(caught.value).rpartition(" ")[2])
    assert group not in (os.getpgid(0), 0)


def test_a_controller_with_a_full_queue(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch would try again for two minutes, and longer for each half of an array."""
    monkeypatch.setattr(slurm_job, "PATIENCE", 1)
    engine = engine_at(root)
    submit(engine, root)
    words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    (fake.folder / "sbatch").write_text(
        f'#!/bin/bash\necho "{words}" >&2; echo "sbatch" >>{fake.folder}/tries\nexec sleep 30\n'
    )
    begin = time.monotonic()
    refused = engine.submit(specs(root, 4))
    assert time.monotonic() - begin < 5.0
    assert {type(error) for error in refused} == {SubmissionDeferred}
    assert "temporarily unable to accept job" in engine.waiting()
    assert (fake.folder / "tries").read_text() == "sbatch\n"


def test_a_controller_that_goes_down_during_a_submission(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.fail("sbatch", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (failure)")
    (refused,) = engine.submit(specs(root, 1))
    assert isinstance(refused, SubmissionDeferred)
    assert engine.capacity() == 0
    fake.say("squeue", "1|RUNNING|n1|None\n")
    poll_until(engine, [id], lambda _: engine.capacity())  # as soon as it answers


def test_the_check_asks_slurm_whether_it_would_accept_a_job(fake: FakeSlurm, root: Path) -> None:
    fake.fail("sbatch", "allocation failure: Requested node configuration is not available")
    engine = SlurmEngine(SlurmOptions(time=7), EngineRequest())
    with pytest.raises(EngineError, match="refuses such a job: sbatch: Requested node configuration is not available"):
        engine.check(root)
    assert fake.calls("sbatch")[-1].startswith("--test-only --gpus-per-node=1 --time=7 ")
    assert not list(root.iterdir())
