"""The Slurm engine against commands that say what the real ones have said: what it asks, and what it makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import AWAY, FakeSlurm

import ovis
from ovis.runner.engines.base import EngineError, Handle, NotNow, Phase, Request, Status
from ovis.runner.engines.options import SlurmOptions
from ovis.runner.engines.versions import difference, installed
from ovis.runner.job import JobSpec

pytest.importorskip("submitit", reason="the extra ovis[slurm] is not installed")

from ovis.runner.engines import slurm, slurm_commands, slurm_submit
from ovis.runner.engines.slurm import SlurmEngine
from ovis.runner.engines.slurm_commands import one_line
from ovis.runner.engines.slurm_files import JobsFolder
from ovis.runner.engines.slurm_layout import Layout, Node, plan_layout, read_nodes
from ovis.runner.engines.slurm_node import _environment, prepare, run_jobs


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setattr(slurm, "LOOK", 0.0)
    monkeypatch.setattr(slurm_commands, "INTERVAL", 0.0)
    return FakeSlurm.install(tmp_path / "bin", monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def engine_at(root: Path, *, device: str = "auto", processes: int | None = None, **options: object) -> SlurmEngine:
    engine = SlurmEngine(SlurmOptions(**options), Request(device, processes))  # type: ignore[arg-type]
    engine.check(root)
    return engine


def specs(root: Path, count: int) -> list[JobSpec]:
    return [JobSpec(root / "lab", f"key{number}", 1) for number in range(count)]


def submit(engine: SlurmEngine, root: Path, count: int = 1) -> list[str]:
    handles = engine.submit(specs(root, count))
    assert all(isinstance(handle, Handle) for handle in handles)
    return [handle.id for handle in handles if isinstance(handle, Handle)]


def poll(engine: SlurmEngine, *ids: str) -> dict[str, Status]:
    """Where the jobs stand once squeue has been asked anew and has answered."""
    begin, deadline = time.monotonic(), time.monotonic() + 10
    while True:
        found = dict(engine.poll(ids))
        watch = engine._watch
        if watch.answer.asked > begin or watch.silence or all(s.phase is Phase.ENDED for s in found.values()):
            return found
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("line", "phase", "device", "message"),
    [
        ("1|PENDING||Resources", Phase.PENDING, "", ""),
        ("1|PENDING||Priority", Phase.PENDING, "", ""),
        ("1|CONFIGURING|n1|None", Phase.PENDING, "", ""),
        ("1|RUNNING|n1|None", Phase.RUNNING, "n1", ""),
        ("1|COMPLETING|n2|None", Phase.RUNNING, "n2", ""),
        ("1|NODE_FAIL|n1|NodeDown", Phase.ENDED, "", "Slurm says NODE_FAIL on n1 (NodeDown)"),
        ("1|TIMEOUT|n1|TimeLimit", Phase.ENDED, "", "Slurm says TIMEOUT on n1 (TimeLimit)"),
        ("1|CANCELLED||None", Phase.ENDED, "", "Slurm says CANCELLED on no node (None)"),
        ("1|FAILED|n1|JobLaunchFailure", Phase.ENDED, "", "Slurm says FAILED on n1 (JobLaunchFailure)"),
        ("", Phase.ENDED, "", "Slurm no longer knows the job"),
    ],
)
def test_where_a_job_stands(fake: FakeSlurm, root: Path, line: str, phase: Phase, device: str, message: str) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    assert engine.poll([id])[id].phase is Phase.PENDING  # nobody has answered yet
    fake.say("squeue", line + "\n")
    status = poll(engine, id)[id]
    assert (status.phase, status.device, status.message) == (phase, device, message)


def test_a_job_that_slurm_has_forgotten_has_ended(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    id = "0123abcd/7_3/key0.1"
    assert list(engine.attach([id])) == [id]
    fake.fail("squeue", "slurm_load_jobs error: Invalid job id specified")
    assert poll(engine, id)[id].phase is Phase.ENDED
    assert fake.calls("squeue")[-1].endswith("--jobs=7")


def test_all_jobs_are_asked_about_at_once(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 3)
    assert [id.partition("/")[2] for id in ids] == ["1_0/key0.1", "1_1/key1.1", "1_2/key2.1"]
    ids += submit(engine, root)
    fake.say("squeue", "1_1|RUNNING|n1|None\n1_2|PENDING||Priority\n1_0|RUNNING|n2|None\n2|RUNNING|n2|None\n")
    found = poll(engine, *ids)
    assert [found[id].device for id in ids] == ["n2", "n1", "", "n2"]
    assert fake.calls("squeue")[-1].endswith("--jobs=1,2")


def test_an_end_is_what_the_job_has_said_whatever_slurm_says(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 2)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|RUNNING|n1|None\n")
    engine._own.mark_ended("key0.1", 75)
    engine._own.mark_ended("key1.1", -9)
    (engine._own.path / "1_0.log").write_text("job key1.1: not mine\njob key0.1: the ledger can't be read\nbye\n")
    found = poll(engine, *ids)
    assert [found[id].code for id in ids] == [75, -9]
    assert [found[id].message for id in ids] == ["the ledger can't be read", "signal 9 ended it"]
    engine.close()
    assert not list(root.glob(".slurm/*/*.log"))


def test_a_silent_controller_changes_nothing(fake: FakeSlurm, root: Path) -> None:
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
    while engine.waiting() and time.monotonic() < deadline:
        engine.poll(ids)
    assert engine.capacity() == 2


def test_silence_ends_where_no_job_is_left_to_ask_about(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.fail("squeue", AWAY)
    poll(engine, id)
    engine._own.mark_ended("key0.1", 0)
    assert poll(engine, id)[id] == Status(Phase.ENDED, 0)
    assert engine.capacity() == 0
    fake.fail("squeue")
    deadline = time.monotonic() + 10
    while engine.capacity() == 0:
        engine.poll([])
        assert time.monotonic() < deadline


def test_what_a_job_asks_for(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root, partition="short", time=30, array_parallelism=2)
    submit(engine, root, 3)
    lines = fake.script(1)
    for wanted in ("array=0-2%2", "no-requeue", "signal=B:TERM@120", "time=30", "partition=short", "gpus-per-node=1",
                   "output=/dev/null", "job-name=ovis-lab"):  # fmt: skip
        assert f"#SBATCH --{wanted}" in lines, wanted
    assert lines[-1].startswith(f"exec {sys.executable} -u -m submitit")
    assert not [line for line in lines if "wckey" in line or line.startswith("srun")]
    submit(engine_at(root, time=2), root)
    assert "#SBATCH --signal=B:TERM@30" in fake.script(2)  # in a quarter of it at most
    assert not [line for line in fake.script(2) if "--array" in line]
    submit(engine_at(root, device="cpu", processes=3), root)
    assert "#SBATCH --cpus-per-task=3" in fake.script(3)
    assert not [line for line in fake.script(3) if "--time" in line or "gpus" in line]
    assert not [line for line in fake.script(1) if "cpus" in line]  # as many as the site gives with a GPU
    submit(engine_at(root, processes=3), root)
    assert {"#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=3"} <= set(fake.script(4))


def test_what_the_user_s_environment_says(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch would take it for the last word."""
    for name, value in {"ACCOUNT": "lab", "PARTITION": "short", "REQUEUE": "1", "TIMELIMIT": "9"}.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    submit(engine_at(root), root)
    said = fake.folder / "environment"
    assert said.read_text().splitlines() == ["SBATCH_ACCOUNT=lab", "SBATCH_TIMELIMIT=9"]
    assert "#SBATCH --partition=short" in fake.script(1)
    submit(engine_at(root, partition="main", time=5), root)
    assert said.read_text().splitlines() == ["SBATCH_ACCOUNT=lab"]
    assert "#SBATCH --partition=main" in fake.script(2)
    assert os.environ["SBATCH_TIMELIMIT"] == "9"


