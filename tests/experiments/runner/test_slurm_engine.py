"""The Slurm engine on scripts that print what Slurm's commands have printed: the status and the end of jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fake_slurm import AWAY, FakeSlurm, engine_at, poll, poll_until, submit

from ovis.experiments.runner.engines import slurm_commands
from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.interface import EngineError, EngineRequest, JobPhase, JobStatus
from ovis.experiments.runner.engines.slurm import SlurmEngine
from ovis.experiments.runner.engines.slurm_dir import JobsFolder


@pytest.mark.parametrize(
    ("line", "phase", "device", "message"),
    [
        ("1|PENDING||Resources", JobPhase.PENDING, "", ""),
        ("1|PENDING||Priority", JobPhase.PENDING, "", ""),
        ("1|CONFIGURING|n1|None", JobPhase.PENDING, "", ""),
        ("1|RUNNING|n1|None", JobPhase.RUNNING, "n1", ""),
        ("1|COMPLETING|n2|None", JobPhase.RUNNING, "n2", ""),
        ("1|NODE_FAIL|n1|NodeDown", JobPhase.ENDED, "", "Slurm says NODE_FAIL on n1 (NodeDown)"),
        ("1|TIMEOUT|n1|TimeLimit", JobPhase.ENDED, "", "Slurm says TIMEOUT on n1 (TimeLimit)"),
        ("1|CANCELLED||None", JobPhase.ENDED, "", "Slurm says CANCELLED on no node (None)"),
        ("1|FAILED|n1|JobLaunchFailure", JobPhase.ENDED, "", "Slurm says FAILED on n1 (JobLaunchFailure)"),
        ("", JobPhase.ENDED, "", "Slurm no longer knows the job"),
    ],
)
def test_job_status(fake: FakeSlurm, root: Path, line: str, phase: JobPhase, device: str, message: str) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", line + "\n")
    assert engine.poll([id])[id].phase is JobPhase.PENDING  # squeue has not answered yet
    status = poll(engine, id)[id]
    assert (status.phase, status.device, status.message) == (phase, device, message)


def test_a_job_unknown_to_slurm_has_ended(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    id = "0123abcd/7_3/key0.1"
    assert list(engine.attach([id])) == [id]
    fake.fail("squeue", "slurm_load_jobs error: Invalid job id specified")
    assert poll(engine, id)[id].phase is JobPhase.ENDED
    assert fake.calls("squeue")[-1].endswith("--jobs=7")


def test_one_squeue_asks_about_all_jobs(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 3)
    assert [id.partition("/")[2] for id in ids] == ["1_0/key0.1", "1_1/key1.1", "1_2/key2.1"]
    ids += submit(engine, root)
    fake.say("squeue", "1_1|RUNNING|n1|None\n1_2|PENDING||Priority\n1_0|RUNNING|n2|None\n2|RUNNING|n2|None\n")
    statuses = poll(engine, *ids)
    assert [statuses[id].device for id in ids] == ["n2", "n1", "", "n2"]
    assert fake.calls("squeue")[-1].endswith("--jobs=1,2")


def test_the_exit_code_noted_by_a_job_precedes_slurm_s_state(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 2)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|RUNNING|n1|None\n")
    engine._own.mark_ended("key0.1", 75)
    engine._own.mark_ended("key1.1", -9)
    (engine._own.path / "1_0.log").write_text("job key1.1: not mine\njob key0.1: the ledger can't be read\nbye\n")
    statuses = poll(engine, *ids)
    assert [statuses[id].code for id in ids] == [75, -9]
    assert [statuses[id].message for id in ids] == ["the ledger can't be read", "signal 9 ended it"]
    engine.close()
    assert not list(root.glob(".slurm/*/*.log"))


def test_a_silent_controller_leaves_jobs_as_they_are(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root, array_parallelism=4)
    ids = submit(engine, root, 2)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|PENDING||Resources\n")
    before = poll(engine, *ids)
    assert engine.capacity() == 2
    fake.fail("squeue", AWAY)
    engine.poll(ids)
    deadline = time.monotonic() + 10
    while not engine.waiting() and time.monotonic() < deadline:
        assert engine.poll(ids) == before
    assert engine.waiting() == (
        "Slurm's controller does not answer: Unable to contact slurm controller (connect failure)"
    )
    assert engine.capacity() == 0
    assert engine.poll(ids) == before
    fake.fail("squeue")
    poll_until(engine, ids, lambda _: not engine.waiting())
    assert engine.capacity() == 2


def test_a_silence_can_end_without_any_job(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.fail("squeue", AWAY)
    poll(engine, id)
    engine._own.mark_ended("key0.1", 0)
    assert poll(engine, id)[id] == JobStatus(JobPhase.ENDED, 0)
    assert engine.capacity() == 0
    fake.fail("squeue")
    poll_until(engine, [], lambda _: engine.capacity())


def test_runs_that_share_a_job(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root, processes=3, array_parallelism=2)
    assert engine.capacity() == 6
    ids = submit(engine, root, 5)
    assert [id.split("/")[1] for id in ids] == ["1_0"] * 3 + ["1_1"] * 2
    assert engine.capacity() == 0
    engine._own.mark_ended("key0.1", 0)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|RUNNING|n1|None\n")
    assert [status.phase for status in poll(engine, *ids).values()] == [JobPhase.ENDED] + [JobPhase.RUNNING] * 4
    assert engine.capacity() == 0  # its slot is freed together with the others'
    engine.cancel([ids[1]])
    poll(engine, *ids[1:])
    assert fake.calls("scancel") == []  # the other one goes on
    engine.cancel([ids[2]])
    poll(engine, *ids[1:])
    assert fake.calls("scancel") == ["--state=PENDING 1_0", "--batch --signal=TERM 1_0"]
    assert engine.capacity() == 3


def test_a_cancellation_is_sent_once_and_once_more_with_force(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 2)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|COMPLETING|n1|None\n")
    for _ in range(3):
        engine.cancel(ids)
        assert [status.phase for status in poll(engine, *ids).values()] == [JobPhase.RUNNING] * 2
    assert fake.calls("scancel") == ["--state=PENDING 1_0 1_1", "--batch --signal=TERM 1_0 1_1"]
    engine.cancel(ids, force=True)
    statuses = poll(engine, *ids)
    assert fake.calls("scancel")[2:] == ["--signal=KILL 1_0 1_1", "1_0 1_1"]
    assert statuses[ids[1]].phase is JobPhase.ENDED  # its node may never say that it is


@pytest.mark.parametrize("words", ["Unable to contact slurm controller", "Socket timed out on send/recv operation"])
def test_a_cancellation_that_did_not_reach_the_controller_is_repeated(fake: FakeSlurm, root: Path, words: str) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", "1|PENDING||Priority\n")
    fake.fail("scancel", f"scancel: error: Kill job error on job id 1: {words}")
    engine.cancel([id])
    poll(engine, id)
    calls = len(fake.calls("scancel"))
    poll(engine, id)
    assert len(fake.calls("scancel")) > calls > 0
    fake.fail("scancel", "scancel: error: Kill job error on job id 1: Invalid job id specified")  # gone meanwhile
    poll(engine, id)
    calls = len(fake.calls("scancel"))
    poll(engine, id)
    assert len(fake.calls("scancel")) == calls


def test_a_hanging_scancel_does_not_block_the_manager(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "SCANCEL_PATIENCE", 0.2)
    (fake.folder / "scancel").write_text("#!/bin/bash\nexec sleep 30\n")
    assert not slurm_commands.cancel_jobs(["1"], force=False)


@pytest.mark.slow
def test_a_hanging_squeue_counts_as_silence(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "PATIENCE", 0.2)
    engine = engine_at(root)
    (id,) = submit(engine, root)
    answers = (fake.folder / "squeue").read_text()
    (fake.folder / "squeue").write_text("#!/bin/bash\nexec sleep 30\n")
    deadline = time.monotonic() + 10
    while not engine.waiting():
        assert engine.poll([id])[id].phase is JobPhase.PENDING
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "does not answer: no answer within 0 s" in engine.waiting()
    (fake.folder / "squeue").write_text(answers)
    fake.say("squeue", "1|RUNNING|n1|None\n")
    poll_until(engine, [id], lambda statuses: statuses[id].phase is not JobPhase.PENDING)
    assert not engine.waiting()


def test_nodes_that_failed_under_an_earlier_manager_are_tried_again(fake: FakeSlurm, root: Path) -> None:
    first = engine_at(root)
    ids = submit(first, root)
    engine = engine_at(root)
    engine.attach(ids)
    fake.say("squeue", "1|FAILED|n1|NonZeroExitCode\n")
    fake.say("scontrol", "JobId=1 JobState=FAILED Reason=NonZeroExitCode ExitCode=91:0\n")
    assert poll(engine, *ids)[ids[0]].message.startswith(f"node n1: {root} is not there")
    submit(engine, root)
    assert not any("--exclude" in line for line in fake.script(2))


def test_a_foreign_job_with_the_same_number_is_ignored(fake: FakeSlurm, root: Path) -> None:
    """A controller that has lost its state counts from 1 again."""
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", "1|RUNNING|n1|None|backup\n")
    assert poll(engine, id)[id] == JobStatus(JobPhase.ENDED, message="Slurm no longer knows the job")


def test_a_job_that_can_never_start_ends_the_engine(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", "1|PENDING||PartitionTimeLimit\n")
    assert poll(engine, id)[id].phase is JobPhase.PENDING
    assert fake.calls("scancel") == ["--state=PENDING 1"]  # what runs, runs on
    with pytest.raises(EngineError, match="will never start the jobs: PartitionTimeLimit"):
        engine.poll([id])


def test_started_jobs_are_reported_before_the_engine_ends(fake: FakeSlurm, root: Path) -> None:
    """In one answer with what ends it: the manager has to know which jobs run on."""
    engine = engine_at(root)
    ids = submit(engine, root, 3)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|PENDING||PartitionTimeLimit\n1_2|RUNNING|n2|None\n")
    statuses = poll(engine, *ids)
    assert [status.phase for status in statuses.values()] == [JobPhase.RUNNING, JobPhase.PENDING, JobPhase.RUNNING]
    assert engine.capacity() == 0
    with pytest.raises(EngineError, match="PartitionTimeLimit"):
        engine.poll(ids)


@pytest.mark.parametrize("reason", ["PartitionNodeLimit", "PartitionDown", "QOSMaxJobsPerUserLimit"])
def test_a_job_that_may_start_later_waits(fake: FakeSlurm, root: Path, reason: str) -> None:
    """The first is also what Slurm says where the partition's nodes are down."""
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", f"1|PENDING||{reason}\n")
    assert poll(engine, id)[id].phase is JobPhase.PENDING


