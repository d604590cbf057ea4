"""What is tried on a real Ray, each scenario in a process of its own.

``python ray_scenarios.py sweep --folder DIR`` prints one JSON object. To be run where only the loopback is, see
``in_network_namespace``. What is left in the folder is for people to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster_sweep import ClusterSweep, workers_of
from laboratory import STUB, UNGUARDED, Lab, State, processes_of
from local_ray import QUIET, RayNodes

from ovis.experiments.runner.queue.retry_policy import Policy

ROOT = Path(__file__).parents[3]


def sweep(folder: Path, seed: int, runs: int, step: float, unguarded: str) -> dict[str, Any]:
    """A sweep with one worker, one node and the manager killed; without the guards a worker and the manager."""
    begin = time.monotonic()
    if unguarded:  # every process below inherits it
        os.environ |= {"PYTHONPATH": str(UNGUARDED), "OVIS_UNGUARDED": unguarded}
    lab, chance = Lab(folder, Policy(heartbeat=0.5, ttl=3.0)), random.Random(seed)

    def kill_worker() -> bool:
        workers = workers_of(lab)
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
        return bool(workers)

    with RayNodes() as ray:

        def kill_node() -> bool:
            ray.kill_node()
            return True

        ready = time.monotonic() - begin
        faults = {"worker": kill_worker, "node": kill_node} if not unguarded else {"worker": kill_worker}
        lab.engine = _engine(ray)
        trial = ClusterSweep(lab, faults, runs=runs, step=step, seed=seed)
        verdict = trial.run()
    devices = sorted({record.device for record in lab.records()})
    times = {"recoveries": trial.recoveries, "start": round(ready, 1), "seconds": round(time.monotonic() - begin, 1)}
    return {**asdict(verdict), "holds": verdict.holds, "devices": devices, **times}


def refusals(folder: Path) -> dict[str, Any]:
    """The errors about a root that is not shared, of devices that are not there, of a node that is another."""
    lab = Lab(folder)
    lab.write(args=["--nsteps 3"])
    root, left, other = folder / "runs", folder / "left", _other_torch(folder)
    root.mkdir()
    before = _files(folder)
    addresses = {"auto": "auto", "closed": "127.0.0.1:6379", "word": "ray://head"}
    errors = {name: _manager(lab, ["--engine", "ray", "--address", address]) for name, address in addresses.items()}
    # The manager's own: the nodes see the folder below it. What is left in it is only seen from there.
    alone = f'mount -t tmpfs none {root} && {{ "$0" "$@"; code=$?; find {root} -mindepth 1 >{left}; exit $code; }}'
    with RayNodes() as ray:
        errors["cuda"] = _manager(lab, _engine(ray, device="cuda"))
        errors["hidden"] = _manager(lab, _engine(ray), before=["unshare", "-m", "bash", "-c", alone])
        errors["dry"] = _manager(lab, [*_engine(ray), "--dry_run"])
        ray.add(**other)
        errors["other"] = _manager(lab, _engine(ray))
    return {**errors, "written": [*left.read_text().splitlines(), *sorted(_files(folder) - before - {left.name})]}


def stranger(folder: Path) -> dict[str, Any]:
    """A node that joins in the middle of a sweep and has another torch."""
    lab = Lab(folder, Policy(heartbeat=0.5, ttl=3.0))
    lab.write(args=["--nsteps 12 --id step300"], seeds=16)
    with RayNodes(1) as ray:
        lab.engine = _engine(ray)
        manager = lab.start()
        lab.wait_for_steps(1)
        ray.add(**_other_torch(folder))
        text, _ = manager.communicate(timeout=120)
    devices = sorted({record.device for record in lab.records()})
    return {"code": manager.returncode, "text": text, "devices": devices, "counts": lab.counts()}


def edited(folder: Path) -> dict[str, Any]:
    """The clone that the manager was started in breaks in the middle of a sweep."""
    lab, clone = Lab(folder), folder / "clone"
    shutil.copytree(ROOT / "ovis", clone / "ovis", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(STUB[1], clone / "ovis" / "experiments" / "cli" / "train.py")
    lab.write(args=["--nsteps 8 --id step200"], parameters={"seed": list(range(8))})
    with RayNodes(1) as ray:
        lab.engine = _engine(ray)
        command = [sys.executable, "-m", "ovis", "run", *lab.arguments()]
        environment = {**os.environ, "PYTHONPATH": str(clone)}
        manager = subprocess.Popen(
            command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lab.wait_for_steps(1)
        for path in clone.rglob("*.py"):
            path.write_text("def half_typed(")
        text, _ = manager.communicate(timeout=120)
    return {
        "code": manager.returncode,
        "text": text,
        "counts": lab.counts(),
        "lost": sum(r.lost for r in lab.records()),
    }


def stop(folder: Path) -> dict[str, Any]:
    """Ctrl-C; then again from there, with one run cancelled while it waits and one while it runs."""
    lab = Lab(folder, Policy(heartbeat=0.5, ttl=3.0))
    lab.write(args=["--nsteps 100 --id step50"], seeds=6)
    with RayNodes(1) as ray:
        lab.engine = _engine(ray)
        manager = lab.start()
        lab.wait_for_steps(2)
        begin = time.monotonic()
        manager.send_signal(signal.SIGINT)
        text, _ = manager.communicate(timeout=60)
        stopped = {"code": manager.returncode, "text": text, "counts": lab.counts(), "journal": lab.journal()}
        stopped |= {"seconds": time.monotonic() - begin, "left": len(processes_of(lab.paths.folder))}
        manager = lab.start()
        lab.wait(lambda: lab.counts().get("running") == 4)  # two at work, two in Ray's queue
        lab.wait(lambda: sum(bool(record.device) for record in lab.records()) >= 2)
        running = [record for record in lab.records() if record.state is State.RUNNING]
        chosen = [next(r for r in running if r.device), next(r for r in running if not r.device)]
        lab.queue.cancel({record.key for record in chosen})
        manager.communicate(timeout=120)
    return {**stopped, "again": manager.returncode, "then": lab.counts()}


def headless(folder: Path) -> dict[str, Any]:
    """The head is lost for good, and with it the cluster."""
    lab = Lab(folder, Policy(heartbeat=0.5, ttl=3.0))
    lab.write(args=["--nsteps 400 --id step300"], seeds=6)
    with RayNodes(1) as ray:
        lab.engine = _engine(ray)
        manager = lab.start()
        lab.wait_for_steps(2)
        ray.cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        text, _ = manager.communicate(timeout=120)
        lab.wait(lambda: not processes_of(lab.paths.folder), 60.0)
    return {"code": manager.returncode, "text": text}


def gpus(folder: Path) -> dict[str, Any]:
    """Two runs on each of two GPUs, which are there in name only."""
    lab = Lab(folder, Policy(heartbeat=0.5, ttl=3.0))
    lab.write(args=["--nsteps 20 --id step100"], seeds=8)
    largest = Counter[str]()
    with RayNodes(1, num_cpus=8, num_gpus=2) as ray:
        lab.engine = [*_engine(ray, device="cuda"), "--processes", "2"]
        manager = lab.start()
        while manager.poll() is None:
            records = lab.records() if lab.paths.ledger.exists() else []
            now = Counter(record.device for record in records if record.state is State.RUNNING)
            largest |= now
            time.sleep(0.2)
    calls = [json.loads((run.folder / "call.json").read_text()) for run in lab.runs()]
    seen = Counter(call["env"]["CUDA_VISIBLE_DEVICES"] for call in calls)
    return {"code": manager.returncode, "seen": seen, "largest": largest}


def quickstart(folder: Path) -> dict[str, Any]:
    """The quickstart experiment, shortened, on this machine and through Ray: its metrics but for the times."""
    experiment = json.loads((ROOT / "experiments" / "quickstart.json").read_text())
    experiment["parameters"] |= {"epochs": [4], "eval_freq": [2], "grad_samples": [20], "max_eval": [100]}
    (folder / "quickstart.json").write_text(json.dumps(experiment))
    metrics = {}
    with RayNodes(1) as ray:
        for name, options in {"local": ["--device", "cpu"], "ray": _engine(ray)}.items():
            where = ["--exp", str(folder / "quickstart.json"), "--root", str(folder / name)]
            words = [sys.executable, str(ROOT / "manager.py"), *where, "--data_root", str(folder / "data"), *options]
            subprocess.run(words, check=True, stdout=sys.stderr, cwd=folder)
            metrics[name] = {
                file.parent.name: [_timeless(line) for line in file.read_text().splitlines()]
                for file in sorted((folder / name / "quickstart").glob("*/metrics.jsonl"))
            }
    return metrics


def _timeless(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if "time" not in name and "seconds" not in name}


def _engine(ray: RayNodes, device: str = "cpu") -> list[str]:
    return ["--engine", "ray", "--address", ray.address, "--device", device]


def _other_torch(folder: Path) -> dict[str, str]:
    """The variables of a node on which torch is of another version, by what is installed there."""
    metadata = folder / "other" / "torch-1.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0.0\n")
    return {"PYTHONPATH": str(folder / "other")}


def _manager(lab: Lab, engine: Sequence[str], before: Sequence[str] = ()) -> list[Any]:
    """The manager's exit code, the lines on its standard error, and those on its output; Ray as talkative as it is."""
    calm = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [*before, *replace(lab, engine=engine).command()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=calm)
    return [done.returncode, done.stderr.splitlines(), done.stdout.splitlines()]


def _files(folder: Path) -> set[str]:
    """All that is in a folder, the hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


SCENARIOS = {
    "refusals": refusals,
    "stranger": stranger,
    "edited": edited,
    "stop": stop,
    "headless": headless,
    "gpus": gpus,
    "quickstart": quickstart,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=["sweep", *SCENARIOS])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the sweep's kills")
    parser.add_argument("--runs", type=int, default=40, help="of the sweep")
    parser.add_argument("--step", type=float, default=0.3, help="seconds of each of a run's twelve steps in the sweep")
    parser.add_argument("--unguarded", default="", help="deathsignal,runlock,lease: taken away in the sweep")
    options = parser.parse_args()
    if options.scenario == "sweep":
        result = sweep(options.folder, options.seed, options.runs, options.step, options.unguarded)
    else:
        result = SCENARIOS[options.scenario](options.folder)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
