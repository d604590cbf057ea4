"""Training the Gaussian mixture of Figure 2: runs alone and together, and how long the whole figure takes.

    python benchmarks/bench_ensemble.py [--estimators ovis-gamma1,ovis-S10-exclusive] [--iw 2,5,10,20] [--runs 1,5,10]

All in one process, on one core, as the manager's jobs are on the CPU. A step is what the training does between two
evaluations: batches, random numbers, gradients, optimizer. An evaluation is bounds and 500 gradient draws of each run.
Times are of the processor, per run of the ensemble, so that other programs on the machine count little.

The hours are what the whole figure takes on two cores if all its estimators were as fast as this one: 4 K x 10 seeds x
10 estimators of 100,000 steps with 34 evaluations each, and what is made once (compiling included).
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.ensemble.vmapped_step import VmappedStep
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.random_state import random_states
from ovis.experiments.training.step import TrainingStep

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "gaussian-mixture-model.json"


@dataclass(frozen=True)
class Cost:
    """Seconds of one core, per run."""

    step: float
    evaluation: float
    once: float

    def of_run(self, settings: TrainSettings) -> float:
        """A whole run."""
        evaluations = -(-settings.nsteps // (settings.eval_freq * (100_000 // settings.bs)))
        return self.once + settings.nsteps * self.step + evaluations * self.evaluation


def alone(settings: TrainSettings, steps: int) -> Cost:
    """One run, as the trainer takes its steps."""
    begin = time.process_time()
    run = build_run(settings)
    take, measure = TrainingStep(run), Measurements(run)
    batches = run.batches(0, settings.nsteps)
    once = time.process_time() - begin
    step = seconds(lambda: take(next(batches), 0), steps)
    return Cost(step, seconds(lambda: measure(0), 2), once)


def ensemble(settings: TrainSettings, count: int, steps: int) -> Cost:
    """Several runs at once, as the trainer takes their steps: compiled, as in a run of full length."""
    begin = time.process_time() + of_children()
    runs, random = [], []
    for number in range(count):
        runs.append(build_run(dataclasses.replace(settings, seed=number + 1)))
        random.append(random_states(runs[-1].device))
    stepper = VmappedStep(runs, [Measurements(run) for run in runs], random, settings.nsteps)
    batches = stepper.batches(0, settings.nsteps)
    stepper.step(next(batches), 0), stepper.measure(0)  # what is made once
    once = time.process_time() + of_children() - begin
    step = seconds(lambda: stepper.step(next(batches), 0), steps) / count
    return Cost(step, seconds(lambda: stepper.measure(0), 2) / count, once / count)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Of the processor, for one call; the best of three turns."""
    times = []
    for _ in range(3):
        begin = time.process_time()
        for _ in range(-(-repeats // 3)):
            run()
        times.append((time.process_time() - begin) / -(-repeats // 3))
    return min(times)


def of_children() -> float:
    """Seconds of the processor that compilers took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", default="ovis-gamma1", help="ids, separated by commas; all: the figure's")
    parser.add_argument("--iw", default="2,5,10,20", help="particles K, separated by commas")
    parser.add_argument("--runs", default="1,5,10", help="sizes of ensembles, separated by commas; 0 is one run alone")
    parser.add_argument("--steps", type=int, default=300, help="steps that are measured")
    opt = parser.parse_args()
    torch.set_num_threads(1)
    figure = [run.settings for run in load_experiment(EXPERIMENT).runs]
    names = list(dict.fromkeys(s.estimator for s in figure)) if opt.estimators == "all" else opt.estimators.split(",")
    sizes = list(map(int, opt.runs.split(",")))
    print("steps per second of one core, all runs together; ms per evaluation of one run; s of one run made once")
    print(f"{'estimator':20s} {'K':>3s} {'runs':>6s} {'step ms':>9s} {'steps/s':>9s} {'eval ms':>9s} {'once s':>7s}")
    hours = dict.fromkeys((0, *sizes), 0.0)
    for name in names:
        for iw in map(int, opt.iw.split(",")):
            settings = next(s for s in figure if s.iw == iw)
            settings = dataclasses.replace(settings, estimator=name, device="cpu")
            for size in hours:
                cost = ensemble(settings, size, opt.steps) if size else alone(settings, opt.steps)
                hours[size] += cost.of_run(settings)
                shown = f"{1e3 * cost.step * max(size, 1):9.3f} {1 / cost.step:9.0f} {1e3 * cost.evaluation:9.1f}"
                print(f"{name:20s} {iw:3d} {size or 'alone':>6} {shown} {cost.once:7.2f}", flush=True)
    each = len(names) * len(opt.iw.split(","))
    for size, total in hours.items():
        shown = total / each * len(figure) / 2 / 3600
        print(f"{len(figure)} such runs on two cores, {size or 'alone'}{' at once' * bool(size)}: {shown:.2f} hours")


if __name__ == "__main__":
    main()
