"""The costs that grow with the number of runs and of GPUs: the manager, the engines, and reading results.

    python benchmarks/bench_cluster.py manager --n 10000 --running 1000
    python benchmarks/bench_cluster.py read --n 1000
    python benchmarks/bench_cluster.py drain --runs 200 -- --engine slurm --device cpu

The first two write to a temporary folder and print medians and minima of five measurements, after a warm-up. ``drain``
executes empty runs by the manager, with the options after ``--``: the overhead of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ovis.experiments.cli.manager import main as manager
from ovis.experiments.cli.train import main as train
from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.runner.queue.queue import Ended, Queue
from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.process import new_owner
from ovis.experiments.runs.status import AttemptResult, Outcome, Record, State, read_progress

NOTHING = (sys.executable, "-c", "pass")
DONE = Outcome(AttemptResult.SUCCESS, 1)

#: A run with twenty evaluations.
RUN = (
    *("--model", "sbm", "--dataset", "digits", "--prior", "bernoulli", "--nlayers", "0", "--depth", "2", "--N", "5"),
    *("--iw", "2", "--bs", "50", "--nsteps", "560", "--eval_freq", "1", "--valid_bs", "50", "--test_bs", "50"),
    *("--max_eval", "50", "--iw_valid", "2", "--iw_test", "2", "--grad_bs", "2", "--grad_samples", "2"),
)


def report(what: str, action: Callable[[], object], per: int = 1, unit: str = "ms") -> None:
    """Print how long an action takes, divided by ``per``."""
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        action()
        times.append((time.perf_counter() - begin) / per * (1000.0 if unit == "ms" else 1e6))
    print(f"{what:60} {statistics.median(times[1:]):9.2f} {unit}   best {min(times[1:]):9.2f}", flush=True)


def measure_manager(folder: Path, n: int, running: int) -> None:
    """A transaction that finishes one run and claims another, and reading the progress of all running ones."""
    queue, owner = Queue(ExperimentPaths(folder / "lab")), new_owner()
    settings = {
        "dataset": "omniglot",
        "estimator": "ovis-gamma1",
        "iw": 50,
        "lr": 0.003,
        "model": "sbm",
        "nsteps": 100_000,
    }
    queue.add([Record(f"{number:012x}", f"run-{number:012x}", settings) for number in range(n)])
    under_way = queue.tick(owner, min(n, running + n // 2)).claimed
    ended, under_way = under_way[running:], under_way[:running]
    queue.tick(owner, 0, [Ended(record.key, 1, DONE) for record in ended])

    def tick() -> None:
        queue.tick(owner, 1, [Ended(under_way.pop(0).key, 1, DONE)])

    def look() -> None:
        for record in under_way:
            read_progress(queue.paths.run(record.name))

    for record in under_way:
        (queue.paths.folder / record.name).mkdir()
        progress = {"step": 5, "nsteps": 100, "loss": 1.5, "t": time.time(), "begin": 0}
        write_json(queue.paths.run(record.name).progress, progress, durable=False)
    report(f"one of {running} running ends, {n} in the ledger", tick)
    report(f"progress of {len(under_way)} runs", look)
    report(f"heartbeats of {len(under_way)} runs", lambda: [queue.leases.beat(r.key, 1) for r in under_way])


def measure_reading(folder: Path, n: int) -> None:
    """Read an experiment of ``n`` copies of one run with twenty evaluations, as a report does."""
    train([*RUN, "--root", str(folder), "--exp", "one", "--data_root", str(folder / "data"), "--device", "cpu"])
    (one,) = (path for path in (folder / "one").iterdir() if path.is_dir() and not path.name.startswith("."))
    for number in range(n):
        target = folder / "lab" / f"{one.name}-{number}"
        target.mkdir(parents=True)
        for name in ("config.json", "metrics.jsonl", "outcome.json", "success.txt"):
            if (one / name).exists():
                shutil.copy(one / name, target / name)
    size = sum(path.stat().st_size for path in one.iterdir())
    print(f"a run's folder: {size / 1e3:.0f} kB in {len(list(one.iterdir()))} files")
    report(f"reading {n} runs, each", lambda: read_experiment(folder / "lab"), per=n)


def measure_drain(folder: Path, runs: int, options: list[str]) -> int:
    """Execute empty runs, from the first claim to the last end."""
    path = folder / "lab.json"
    path.write_text(json.dumps({"args": ["--estimator vimco --iw 2"], "seeds": runs}))
    begin = time.perf_counter()
    code = manager(["--exp", str(path), "--root", str(folder / "runs"), *options], NOTHING)
    seconds = time.perf_counter() - begin
    done = sum(record.state is State.DONE for record in Queue(ExperimentPaths(folder / "runs" / "lab")).read())
    print(f"{done} runs in {seconds:.1f} s: {done / seconds:.2f} a second; {' '.join(options)}")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["manager", "read", "drain"])
    parser.add_argument("--n", type=int, default=1000, help="runs in the ledger, or to be read")
    parser.add_argument("--running", type=int, default=100, help="running runs")
    parser.add_argument("--runs", type=int, default=100, help="empty runs to execute")
    words = sys.argv[1:]
    middle = words.index("--") if "--" in words else len(words)  # what follows is for manager.py
    options = parser.parse_args(words[:middle])
    print(f"load average {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as name:
        if options.what == "drain":
            return measure_drain(Path(name), options.runs, words[middle + 1 :])
        if options.what == "manager":
            measure_manager(Path(name), options.n, options.running)
        else:
            measure_reading(Path(name), options.n)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
