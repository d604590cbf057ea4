"""The engine on a real Slurm: a controller and two nodes on this machine, jobs, and what is done to them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import Lab, processes_of
from slurm_chaos import POLICY, SlurmSweep
from slurm_cluster import SlurmCluster, missing, running

import ovis
from ovis.cli.manager import main
from ovis.runner.status import State

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm to be tried: {missing()}"),
]

ENGINE = ("--engine", "slurm")

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.json"

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
    lab.policy = POLICY
    yield lab
    cluster.run("scancel", "--user=root")
    cluster.wait(lambda: set(cluster.states().values()) == {"idle"})


def sweep(lab: Lab, *options: str, runs: int, steps: int = 3, pace: int = 10) -> list[str]:
    """An experiment, and the words of a manager for it."""
    lab.write(args=[f"--estimator vimco --iw 2 --nsteps {steps} --id step{pace}"], seeds=runs)
    return ["--exp", str(lab.folder / "lab.json"), "--root", str(lab.folder / "runs"), *ENGINE, *options]


def run(lab: Lab, *options: str, runs: int, steps: int = 3, pace: int = 10) -> int:
    from laboratory import STUB

    return main(sweep(lab, *options, runs=runs, steps=steps, pace=pace), STUB, lab.policy)


def jobs(lab: Lab) -> Counter[str]:
    """How many runs each of Slurm's jobs has had."""
    return Counter(str(record.engine["id"]).split("/")[1] for record in lab.records() if record.engine)


def devices(lab: Lab) -> Counter[tuple[str, str]]:
    """How many runs each device has had, by node and GPU."""
    calls = [json.loads(path.read_text()) for path in lab.paths.folder.glob("*/call.json")]
    return Counter((call["env"]["SLURMD_NODENAME"], call["env"].get("CUDA_VISIBLE_DEVICES", "")) for call in calls)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_node_a_job_and_the_manager_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    with running(gpus=0) as cluster:
        monkeypatch.setenv("SLURM_CONF", "")  # put back what the trial sets
        trial = SlurmSweep(Lab(tmp_path, POLICY), seed=seed, cluster=cluster)
        verdict = trial.run()
        print(verdict, trial.dead, trial.outlived)
        assert verdict.holds, f"{verdict}\n{trial.log}"
        assert set(verdict.kills.values()) == {1}
        assert trial.dead > 0
        assert "no sign of life" in trial.log  # it was the lease, not Slurm, that gave the runs of the node back
        assert trial.attached == len(trial.outlived) > 0
        assert not (tmp_path / "runs" / ".slurm").exists()


def test_runs_that_share_gpus_by_the_site_s_shards(lab: Lab) -> None:
    assert run(lab, "--processes", "2", runs=8, pace=1000) == 0
    assert set(jobs(lab).values()) == {1}
    assert set(devices(lab).values()) == {2}
    assert len(devices(lab)) == 4
    assert {record.device for record in lab.records()} == {"n1", "n2"}


def test_runs_that_share_a_job_where_the_shards_do_not_fit(lab: Lab) -> None:
    assert run(lab, "--processes", "3", runs=5) == 0
    assert sorted(jobs(lab).values()) == [2, 3]
    assert sorted(devices(lab).values()) in ([5], [2, 3])  # each job has one GPU


def test_a_job_of_two_gpus_gives_each_run_one(lab: Lab) -> None:
    assert run(lab, "--gpus_per_node", "2", runs=4) == 0
    assert set(jobs(lab).values()) == {2}
    assert {device for _, device in devices(lab)} == {"0", "1"}
    assert set(Counter(gpu for _, gpu in devices(lab).elements()).values()) == {2}


def test_jobs_without_gpus_and_arrays_of_the_size_that_the_site_allows(tmp_path: Path, monkeypatch) -> None:
    with running(gpus=0, max_array=4) as small:
        monkeypatch.setenv("SLURM_CONF", small.environment["SLURM_CONF"])
        lab = Lab(tmp_path, POLICY)
        assert run(lab, "--array_parallelism", "9", runs=11) == 0
        arrays = Counter(id.partition("_")[0] for id in jobs(lab))
        assert max(arrays.values()) == 4
        assert devices(lab).keys() <= {("n1", ""), ("n2", "")}
        assert all(call["env"]["OMP_NUM_THREADS"] == "1" for call in calls(lab))


def calls(lab: Lab) -> list[dict]:
    return [json.loads(path.read_text()) for path in lab.paths.folder.glob("*/call.json")]


def test_the_time_limit_is_a_pause(lab: Lab) -> None:
    assert run(lab, "--device", "cpu", "--time", "1", runs=1, steps=40, pace=1000) == 0
    (record,) = lab.records()
    assert record.attempt > 1
    assert record.lost == record.failures == 0
    (journal,) = lab.journal().values()
    starts = [int(line.split()[2]) for line in journal if line.startswith("start")]
    stops = [index for index, line in enumerate(journal) if line.startswith("stopped")]
    steps = [int(journal[index - 1].split()[1]) for index in stops]
    assert starts == [0, *steps]  # each attempt goes on where the one before was told to stop