def test_arrays_are_as_long_as_the_site_allows(fake: FakeSlurm, root: Path) -> None:
    fake.say("scontrol", "MaxArraySize            = 3\n")
    ids = submit(engine_at(root), root, 7)
    assert [id.split("/")[1] for id in ids] == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2", "3"]


def test_runs_that_share_a_job(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root, processes=3, array_parallelism=2)
    assert engine.capacity() == 6
    ids = submit(engine, root, 5)
    assert [id.split("/")[1] for id in ids] == ["1_0"] * 3 + ["1_1"] * 2
    assert engine.capacity() == 0
    engine._own.mark_ended("key0.1", 0)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|RUNNING|n1|None\n")
    assert [status.phase for status in poll(engine, *ids).values()] == [Phase.ENDED] + [Phase.RUNNING] * 4
    assert engine.capacity() == 0  # its place is free when the others' are
    engine.cancel([ids[1]])
    poll(engine, *ids[1:])
    assert fake.calls("scancel") == []  # the other one goes on
    engine.cancel([ids[2]])
    poll(engine, *ids[1:])
    assert fake.calls("scancel") == ["--state=PENDING 1_0", "--batch --signal=TERM 1_0"]
    assert engine.capacity() == 3


def test_cancelling_is_said_once_and_by_force_once_more(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 2)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|COMPLETING|n1|None\n")
    for _ in range(3):
        engine.cancel(ids)
        assert [status.phase for status in poll(engine, *ids).values()] == [Phase.RUNNING] * 2
    assert fake.calls("scancel") == ["--state=PENDING 1_0 1_1", "--batch --signal=TERM 1_0 1_1"]
    engine.cancel(ids, force=True)
    found = poll(engine, *ids)
    assert fake.calls("scancel")[2:] == ["--signal=KILL 1_0 1_1", "1_0 1_1"]
    assert found[ids[1]].phase is Phase.ENDED  # its node may never say that it is


