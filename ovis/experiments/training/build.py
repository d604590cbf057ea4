"""From the settings of a run to the objects that it needs."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovis.estimators.base import GradientEstimator
from ovis.estimators.config import get_config
from ovis.experiments.datasets import load_dataset
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.models import build_model
from ovis.experiments.settings import SettingsError, TrainSettings, check_combination, parse_particles_per_pass
from ovis.models.baseline import Baseline
from ovis.models.template import ParticleModel

__all__ = ["Run", "build_run", "pick_device", "seed_everything"]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


@dataclass(frozen=True)
class Run:
    """Everything that a training run works with."""

    settings: TrainSettings
    device: torch.device
    splits: Splits  # on the device
    model: ParticleModel
    estimator: GradientEstimator
    optimizer: torch.optim.Optimizer


def build_run(settings: TrainSettings, splits: Splits | None = None) -> Run:
    """Seed the random numbers, then make the parts of a run, in an order that the seed fixes.

    Args:
        settings: the run's options.
        splits: its data, where they are on the device already: they are the same for every seed.

    Raises:
        SettingsError: settings that don't fit together, or a device that is not here.
    """
    check_combination(settings)
    device = pick_device(settings.device)
    _check_speed(settings, device)
    seed_everything(settings.seed)
    splits = splits or load_dataset(settings.dataset, settings.mini, **settings.dataset_options).to(device)
    model = build_model(settings.trained_model, splits.x_shape, splits.mean.cpu(), **settings.model_options).to(device)
    estimator = build_estimator(settings, splits.x_shape).to(device)
    return Run(settings, device, splits, model, estimator, build_optimizer(settings, model, estimator))


def pick_device(name: str) -> torch.device:
    """The device of a run; auto: CUDA where there is one.

    Raises:
        SettingsError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"--device: unknown device {name!r}; valid: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"--device: {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _check_speed(settings: TrainSettings, device: torch.device) -> None:
    """
    Raises:
        SettingsError: nothing to compile with, or no device that can replay.
    """
    compiler = os.environ.get("CXX", "g++")
    if settings.compile and not shutil.which(compiler):
        raise SettingsError(
            f"--compile: no C++ compiler {compiler!r} here; install g++, name another in CXX, or leave --compile out"
        )
    if settings.capture and device.type != "cuda":
        raise SettingsError(f"--capture: needs a CUDA device, and this run is on {device}; leave it out")


def seed_everything(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (whatever a library draws from the global state)
    torch.manual_seed(seed)


def build_estimator(settings: TrainSettings, x_shape: tuple[int, ...]) -> GradientEstimator:
    """The estimator, with those options of the run that it has."""
    Estimator, config = get_config(settings.estimator)
    for name in ("mc", "iw", "beta", "tau", "freebits", "alpha"):
        if name not in Estimator.facts.lacks:
            config[name] = getattr(settings, name)
    config["particles_per_pass"] = parse_particles_per_pass(settings.particles_per_pass)
    if settings.estimator == "reinforce-baseline":
        config["baseline"] = Baseline(x_shape, settings.hdim, settings.b_nlayers)
    return Estimator(**config)


def build_optimizer(settings: TrainSettings, model: nn.Module, estimator: nn.Module) -> torch.optim.Optimizer:
    """The optimizer, with the baseline's parameters in a group of their own learning rate."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": settings.lr}]
    baseline: list[Tensor] = list(estimator.parameters())
    if baseline:
        groups.append({"params": baseline, "lr": settings.baseline_lr})
    # one fused kernel for all parameters, where torch has it (on the CPU too)
    extra: dict[str, Any] = {"fused": True} if settings.optimizer in ("adam", "sgd") else {}
    if settings.capture and settings.optimizer != "sgd":  # which counts no steps
        extra["capturable"] = True
    return OPTIMIZERS[settings.optimizer](groups, **extra)
