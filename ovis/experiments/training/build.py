"""Builds the parts of a run from its settings: data, model, estimator, optimizer, batches."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ovis.estimators.base import GradientEstimator
from ovis.estimators.config import get_config
from ovis.estimators.reinforce import ReinforceBaseline
from ovis.experiments.datasets import load_dataset
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.models import build_model
from ovis.experiments.settings import SettingsError, TrainSettings, parse_particles_per_pass
from ovis.experiments.training.random_state import seed_everything
from ovis.models.baseline import Baseline
from ovis.models.bernoulli_data import check_unit_interval
from ovis.models.model import Model

__all__ = [
    "TrainingRun",
    "build_estimator",
    "build_optimizer",
    "build_run",
    "pick_device",
]

#: Points that are checked at once.
CHECKED_POINTS = 1000

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


@dataclass(frozen=True)
class TrainingRun:
    """The parts of a training run."""

    settings: TrainSettings
    device: torch.device
    splits: Splits  # on the device
    model: Model
    estimator: GradientEstimator
    optimizer: torch.optim.Optimizer

    @property
    def steps_per_epoch(self) -> int:
        return self.splits.train.batches_per_epoch(self.settings.bs)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        settings = self.settings
        return settings.nsteps if settings.epochs < 0 else settings.epochs * self.steps_per_epoch

    def batches(self, start: int, end: int) -> Iterator[Tensor]:
        """The batches of the steps from ``start`` (counted from 0) up to ``end``, float, shape [B, *event].

        The random numbers of an epoch come from :meth:`epoch_generator`, so a batch does not depend on ``start``.
        """
        step = start
        while step < end:
            epoch, skip = divmod(step, self.steps_per_epoch)
            source = self.splits.train.batches(self.settings.bs, self.epoch_generator(epoch))
            for x in itertools.islice(source, skip, skip + end - step):
                yield x
                step += 1

    def epoch_generator(self, epoch: int) -> torch.Generator:
        """A generator for the batches of one epoch, which depends on the seed and the epoch alone."""
        return torch.Generator(self.device).manual_seed(self.settings.seed * 1_000_003 + epoch)


def build_run(settings: TrainSettings, splits: Splits | None = None) -> TrainingRun:
    """Seed the global random states, then build the parts of a run: the seed fixes its initial parameters.

    Args:
        settings: the run's options.
        splits: its data, if they are already on the device (they are the same for every seed); None: load them.

    Raises:
        SettingsError: options that exclude each other, a device that is not available, or data that are not in [0, 1]
            for a model of Bernoulli variables.
    """
    settings.check_combination()
    device = pick_device(settings.device)
    _check_speed(settings, device)
    loaded = splits is None
    splits = splits or load_dataset(settings.dataset, settings.mini, **settings.dataset_options).to(device)
    seed_everything(settings.seed)  # after loading: importing scikit-learn draws from Python's global random state
    model = build_model(settings.trained_model, splits.x_shape, splits.mean.cpu(), **settings.model_options).to(device)
    if loaded and model.bernoulli:
        _check_bernoulli(settings.dataset, splits)
    estimator = build_estimator(settings, splits.x_shape).to(device)
    return TrainingRun(settings, device, splits, model, estimator, build_optimizer(settings, model, estimator))


def pick_device(name: str) -> torch.device:
    """The device of a run; auto: CUDA if available.

    Raises:
        SettingsError: the device does not exist.
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


def _check_bernoulli(dataset: str, splits: Splits) -> None:
    """Check that all data are in [0, 1].

    Raises:
        SettingsError: they are not.
    """
    parts = {"training": splits.train.chunks(CHECKED_POINTS), "validation": [splits.valid], "test": [splits.test]}
    for part, chunks in parts.items():
        for points in chunks:
            try:
                check_unit_interval(points, f"the {part} set of {dataset!r}")
            except ValueError as error:
                raise SettingsError(f"--dataset: {error}") from None


def _check_speed(settings: TrainSettings, device: torch.device) -> None:
    """Check that ``--compile`` and ``--capture`` are possible here.

    Raises:
        SettingsError: there is no C++ compiler, or the device does not support CUDA graphs.
    """
    compiler = os.environ.get("CXX", "g++")
    if settings.compile and not shutil.which(compiler):
        raise SettingsError(
            f"--compile: no C++ compiler {compiler!r} here; install g++, name another in CXX, or leave --compile out"
        )
    if settings.capture and device.type != "cuda":
        raise SettingsError(f"--capture: needs a CUDA device, and this run is on {device}; leave it out")


def build_estimator(settings: TrainSettings, x_shape: tuple[int, ...]) -> GradientEstimator:
    """The estimator, with the options of the run that apply to it."""
    Estimator, config = get_config(settings.estimator)
    for name in ("mc", "iw", "beta", "tau", "freebits", "alpha"):
        if name not in Estimator.facts.lacks:
            config[name] = getattr(settings, name)
    config["particles_per_pass"] = parse_particles_per_pass(settings.particles_per_pass)
    if issubclass(Estimator, ReinforceBaseline):
        config["baseline"] = Baseline(x_shape, settings.hdim, settings.b_nlayers)
    return Estimator(**config)


def build_optimizer(settings: TrainSettings, model: nn.Module, estimator: nn.Module) -> torch.optim.Optimizer:
    """The optimizer; the baseline's parameters are a separate group with another learning rate."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": settings.lr}]
    baseline: list[Tensor] = list(estimator.parameters())
    if baseline:
        groups.append({"params": baseline, "lr": settings.baseline_lr})
    # one fused kernel for all parameters, for the optimizers that have one (on the CPU, too)
    extra: dict[str, Any] = {"fused": True} if settings.optimizer in ("adam", "sgd") else {}
    if settings.capture and settings.optimizer != "sgd":  # SGD counts no steps
        extra["capturable"] = True
    return OPTIMIZERS[settings.optimizer](groups, **extra)