@pytest.mark.parametrize("words", ["Unable to contact slurm controller", "Socket timed out on send/recv operation"])
def test_a_cancellation_that_the_controller_has_not_heard_is_said_again(
    fake: FakeSlurm, root: Path, words: str
) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", "1|PENDING||Priority\n")
    fake.fail("scancel", f"scancel: error: Kill job error on job id 1: {words}")
    engine.cancel([id])
    poll(engine, id)
    said = len(fake.calls("scancel"))
    poll(engine, id)
    assert len(fake.calls("scancel")) > said > 0
    fake.fail("scancel", "scancel: error: Kill job error on job id 1: Invalid job id specified")  # gone meanwhile
    poll(engine, id)
    said = len(fake.calls("scancel"))
    poll(engine, id)
    assert len(fake.calls("scancel")) == said


def test_a_scancel_that_hangs_is_no_end_of_the_manager(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "HURRY", 0.2)
    (fake.folder / "scancel").write_text("#!/bin/bash\nexec sleep 30\n")
    assert not slurm_commands.cancel_jobs(["1"], force=False)


def test_a_squeue_that_hangs_is_a_silence(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "PATIENCE", 0.2)
    engine = engine_at(root)
    (id,) = submit(engine, root)
    answers = (fake.folder / "squeue").read_text()
    (fake.folder / "squeue").write_text("#!/bin/bash\nexec sleep 30\n")
    deadline = time.monotonic() + 10
    while not engine.waiting():
        assert engine.poll([id])[id].phase is Phase.PENDING
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "does not answer: no answer within 0 s" in engine.waiting()
    (fake.folder / "squeue").write_text(answers)
    fake.say("squeue", "1|RUNNING|n1|None\n")
    while engine.poll([id])[id].phase is Phase.PENDING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not engine.waiting()


def test_what_an_earlier_manager_s_jobs_found_wrong_may_be_mended(fake: FakeSlurm, root: Path) -> None:
    first = engine_at(root)
    ids = submit(first, root)
    engine = engine_at(root)
    engine.attach(ids)
    fake.say("squeue", "1|FAILED|n1|NonZeroExitCode\n")
    fake.say("scontrol", "JobId=1 JobState=FAILED Reason=NonZeroExitCode ExitCode=91:0\n")
    assert poll(engine, *ids)[ids[0]].message.startswith(f"node n1: {root} is not there")
    submit(engine, root)
    assert not any("--exclude" in line for line in fake.script(2))