def test_an_unsuitable_node(fake: FakeSlurm, root: Path) -> None:
    """The first one that answers ends it; where one has done, others are left out."""
    first, second = engine_at(root), engine_at(root)
    ids, others = submit(first, root, 2), submit(second, root, 2)
    fake.say("squeue", "".join(f"{n}_0|FAILED|n1|NonZeroExitCode\n{n}_1|RUNNING|n2|None\n" for n in (1, 2)))
    fake.say("scontrol", "JobId=1 JobState=FAILED Reason=NonZeroExitCode ExitCode=91:0\n")
    assert poll(first, ids[0])[ids[0]].phase is JobPhase.PENDING  # the next manager has it tried again
    with pytest.raises(EngineError, match=rf"node n1: {root} is not there: --root must be on a file system"):
        first.poll(ids)
    second._own.mark_node("n2")
    assert poll(second, others[0])[others[0]].message.startswith(f"node n1: {root} is not there")
    submit(second, root)
    assert "#SBATCH --exclude=n1" in fake.script(3)


def test_no_slurm_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="no Slurm here: there is no command sbatch"):
        SlurmEngine(SlurmOptions(), EngineRequest())


def test_no_answer_from_a_cluster(fake: FakeSlurm) -> None:
    fake.fail("sinfo", "sinfo: error: fetch_config: DNS SRV lookup failed\nsinfo: fatal: no configuration source")
    words = "no Slurm cluster answers here: sinfo: fetch_config: DNS SRV lookup failed; no configuration source"
    with pytest.raises(EngineError, match=words):
        SlurmEngine(SlurmOptions(), EngineRequest())


