"""Cases for the tests of ensembles: small runs of the paper, alone and in ensembles, and their results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from resume_lab import flatten
from train_run import train

from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.runs.context import RunContext
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.trainer import Trainer

FIGURE_2 = Path(__file__).parents[3] / "experiments" / "gaussian-mixture-model.json"

#: Every estimator of the paper's experiment with the Gaussian mixture.
ESTIMATORS = list(dict.fromkeys(run.settings.estimator for run in load_experiment(FIGURE_2).runs))

#: 9 batches an epoch; the learning rate is halved in mid-run, and the last epoch is not whole.
GMM: dict[str, Any] = {
    **{"dataset": "gmm", "N": 20, "hdim": 16, "grad_key": "phi", "iw": 4, "lr": 1e-2, "mini": True, "bs": 28},
    **{"nsteps": 12, "eval_freq": 1, "lr_reduce_steps": 1, "max_eval": 40, "iw_valid": 5, "iw_test": 6},
    **{"grad_samples": 4, "device": "cpu"},
}

#: Discrete variables in layers, a warm-up of alpha, active units, images.
SBM: dict[str, Any] = {
    **{"dataset": "digits", "model": "sbm", "N": 6, "depth": 2, "nlayers": 0, "iw": 3, "bs": 200, "nsteps": 9},
    **{"eval_freq": 1, "max_eval": 30, "iw_valid": 4, "iw_test": 4, "grad_samples": 3, "grad_bs": 4, "warmup": 6},
    **{"mc_au_analysis": 5, "npoints_au_analysis": 10, "device": "cpu"},
}

SEEDS = (1, 2, 3)


def folder(root: Path, name: str, seed: int) -> RunPaths:
    paths = RunPaths(root / f"{name}-{seed}")
    paths.folder.mkdir(exist_ok=True)
    return paths


def alone(root: Path, settings: dict[str, Any], seed: int, stop: Callable[[], bool] = lambda: False) -> RunPaths:
    paths = folder(root, "alone", seed)
    train(build_run(TrainSettings(**settings, seed=seed)), paths, stop)
    return paths


@dataclass(frozen=True)
class Trained:
    """A run of an ensemble, and how it ended."""

    paths: RunPaths
    complete: bool
    error: Exception | None

    @property
    def step(self) -> int:
        """The step of its checkpoint."""
        step: int = torch.load(self.paths.checkpoint, weights_only=True)["position"]["step"]
        return step


def ensemble(
    root: Path,
    settings: dict[str, Any],
    seeds: Sequence[int] = SEEDS,
    stop: Callable[[], bool] = lambda: False,
    name: str = "ensemble",
    ownership: Callable[[int], Callable[[], None]] = lambda seed: lambda: None,
) -> list[Trained]:
    contexts = [RunContext(folder(root, name, seed), 0, stop, ownership(seed)) for seed in seeds]
    results = Trainer([TrainSettings(**settings, seed=seed) for seed in seeds], contexts).run()
    return [Trained(context.paths, r.complete, r.error) for context, r in zip(contexts, results, strict=True)]


def after(calls: int) -> Callable[[], bool]:
    """Requests a stop at the call with this number."""
    counted = iter(range(calls))
    return lambda: next(counted, None) is None


def left(paths: RunPaths) -> dict[str, Any]:
    """Every number that a run has written, by name."""
    result: dict[str, Any] = {}
    for line in map(json.loads, paths.metrics.read_text().splitlines()):
        result.update({f"{line['step']} {name}": value for name, value in line.items() if name != "time"})
    state = torch.load(paths.checkpoint, weights_only=True)
    del state["position"]["seconds"]
    flatten("checkpoint", state, result)
    flatten("best", torch.load(paths.best, weights_only=True), result)
    return result


def check_same(a: RunPaths, b: RunPaths, rtol: float, atol: float) -> None:
    """The same names; numbers equal to rounding; random states, positions and settings to the bit."""
    first, second = left(a), left(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        other = second[name]
        if name.startswith(("checkpoint/random", "checkpoint/settings")) or not isinstance(value, float | torch.Tensor):
            assert repr(value) == repr(other), name
        else:
            torch.testing.assert_close(
                value, other, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


@contextlib.contextmanager
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