def test_a_first_job_that_is_refused_ends_it_and_a_later_one_waits(fake: FakeSlurm, root: Path) -> None:
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
    assert {type(error) for error in refused} == {NotNow}  # nothing is counted against the runs
    assert engine.capacity() == 0
    assert words in engine.waiting()


def test_as_many_jobs_are_handed_over_as_slurm_takes(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on a user's jobs refuses an array as a whole."""
    engine = engine_at(root)
    fake.take(5)
    handles = engine.submit(specs(root, 8))
    assert [type(handle) for handle in handles] == [Handle] * 5 + [NotNow] * 3
    assert [handle.id.split("/")[1:] for handle in handles if isinstance(handle, Handle)] == [
        [id, f"key{number}.1"] for number, id in enumerate(["1_0", "1_1", "1_2", "1_3", "2"])
    ]
    assert "fewer at once: --array_parallelism" in str(handles[-1])
    assert engine.capacity() == 0
    monkeypatch.setattr(engine, "_resume", 0.0)  # a minute later
    assert engine.capacity() == 1
    assert [type(handle) for handle in engine.submit(specs(root, 1))] == [NotNow]  # still
    engine._own.mark_ended("key0.1", 0)
    engine._own.mark_ended("key1.1", 0)
    fake.say("squeue", "1_2|RUNNING|n1|None\n1_3|RUNNING|n1|None\n2|RUNNING|n2|None\n")
    poll(engine, *(handle.id for handle in handles if isinstance(handle, Handle)))
    monkeypatch.setattr(engine, "_resume", 0.0)
    assert engine.capacity() == 3  # as many as have ended, and one to see
    fake.take(100)
    submit(engine, root, 3)
    assert engine.capacity() == 256 - 6  # it takes more again


def test_a_disk_that_is_full_is_no_refusal(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_at(root)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine, "_submit_array", fail)
    (error,) = engine.submit(specs(root, 1))
    assert isinstance(error, OSError)
    assert not isinstance(error, NotNow)
    assert "No space left" in engine.waiting()
    assert engine.capacity() == 0


def test_a_stranger_s_job_of_the_same_number_is_not_ours(fake: FakeSlurm, root: Path) -> None:
    """A controller that has lost its state counts from 1 again."""
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", "1|RUNNING|n1|None|backup\n")
    assert poll(engine, id)[id] == Status(Phase.ENDED, message="Slurm no longer knows the job")


def test_ctrl_c_does_not_reach_what_is_being_handed_over(fake: FakeSlurm, root: Path) -> None:
    """At a terminal it goes to the whole group of the manager."""
    engine = engine_at(root)
    (fake.folder / "sbatch").write_text("#!/bin/bash\nps -o pgid= $$ >&2; exit 1\n")
    with pytest.raises(EngineError) as caught:
        engine.submit(specs(root, 1))
    group = int(str(caught.value).rpartition(" ")[2])
    assert group not in (os.getpgid(0), 0)


def test_a_controller_whose_own_queue_is_full(fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch would try again for two minutes, and longer for each half of an array."""
    monkeypatch.setattr(slurm_submit, "PATIENCE", 1)
    engine = engine_at(root)
    submit(engine, root)
    words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    (fake.folder / "sbatch").write_text(
        f'#!/bin/bash\necho "{words}" >&2; echo "sbatch" >>{fake.folder}/tries\nexec sleep 30\n'
    )
    begin = time.monotonic()
    refused = engine.submit(specs(root, 4))
    assert time.monotonic() - begin < 5.0
    assert {type(error) for error in refused} == {NotNow}
    assert "temporarily unable to accept job" in engine.waiting()
    assert (fake.folder / "tries").read_text() == "sbatch\n"


def test_a_controller_that_goes_away_as_jobs_are_handed_over(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.fail("sbatch", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (failure)")
    (refused,) = engine.submit(specs(root, 1))
    assert isinstance(refused, NotNow)
    assert engine.capacity() == 0
    fake.say("squeue", "1|RUNNING|n1|None\n")
    poll(engine, id)
    deadline = time.monotonic() + 10
    while not engine.capacity():  # as soon as it answers
        engine.poll([id])
        assert time.monotonic() < deadline


def test_a_job_that_can_never_start_ends_it(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", "1|PENDING||PartitionTimeLimit\n")
    assert poll(engine, id)[id].phase is Phase.PENDING
    assert fake.calls("scancel") == ["--state=PENDING 1"]  # what runs, runs on
    with pytest.raises(EngineError, match="will never start the jobs: PartitionTimeLimit"):
        engine.poll([id])


def test_what_has_begun_is_said_before_the_end_is(fake: FakeSlurm, root: Path) -> None:
    """In one answer with what ends it: the manager has to know which jobs run on."""
    engine = engine_at(root)
    ids = submit(engine, root, 3)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|PENDING||PartitionTimeLimit\n1_2|RUNNING|n2|None\n")
    found = poll(engine, *ids)
    assert [status.phase for status in found.values()] == [Phase.RUNNING, Phase.PENDING, Phase.RUNNING]
    assert engine.capacity() == 0
    with pytest.raises(EngineError, match="PartitionTimeLimit"):
        engine.poll(ids)


@pytest.mark.parametrize("reason", ["PartitionNodeLimit", "PartitionDown", "QOSMaxJobsPerUserLimit"])
def test_a_job_that_may_start_later_waits(fake: FakeSlurm, root: Path, reason: str) -> None:
    """The first is also what Slurm says where the partition's nodes are down."""
    engine = engine_at(root)
    (id,) = submit(engine, root)
    fake.say("squeue", f"1|PENDING||{reason}\n")
    assert poll(engine, id)[id].phase is Phase.PENDING


def test_a_node_that_will_not_do(fake: FakeSlurm, root: Path) -> None:
    """The first one that answers ends it; where one has done, others are left out."""
    first, second = engine_at(root), engine_at(root)
    ids, others = submit(first, root, 2), submit(second, root, 2)
    fake.say("squeue", "".join(f"{n}_0|FAILED|n1|NonZeroExitCode\n{n}_1|RUNNING|n2|None\n" for n in (1, 2)))
    fake.say("scontrol", "JobId=1 JobState=FAILED Reason=NonZeroExitCode ExitCode=91:0\n")
    assert poll(first, ids[0])[ids[0]].phase is Phase.PENDING  # the next manager has it tried again
    with pytest.raises(EngineError, match=rf"node n1: {root} is not there: --root must be on a file system"):
        first.poll(ids)
    second._own.mark_node("n2")
    assert poll(second, others[0])[others[0]].message.startswith(f"node n1: {root} is not there")
    submit(second, root)
    assert "#SBATCH --exclude=n1" in fake.script(3)


def test_before_the_first_job_the_cluster_is_asked_whether_it_takes_one(fake: FakeSlurm, root: Path) -> None:
    fake.fail("sbatch", "allocation failure: Requested node configuration is not available")
    engine = SlurmEngine(SlurmOptions(time=7), Request())
    with pytest.raises(EngineError, match="refuses such a job: sbatch: Requested node configuration is not available"):
        engine.check(root)
    assert fake.calls("sbatch")[-1].startswith("--test-only --gpus-per-node=1 --time=7 ")
    assert not list(root.iterdir())


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="no Slurm here: there is no command sbatch"):
        SlurmEngine(SlurmOptions(), Request())


def test_no_cluster_answers(fake: FakeSlurm) -> None:
    fake.fail("sinfo", "sinfo: error: fetch_config: DNS SRV lookup failed\nsinfo: fatal: no configuration source")
    words = "no Slurm cluster answers here: sinfo: fetch_config: DNS SRV lookup failed; no configuration source"
    with pytest.raises(EngineError, match=words):
        SlurmEngine(SlurmOptions(), Request())


def test_what_is_left_when_all_is_over(fake: FakeSlurm, root: Path) -> None:
    engine = engine_at(root)
    ids = submit(engine, root, 2)
    assert sorted(path.name for path in root.glob(".slurm/*/*.pkl")) == ["1_0_submitted.pkl", "1_1_submitted.pkl"]
    engine.close()
    assert (root / ".slurm").exists()  # two are still to come
    for name in ("key0.1", "key1.1"):
        engine._own.mark_ended(name, 0)
    poll(engine, *ids)
    engine.close()
    assert not list(root.iterdir())


def test_jobs_of_an_earlier_manager_are_taken_over_with_their_folder(fake: FakeSlurm, root: Path) -> None:
    first = engine_at(root)
    ids = submit(first, root, 2)
    first.close()
    engine = engine_at(root)
    assert set(engine.attach(ids)) == set(ids)
    fake.say("squeue", "1_0|RUNNING|n1|None\n1_1|PENDING||Priority\n")
    assert [status.phase for status in poll(engine, *ids).values()] == [Phase.RUNNING, Phase.PENDING]
    for name in ("key0.1", "key1.1"):
        JobsFolder(first._own.path).mark_ended(name, 0)
    assert set(poll(engine, *ids).values()) == {Status(Phase.ENDED, 0)}
    assert not first._own.path.exists()
    engine.close()
    assert not list(root.iterdir())


def test_what_jobs_long_gone_have_left_is_removed(fake: FakeSlurm, root: Path) -> None:
    for name, days in (("old", 366), ("young", 364)):
        (root / ".slurm" / name).mkdir(parents=True)
        os.utime(root / ".slurm" / name, (0, time.time() - days * 86400))
    engine_at(root)
    assert (root / ".slurm" / "young").exists()
    assert not (root / ".slurm" / "old").exists()


TWO = [Node("n1", 8, 2, 4, True), Node("n2", 8, 2, 4, False)]


@pytest.mark.parametrize(
    ("options", "request_", "layout", "slots"),
    [
        ({}, Request(), Layout(1, gpus=1), 2),
        ({}, Request(processes=2), Layout(1, shards=1), 4),
        ({}, Request(processes=3), Layout(3, gpus=1), 6),
        ({}, Request(processes=5), Layout(5, gpus=1), 5),  # of 8 cores, one for each run
        ({"gpus_per_node": 2}, Request(processes=2), Layout(4, gpus=2), 4),
        ({}, Request("cpu"), Layout(1), 8),
        ({}, Request("cpu", 3), Layout(3), 6),
    ],
)
def test_what_fits_into_a_job(options: dict[str, int], request_: Request, layout: Layout, slots: int) -> None:
    assert plan_layout(SlurmOptions(**options), request_, TWO) == layout  # type: ignore[arg-type]
    assert layout.slots(TWO) == slots  # of the node that is up


def test_a_partition_without_gpus() -> None:
    nodes = [Node("n1", 8, 0, 0, True)]
    assert plan_layout(SlurmOptions(), Request(), nodes) == Layout(1)
    with pytest.raises(EngineError, match="a job of 1 GPUs: the partition's nodes have at most 0"):
        plan_layout(SlurmOptions(), Request("cuda"), nodes)


def test_uneven_shares_are_not_used() -> None:
    nodes = [Node("n1", 8, 2, 4, True), Node("n2", 8, 2, 8, True)]
    assert plan_layout(SlurmOptions(), Request(processes=2), nodes) == Layout(2, gpus=1)


@pytest.mark.parametrize(
    ("gres", "gpus", "shards"),
    [
        ("(null)", 0, 0),
        ("gpu:2,shard:4", 2, 4),
        ("gpu:a100:4(S:0-1)", 4, 0),
        ("gpu:a100:3(S:0),gpu:t4:1(S:1),shard:16", 4, 16),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1),shard:nvidia_h100_80gb_hbm3:32(S:0-1)", 8, 32),
        ("craynetwork:4,gpu:1", 1, 0),
    ],
)
def test_what_a_node_offers(gres: str, gpus: int, shards: int) -> None:
    name, nodes = read_nodes(f"main*|n1|16|{gres}|mix\nbig|n9|1|(null)|down*\n", "")
    assert name == "main"
    assert nodes == [Node("n1", 16, gpus, shards, True)]
    assert read_nodes(f"main*|n1|16|{gres}|mix\nbig|n9|1|(null)|down*\n", "big")[1] == [Node("n9", 1, 0, 0, False)]