def test_no_files_are_left_at_the_end(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 2)
    assert len(list(root.glob(".slurm/*/*.jsonl"))) == 2
    engine.close()
    assert (root / ".slurm").exists()  # two are still to come
    for name in ("key0.1", "key1.1"):
        engine._own.mark_ended(name, 0)
    poll(engine, *ids)
    engine.close()
    assert not list(root.iterdir())


def test_an_earlier_manager_s_jobs_are_attached_with_their_folder(fake: FakeSlurm, root: Path) -> None:
    first = engine_at(root)
    ids = submit(first, root, 2)
    first.close()
    engine = engine_at(root)
    assert set(engine.attach(ids)) == set(ids)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|PENDING||Priority\n")
    assert [status.phase for status in poll(engine, *ids).values()] == [JobPhase.RUNNING, JobPhase.PENDING]
    for name in ("key0.1", "key1.1"):
        JobsFolder(first._own.path).mark_ended(name, 0)
    assert set(poll(engine, *ids).values()) == {JobStatus(JobPhase.ENDED, 0)}
    assert not first._own.path.exists()
    engine.close()
    assert not list(root.iterdir())


def test_folders_older_than_a_year_are_removed(fake: FakeSlurm, root: Path) -> None:
    for name, days in (("old", 366), ("young", 364)):
        (root / ".slurm" / name).mkdir(parents=True)
        os.utime(root / ".slurm" / name, (0, time.time() - days * 86400))
    engine_at(root)
    assert (root / ".slurm" / "young").exists()
    assert not (root / ".slurm" / "old").exists()
