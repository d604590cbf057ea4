"""Run folders of the paper's experiments with made-up numbers of the paper's size, made from the experiment files.

The numbers follow simple rules (below), so that a test can say what a figure must show; they are nobody's results.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_runs import write_run

from ovis.experiments.runner.experiment_file import load_experiment

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

#: Of an estimator's family: nats that it lies below the best one at K = 5; what remains of them at K = 50 is a quarter.
BEHIND = {
    "stl": 0.0,
    "dreg": 0.2,
    "pathwise-iwae": 0.8,
    "ovis-S": 1.6,
    "ovis-gamma": 2.2,
    "tvo": 2.0,
    "vimco-arithmetic": 3.0,
    "vimco-geometric": 3.2,
    "wake-wake": 2.6,
    "reinforce": 5.0,
}

#: Factor of the SNR, its growth as a power of K, and factor of the variance.
GRADIENTS = {
    "stl": (0.65, 0.0, 0.1),
    "dreg": (0.55, -0.1, 0.2),
    "pathwise-iwae": (0.3, -0.1, 1.0),
    "ovis-S": (0.5, 0.6, 0.01),
    "ovis-gamma": (0.35, 0.5, 0.05),
    "tvo": (0.22, 0.2, 0.4),
    "vimco-arithmetic": (0.22, -0.1, 0.5),
    "vimco-geometric": (0.2, -0.12, 0.6),
    "wake-wake": (0.4, 0.15, 0.3),
    "reinforce": (0.12, -0.35, 40.0),
}

#: The best bound of a data set at K = 5.
LEVEL = {"binmnist": -87.0, "omniglot": -104.0, "fashion": -106.0, "gmm": -3.6, "shapes": -30.0}


def write_experiment(
    root: Path,
    name: str,
    evaluations: int = 5,
    seeds: int = 10,
    datasets: Sequence[str] = tuple(LEVEL),
    held_out: str = "test",
) -> Path:
    """All runs of ``experiments/NAME.json`` with a seed up to ``seeds``, done.

    Args:
        root: the folder is ``root/NAME``.
        name: of the experiment.
        evaluations: of each run.
        seeds: how many of each configuration, at most.
        datasets: runs on other ones are left out.
        held_out: what is measured at every evaluation; of valid and test, the other one only at the end.
    """
    for run in load_experiment(EXPERIMENTS / f"{name}.json").runs:
        settings = dataclasses.asdict(run.settings) | {"select_on": held_out}
        if settings["seed"] <= seeds and settings["dataset"] in datasets:
            lines = list(_lines(settings, evaluations, held_out))
            write_run(root / name / run.identity.name, settings, lines)
    return root / name


def _lines(settings: Mapping[str, Any], evaluations: int, held_out: str) -> Iterator[dict[str, float]]:
    rng = np.random.default_rng([settings["seed"], settings["iw"], len(settings["estimator"])])
    total = settings["nsteps"] if settings["epochs"] < 0 else 1000 * settings["epochs"]
    other = {"valid": "test", "test": "valid"}[held_out]
    for number in range(1, evaluations + 1):
        done = number / evaluations
        values = {f"train:{k}": v for k, v in _bounds(settings, done, rng).items()} | _gradients(settings, done, rng)
        values["train:active_units/au"] = 200.0 + 30.0 * math.log(settings["iw"]) + 40.0 * done
        for split in (held_out, *((other,) if number == evaluations else ())):
            held = _bounds(settings, done, rng)
            held["loss/L_k"] -= 2.0
            values |= {f"{split}:{k}": v for k, v in held.items()}
        yield {"step": round(done * total), "time": 3600.0 * done, "epoch": 10.0 * done, **values}


def _family(settings: Mapping[str, Any]) -> str:
    name = str(settings["estimator"])
    return next(family for family in BEHIND if name.startswith(family))


def _behind(settings: Mapping[str, Any]) -> float:
    name = str(settings["estimator"])
    more = {"gamma0": 0.4, "S50": -0.4, "S10": -0.2, "S1-": 0.2}
    return BEHIND[_family(settings)] + sum(nats for part, nats in more.items() if part in name)


def final_bound(settings: Mapping[str, Any]) -> float:
    """The bound that a run's curve tends to, in nats, but for a tenth that depends on the seed."""
    iw, behind = settings["iw"], _behind(settings)
    behind -= 1.0 * (settings["warmup"] > 0) + 0.5 * (settings["alpha"] > 0)
    closer = 1.0 - 0.75 * math.log(iw / 5) / math.log(10)
    return LEVEL[settings["dataset"]] + 0.6 * math.log(iw / 5) - behind * max(closer, 0.1)


def _bounds(settings: Mapping[str, Any], done: float, rng: np.random.Generator) -> dict[str, float]:
    iw, final = settings["iw"], final_bound(settings)
    ess = 1.0 + 0.15 * iw ** (0.7 + 0.2 * (settings["alpha"] > 0)) * (1.0 + 0.3 * rng.random())
    values = {
        "loss/L_k": final - 12.0 * math.exp(-6 * done) + 0.1 * rng.standard_normal(),
        "loss/kl_q_p": 5.0 + 0.7 * BEHIND[_family(settings)] * (1.0 + 0.1 * math.log(iw)) + 0.2 * rng.standard_normal(),
        "loss/kl": 20.0 + 5.0 * done + 0.3 * rng.standard_normal(),
        "loss/ess": min(ess, iw),
    }
    if settings["dataset"] == "gmm":
        behind = min((1 + _behind(settings)) / iw, 1.0)
        values["gmm/posterior_mse"] = 0.012 + 0.8 * behind ** (2 * done) * math.exp(0.2 * rng.standard_normal())
        values["gmm/prior_mse"] = 0.0026 + 0.4 * behind ** (4 * done) * math.exp(0.3 * rng.standard_normal())
    return values


def _gradients(settings: Mapping[str, Any], done: float, rng: np.random.Generator) -> dict[str, float]:
    factor, power, spread = GRADIENTS[_family(settings)]
    factor *= 1.0 - 0.15 * _behind(settings)
    tempered = 1.6 if settings["alpha"] else 1.0
    snr = factor * tempered * settings["iw"] ** power * (1.2 - 0.4 * done) * math.exp(0.1 * rng.standard_normal())
    return {"train:grads/snr": snr, "train:grads/variance": spread / settings["iw"] * (1.5 - done) / snr}