def test_no_such_partition() -> None:
    with pytest.raises(EngineError, match="no partition nix; there are: big, main"):
        read_nodes("main*|n1|16|(null)|mix\nbig|n9|1|(null)|idle\n", "nix")
    with pytest.raises(EngineError, match="no default partition: name one by --partition; there are: big"):
        read_nodes("big|n9|1|(null)|idle\n", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sbatch: error: invalid partition specified: nix\nallocation failure: Invalid partition name specified\n",
         "invalid partition specified: nix; Invalid partition name specified"),
        ("slurm_load_jobs error: Invalid job id specified\n", "Invalid job id specified"),
        ("sbatch: error: Invalid --time specification\n", "Invalid --time specification"),
        ("", "no reason was given"),
    ],
)  # fmt: skip
def test_slurm_s_own_words_in_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_versions() -> None:
    here = installed()
    assert here["Python"] == sys.version.split()[0]
    assert here["ovis"] == ovis.__version__
    assert difference(here, here) == ""
    assert difference({"Python": "3.11.7"}, {"Python": "3.11.2"}) == ""
    assert difference({"Python": "3.11.7"}, {"Python": "3.1.2"}) == "Python 3.1.2 instead of 3.11.7"
    assert difference({"torch": "2.9.0+cpu"}, {"torch": "2.9.0+cu126"}) == ""
    assert difference({"torch": "2.9.0", "ovis": "1.0"}, {"ovis": "1.1"}) == (
        "torch missing instead of 2.9.0, ovis 1.1 instead of 1.0"
    )


