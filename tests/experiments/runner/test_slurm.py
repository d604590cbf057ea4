"""The engine on a real Slurm: a controller and two nodes on this machine."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from laboratory import Lab, command_of, is_running, processes_of
from slurm_chaos import ENGINE, POLICY, SlurmSweep, beside_progress, refusal, start, write
from slurm_cluster import SlurmCluster, missing, processes_with, running

import ovis
from ovis.experiments.cli.manager import main
from ovis.experiments.runs.status import State

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm to be tried: {missing()}"),
]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.json"

#: What makes it short.
SHORT = {"epochs": [2], "eval_freq": [1], "max_eval": [50], "iw_valid": [10], "iw_test": [10], "grad_bs": [5],
         "grad_samples": [10]}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes with two GPUs and four shares of them each."""
    with running(shards=4) as cluster:
        yield cluster


@pytest.fixture
def lab(lab: Lab, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    lab.policy, lab.engine = POLICY, ENGINE
    yield lab
    cluster.run("scancel", "--user=root")
    cluster.wait(lambda: set(cluster.states().values()) == {"idle"})


def run(lab: Lab, *options: str, runs: int, steps: int = 3, pace: int = 10) -> int:
    """Write an experiment and run the manager in this process."""
    write(lab, runs, steps, pace)
    return lab.run(*options)


def jobs(lab: Lab) -> Counter[str]:
    """How many runs each of Slurm's jobs has had."""
    return Counter(str(record.engine["id"]).split("/")[1] for record in lab.records() if record.engine)


def devices(lab: Lab) -> Counter[tuple[str, str]]:
    """How many runs each device has had, by node and GPU."""
    calls = [json.loads(path.read_text()) for path in lab.paths.folder.glob("*/call.json")]
    return Counter((call["env"]["SLURMD_NODENAME"], call["env"].get("CUDA_VISIBLE_DEVICES", "")) for call in calls)


@pytest.mark.parametrize("seed", [1, 2])  # the killed node comes back, or stays away
def test_a_node_a_job_and_the_manager_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    with running(gpus=0) as cluster:
        monkeypatch.setenv("SLURM_CONF", "")  # put back what the trial sets
        trial = SlurmSweep(Lab(tmp_path, POLICY, ENGINE), seed=seed, cluster=cluster)
        verdict = trial.run()
        print(verdict, trial.dead, trial.outlived)
        assert verdict.holds, f"{verdict}\n{trial.log}"
        assert set(verdict.kills.values()) == {1}
        assert trial.dead > 0
        assert "no sign of life" in trial.log  # it was the lease, not Slurm, that gave the runs of the node back
        assert trial.attached == len(trial.outlived) > 0
        assert not (tmp_path / "runs" / ".slurm").exists()


def test_runs_share_gpus_by_shards(lab: Lab) -> None:
    assert run(lab, "--processes", "2", runs=8, pace=1000) == 0
    assert set(jobs(lab).values()) == {1}
    assert set(devices(lab).values()) == {2}
    assert len(devices(lab)) == 4
    assert {record.device for record in lab.records()} == {"n1", "n2"}


def test_runs_share_a_job_if_shards_cannot_be_divided(lab: Lab) -> None:
    assert run(lab, "--processes", "3", runs=5) == 0
    assert sorted(jobs(lab).values()) == [2, 3]
    assert sorted(devices(lab).values()) in ([5], [2, 3])  # each job has one GPU


def test_a_job_with_two_gpus_gives_each_run_one(lab: Lab) -> None:
    assert run(lab, "--gpus_per_node", "2", runs=4) == 0
    assert set(jobs(lab).values()) == {2}
    assert {device for _, device in devices(lab)} == {"0", "1"}
    assert set(Counter(gpu for _, gpu in devices(lab).elements()).values()) == {2}


def test_jobs_without_gpus_in_arrays_of_the_maximum_size(tmp_path: Path, monkeypatch) -> None:
    with running(gpus=0, max_array=4) as small:
        monkeypatch.setenv("SLURM_CONF", small.environment["SLURM_CONF"])
        lab = Lab(tmp_path, POLICY, ENGINE)
        assert run(lab, "--array_parallelism", "9", runs=11) == 0
        arrays = Counter(id.partition("_")[0] for id in jobs(lab))
        assert max(arrays.values()) == 4
        assert devices(lab).keys() <= {("n1", ""), ("n2", "")}
        assert all(call["env"]["OMP_NUM_THREADS"] == "1" for call in calls(lab))


def calls(lab: Lab) -> list[dict]:
    return [json.loads(path.read_text()) for path in lab.paths.folder.glob("*/call.json")]


def test_runs_resume_after_the_time_limit(lab: Lab) -> None:
    assert run(lab, "--device", "cpu", "--time", "1", runs=1, steps=40, pace=1000) == 0
    (record,) = lab.records()
    assert record.attempt > 1
    assert record.lost == record.failures == 0
    (journal,) = lab.journal().values()
    starts = [int(line.split()[2]) for line in journal if line.startswith("start")]
    stops = [index for index, line in enumerate(journal) if line.startswith("stopped")]
    steps = [int(journal[index - 1].split()[1]) for index in stops]
    assert starts == [0, *steps]  # each attempt resumes where the one before was stopped


def test_an_interrupt_cancels_the_jobs(lab: Lab, cluster: SlurmCluster) -> None:
    lab.write(args=["--estimator vimco --iw 2 --nsteps 100 --id step500"], seeds=10)
    manager = lab.start("--device", "cpu", "--processes", "2", "--array_parallelism", "8")
    lab.wait(lambda: sum("step" in line for lines in lab.journal().values() for line in lines) > 8, 60)
    manager.send_signal(signal.SIGINT)
    output, _ = manager.communicate(timeout=60)
    assert manager.returncode == 130, output
    assert lab.counts() == {"queued": 10}
    assert not cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING")
    assert all(lines[-1].startswith("stopped") for lines in lab.journal().values() if lines)
    assert {record.lost for record in lab.records()} == {0}


def test_nothing_is_lost_while_the_controller_is_down(lab: Lab, cluster: SlurmCluster) -> None:
    lab.write(args=["--estimator vimco --iw 2 --nsteps 18 --id step1000"], seeds=6)
    manager = lab.start("--device", "cpu", "--processes", "2", "--array_parallelism", "2")  # jobs, of two runs each
    lab.wait(lambda: sum(bool(lines) for lines in lab.journal().values()) >= 4, 60)
    time.sleep(6)  # Slurm saves its state every five seconds
    cluster.kill_controller()
    try:
        lab.wait(lambda: lab.counts() == {"queued": 2, "done": 4}, 60)  # their ends are in their folders
        time.sleep(5)
        assert manager.poll() is None
    finally:
        cluster.start_controller()
    output, _ = manager.communicate(timeout=180)
    assert manager.returncode == 0, output
    assert {(record.lost, record.failures) for record in lab.records()} == {(0, 0)}
    assert {sum(line.startswith("start") for line in lines) for lines in lab.journal().values()} == {1}


def test_the_quickstart_is_bit_identical_to_a_local_one(lab: Lab) -> None:
    experiment = json.loads(QUICKSTART.read_text())
    lab.write(**experiment | {"parameters": experiment["parameters"] | SHORT})
    where = ["--exp", str(lab.folder / "lab.json"), "--data_root", str(lab.folder / "data"), "--device", "cpu"]
    assert main([*where, "--root", str(lab.folder / "here")]) == 0
    assert main([*where, "--root", str(lab.folder / "runs"), *ENGINE]) == 0
    files = sorted((lab.folder / "here" / "lab").glob("*/metrics.jsonl"))
    assert len(files) == 7
    for file in files:
        assert len(numbers(file)) == 2
        assert numbers(file) == numbers(lab.paths.folder / file.parent.name / file.name)


def numbers(path: Path) -> list[dict]:
    """The measurements, without the seconds they took."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]


def waited(lab: Lab, why: str) -> set[str]:
    """The names of the runs that had no node yet when the manager gave up: they may start at once, nothing counted."""
    records = lab.records()
    waiting = [record for record in records if not record.device]
    assert len(waiting) >= 2  # of six: at most four run at once, and the first that is seen to have failed ends it
    assert {(r.state, r.reason, r.attempt, r.lost, r.failures, r.error) for r in waiting} == {
        (State.QUEUED, "orphaned", 1, 0, 0, why)
    }
    assert all(record.not_before <= record.ended + POLICY.heartbeat for record in waiting)
    assert {record.state for record in records if record.device} <= {State.RUNNING}  # the next manager will find them
    return {record.name for record in waiting}


def goes_on(lab: Lab, waiting: set[str], runs: int = 6) -> str:
    """The same command again, the nodes being as they should be: what it says, while all runs are done."""
    manager = start(lab, runs=runs)
    text, output = manager.communicate(timeout=120)
    assert manager.returncode == 0, text + output
    assert {record.state for record in lab.records()} == {State.DONE}
    # A job that was seen on a node and failed while no manager ran counts as a loss; no other does.
    counts = {record.name: (record.attempt, record.lost, record.failures) for record in lab.records()}
    assert counts == {name: (2, 0, 0) if name in waiting else (2, 1, 0) for name in counts}
    return output


def test_a_root_that_is_not_shared(lab: Lab, cluster: SlurmCluster) -> None:
    (lab.folder / "runs").mkdir()
    with cluster.mounted("-t", "tmpfs", "none", str(lab.folder)):
        line = refusal(start(lab, runs=6))
    assert line in {  # whichever is first
        f"node {node}: {lab.folder}/runs is not there: --root must be on a file system that all nodes share"
        for node in cluster.nodes
    }
    goes_on(lab, waited(lab, line))


def test_jobs_that_fail_without_a_root_while_no_manager_runs(lab: Lab, cluster: SlurmCluster) -> None:
    """They waited for others' jobs when their manager was killed, then failed with nobody to see it."""
    (lab.folder / "runs").mkdir()
    with cluster.mounted("-t", "tmpfs", "none", str(lab.folder)):
        words = ("--exclusive", "--nodes=2", "--output=/dev/null", "--chdir=/", "--wrap=sleep 100")
        other = cluster.run("sbatch", "--parsable", *words).strip()
        cluster.wait(lambda: set(cluster.states().values()) == {"alloc"})
        manager = start(lab, runs=2)
        lab.wait(lambda: lab.paths.ledger.exists() and all("id" in (r.engine or {}) for r in lab.records()), 60)
        manager.kill()
        cluster.run("scancel", other)
    assert lab.counts() == {"running": 2}
    output = goes_on(lab, set(), runs=2)
    assert output.count(f"{lab.folder}/runs is not there: --root must be on a file system that all nodes share") == 2


def test_another_version_on_a_node(lab: Lab, cluster: SlurmCluster, tmp_path: Path) -> None:
    torch = metadata.distribution("torch")
    source = next(Path(torch.locate_file(file)) for file in torch.files or () if file.name == "METADATA")
    other = tmp_path / "METADATA"
    other.write_text(source.read_text().replace(f"Version: {torch.version}", "Version: 0.0.9", 1))
    with cluster.mounted("--bind", str(other), str(source)):
        line = refusal(start(lab, runs=6))
    assert f"torch 0.0.9 instead of {torch.version}" in line
    assert line.startswith(tuple(f"node {node}: " for node in cluster.nodes))
    waited(lab, line)


def test_another_ovis_on_a_node_is_not_used(lab: Lab, cluster: SlurmCluster, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("def half_typed(")
    with cluster.mounted("--bind", str(other), ovis.__file__):
        manager = start(lab, runs=3)
        output, _ = manager.communicate(timeout=120)
    assert (manager.returncode, lab.counts()) == (0, {"done": 3}), output


def test_a_node_without_the_python_interpreter(lab: Lab, cluster: SlurmCluster) -> None:
    with cluster.mounted("-t", "tmpfs", "none", str(Path(sys.executable).parent)):
        line = refusal(start(lab, runs=6))
    assert line in {f"node {node}: there is no {sys.executable}" for node in cluster.nodes}
    waited(lab, line)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--partition", "nix"], "no partition nix; there are: main, short"),
        (["--gpus_per_node", "3"], "a job of 3 GPUs: the partition's nodes have at most 2"),
        (["--device", "cpu", "--processes", "99"], "Requested node configuration is not available"),
        (["--device", "cuda:1"], "--device cuda:1"),
        (["--partition", "short", "--time", "5"], "PartitionTimeLimit"),
    ],
)
def test_requests_that_the_cluster_refuses(
    lab: Lab, capfd: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(lab, *options, runs=2) == 2
    (line,) = beside_progress(capfd.readouterr().err)
    assert line.startswith("manager.py: ")
    assert words in line


def test_a_site_that_accepts_fewer_jobs_than_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ovis.experiments.runner.engines.slurm.REFUSED", 3.0)  # a minute
    with running(gpus=0, max_jobs=4) as small:
        monkeypatch.setenv("SLURM_CONF", small.environment["SLURM_CONF"])
        lab = Lab(tmp_path, POLICY, ENGINE)
        assert run(lab, runs=10) == 0
        small.wait(lambda: not small.run("squeue", "--noheader"))
        assert (small.folder / "ended").read_text().count("\n") == 10  # none was handed over twice
    output = beside_progress(capfd.readouterr().err)
    why = "QOSMaxSubmitJobPerUserLimit; Batch job submission failed: Job violates accounting/QOS policy"
    assert [line.startswith(f"waiting: Slurm takes no more jobs: {why}") for line in output].count(True) == 1
    assert all(why in line and line.endswith("; fewer at once: --array_parallelism") for line in output), output
    assert output[0].startswith("put back 6 runs, each aborted: can't start the job: ")
    assert {(r.state, r.lost, r.failures) for r in lab.records()} == {(State.DONE, 0, 0)}
    assert {sum(line.startswith("start") for line in lines) for lines in lab.journal().values()} == {1}
    assert max(Counter(id.partition("_")[0] for id in jobs(lab)).values()) <= 4


def test_a_controller_that_is_down_at_the_start(lab: Lab, cluster: SlurmCluster) -> None:
    cluster.kill_controller()
    try:
        line = refusal(start(lab, runs=2))
    finally:
        cluster.start_controller()
    assert line.startswith("no Slurm cluster answers here: sinfo: Unable to contact slurm controller")
    assert not (lab.folder / "runs").exists()


def test_two_interrupts_while_the_controller_is_down(lab: Lab, cluster: SlurmCluster) -> None:
    """Nobody can tell the jobs: they find their leases gone. The manager does not wait for the controller."""
    lab.write(args=["--estimator vimco --iw 2 --id wait"], seeds=2)  # until they are stopped
    manager = lab.start("--device", "cpu", "--processes", "2")
    lab.wait(lambda: sum(bool(lines) for lines in lab.journal().values()) == 2, 60)
    time.sleep(6)  # Slurm saves its state every five seconds
    cluster.kill_controller()
    try:
        for _ in range(2):
            assert manager.poll() is None
            manager.send_signal(signal.SIGINT)
            begin = time.monotonic()
            time.sleep(1)
        output, _ = manager.communicate(timeout=120)
        assert manager.returncode == 130, output
        took = time.monotonic() - begin
        print(f"ended {took:.1f} s after the second")
        assert took < 60, output  # 20, and what the scancel takes that it is in the midst of
        lab.wait(lambda: not processes_of(lab.paths.folder), 5 * POLICY.heartbeat)
    finally:
        cluster.start_controller()
        cluster.wait(lambda: set(cluster.states().values()) == {"idle"})
    why = "killed on request, and not heard of since"
    assert {(r.state, r.reason, r.error) for r in lab.records()} == {(State.QUEUED, "orphaned", why)}
    manager = lab.start("--device", "cpu", "--processes", "2")
    output, _ = manager.communicate(timeout=60)
    assert manager.returncode == 0, output
    assert {(r.attempt, r.lost, r.failures) for r in lab.records()} == {(2, 0, 0)}
    # killed where it was, without a word, and gone on from its checkpoint
    assert all(lines == ["start at 0 in 1", "start at 3 in 2", "done in 2"] for lines in lab.journal().values())


def test_a_stopped_cluster_leaves_no_processes() -> None:
    with running() as brief:
        brief.run("sbatch", "--output=/dev/null", "--wrap=sleep 100")
        brief.wait(lambda: "sleep" in names(brief.folder).values())
        before = names(brief.folder)
        assert set(before.values()) >= {"munged", "slurmctld", "slurmd", "slurmstepd", "sleep"}
    assert not names(brief.folder)
    assert not any(map(is_running, before))
    assert not brief.folder.exists()


def names(folder: Path) -> dict[int, str]:
    """The programs that run for a cluster, by process."""
    commands = {pid: command_of(pid).strip(": ") for pid in processes_with(folder)}  # ": slurmscriptd"
    return {pid: Path(command.split()[0]).name.rstrip(":") for pid, command in commands.items() if command}