def test_interrupted_it_takes_its_jobs_back(lab: Lab, cluster: SlurmCluster) -> None:
    sweep(lab, runs=10)
    lab.write(args=["--estimator vimco --iw 2 --nsteps 100 --id step500"], seeds=10)
    manager = lab.start(*ENGINE, "--processes", "2", "--array_parallelism", "8")
    lab.wait(lambda: sum("step" in line for lines in lab.journal().values() for line in lines) > 8, 60)
    manager.send_signal(signal.SIGINT)
    said, _ = manager.communicate(timeout=60)
    assert manager.returncode == 130, said
    assert lab.counts() == {"queued": 10}
    assert not cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING")
    assert all(lines[-1].startswith("stopped") for lines in lab.journal().values() if lines)
    assert {record.lost for record in lab.records()} == {0}


def test_a_controller_that_is_away_for_a_while_loses_nothing(lab: Lab, cluster: SlurmCluster) -> None:
    lab.write(args=["--estimator vimco --iw 2 --nsteps 18 --id step1000"], seeds=6)
    manager = lab.start(*ENGINE, "--array_parallelism", "2")  # jobs, of two runs each
    lab.wait(lambda: sum(bool(lines) for lines in lab.journal().values()) >= 4, 60)
    time.sleep(6)  # Slurm saves its state every five seconds
    cluster.kill_controller()
    try:
        lab.wait(lambda: lab.counts() == {"queued": 2, "done": 4}, 60)  # their ends are in their folders
        time.sleep(5)
        assert manager.poll() is None
    finally:
        cluster.start_controller()
    said, _ = manager.communicate(timeout=180)
    assert manager.returncode == 0, said
    assert {(record.lost, record.failures) for record in lab.records()} == {(0, 0)}
    assert {sum(line.startswith("start") for line in lines) for lines in lab.journal().values()} == {1}


def test_the_quickstart_comes_to_the_same_numbers_as_here_to_the_bit(lab: Lab) -> None:
    experiment = json.loads(QUICKSTART.read_text())
    lab.write(**experiment | {"parameters": experiment["parameters"] | SHORT})
    where = ["--exp", str(lab.folder / "lab.json"), "--data_root", str(lab.folder / "data"), "--device", "cpu"]
    assert main([*where, "--root", str(lab.folder / "here")]) == 0
    assert main([*where, "--root", str(lab.folder / "runs"), *ENGINE]) == 0
    ours = sorted((lab.folder / "here" / "lab").glob("*/metrics.jsonl"))
    assert len(ours) == 7
    for file in ours:
        assert len(numbers(file)) == 2
        assert numbers(file) == numbers(lab.paths.folder / file.parent.name / file.name)


def numbers(path: Path) -> list[dict]:
    """The measurements, without the seconds they took."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]


@contextlib.contextmanager
def different_node(cluster: SlurmCluster, *mount: str) -> Iterator[None]:
    """The cluster with both nodes seeing something else somewhere, by a mount of their own."""
    for node in cluster.nodes:
        cluster.kill_node(node)
    script = 'mount "$@" && exec slurmd -N "$0" -f "$SLURM_CONF"'
    try:
        for node in cluster.nodes:
            words = ["unshare", "--mount", "bash", "-c", script, node, *mount]
            subprocess.run(words, env={**os.environ, **cluster.environment}, check=True)
        cluster.wait(lambda: set(cluster.states().values()) == {"idle"})
        yield
    finally:
        for node in cluster.nodes:
            cluster.kill_node(node)
            cluster.start_node(node)


def test_a_root_that_is_not_shared(lab: Lab, cluster: SlurmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.folder / "runs").mkdir()
    with different_node(cluster, "-t", "tmpfs", "none", str(lab.folder)):
        assert run(lab, runs=2) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("manager.py")]
    assert f"{lab.folder}/runs is not there: --root must be on a file system that all nodes share" in line
    assert line.startswith(("manager.py: node n1", "manager.py: node n2"))
    cluster.wait(lambda: not cluster.run("squeue", "--noheader"))
    assert run(lab, runs=2) == 0  # it goes on as soon as it is
    assert {record.state for record in lab.records()} == {State.DONE}


def test_another_version_on_a_node(
    lab: Lab, cluster: SlurmCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(ovis.__file__)
    other = tmp_path / "other.py"
    other.write_text(source.read_text().replace(f'"{ovis.__version__}"', '"0.0.9"'))
    with different_node(cluster, "--bind", str(other), str(source)):
        assert run(lab, runs=2) == 2
    assert f"ovis 0.0.9 instead of {ovis.__version__}" in capsys.readouterr().err


def test_no_such_python_on_a_node(lab: Lab, cluster: SlurmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    with different_node(cluster, "-t", "tmpfs", "none", str(Path(sys.executable).parent)):
        assert run(lab, runs=2) == 2
    assert f"there is no {sys.executable}" in capsys.readouterr().err


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
def test_what_the_cluster_refuses(lab: Lab, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert run(lab, *options, runs=2) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("manager.py: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_controller_that_is_not_there(lab: Lab, cluster: SlurmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.kill_controller()
    try:
        assert run(lab, runs=2) == 2
    finally:
        cluster.start_controller()
    assert "Unable to contact slurm controller" in capsys.readouterr().err
    assert not lab.paths.folder.exists()


def test_it_is_gone_when_it_is_stopped() -> None:
    with running() as brief:
        folder = brief.folder
        brief.run("sbatch", "--output=/dev/null", "--wrap=sleep 100")
        brief.wait(lambda: "mix" in brief.states().values() or "alloc" in brief.states().values())
    assert not processes_of(folder)
    assert not folder.exists()
    assert shutil.which("slurmctld", path="/usr/sbin")