class Node_:
    """A node's batch script, in a shell of this machine."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "node"
        self.folder.mkdir()
        self.lines = prepare(self.folder)

    def run(self, **variables: str) -> int:
        script = "\n".join([*self.lines, "echo through; echo $PYTHONPATH"])
        environment = {**os.environ, "SLURM_JOB_ID": "12", **variables}
        return subprocess.run(["bash", "-c", script], env=environment, capture_output=True).returncode

    def log(self, name: str = "12") -> list[str]:
        return (self.folder / f"{name}.log").read_text().splitlines()


def test_a_node_that_has_all(tmp_path: Path) -> None:
    node = Node_(tmp_path)
    assert node.run(PYTHONPATH="/more") == 0
    assert node.log() == ["through", f"{Path(ovis.__file__).parents[1]}:/more"]
    assert node.run(SLURM_ARRAY_JOB_ID="11", SLURM_ARRAY_TASK_ID="4") == 0
    assert node.log("11_4")[0] == "through"


def test_a_node_that_lacks_something(tmp_path: Path) -> None:
    node = Node_(tmp_path)
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


def test_the_gpus_of_a_job_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "9")
    parts = [_environment(index, 4) for index in range(4)]
    assert [part["CUDA_VISIBLE_DEVICES"] for part in parts] == ["2", "5", "2", "5"]
    assert {part["OMP_NUM_THREADS"] for part in parts} == {"2"}


def run_two_that_fail(root: Path, folder: JobsFolder) -> None:
    """Jobs in a folder without a ledger's place: each ends with code 1 and a line."""
    (root / "lab").write_text("no folder")
    before = signal.getsignal(signal.SIGTERM)
    try:
        run_jobs(specs(root, 2), folder.path)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_end_that_can_t_be_marked_ends_no_other_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, marked = JobsFolder.create(root), []

    def full(self: JobsFolder, name: str, code: int) -> None:
        marked.append(name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobsFolder, "mark_ended", full)
    run_two_that_fail(root, folder)
    assert sorted(marked) == ["key0.1", "key1.1"]


def test_the_end_of_each_job_is_said(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a line that its manager will look for."""
    folder = JobsFolder.create(root)
    run_two_that_fail(root, folder)
    assert folder.ended() == {"key0.1": 1, "key1.1": 1}
    assert folder.has_suited()
    assert {line.split(":")[0] for line in capfd.readouterr().err.splitlines()} == {"job key0.1", "job key1.1"}
