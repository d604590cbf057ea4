"""Memory and time of a training step by estimator and K. Each point is measured in a separate process.

As in the authors' repository (vlievin/ovis, ``efficiency.png``): a sigmoid belief network of one layer of 200
variables, linear maps, binarized MNIST, batches of 24, Adam. Estimators that need reparameterized samples train a
Gaussian VAE of 200 variables with linear maps.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ovis.estimators.ids import parse_estimator
from ovis.experiments.datasets import load_dataset
from ovis.experiments.datasets.binmnist import FILES
from ovis.experiments.datasets.cache import VERSION
from ovis.experiments.datasets.splits import Splits, StoredData
from ovis.experiments.models import build_model
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import TrainingRun, build_estimator, build_optimizer, pick_device
from ovis.experiments.training.random_state import seed_everything
from ovis.experiments.training.step import TrainingStep
from ovis.paper.efficiency.isolated_process import CallResult, peak_memory, run_apart

__all__ = [
    "EPOCH_STEPS",
    "ESTIMATORS",
    "IW",
    "Cost",
    "Point",
    "default_steps",
    "describe_device",
    "has_data",
    "measure_apart",
    "measure_missing",
    "measure_point",
    "point_seconds",
    "point_settings",
]

#: Steps of an epoch in the paper: 50,000 images in batches of 24, the last one not full.
EPOCH_STEPS = 2084

#: Estimators that are measured by default: those of the paper, OVIS-MC, and the pathwise ones.
ESTIMATORS = (
    *("vimco-arithmetic", "ovis-gamma1", "reinforce", "tvo-part2-config1"),
    *("ovis-S10-exclusive", "pathwise-iwae", "stl", "dreg"),
)
IW = (10, 19, 39, 79, 158, 315, 629, 1256, 2506, 5000)

#: Approximate seconds of a step as (constant, per particle), and of a point besides its steps; by device.
STEP_SECONDS = {"cpu": (0.005, 5.5e-4), "cuda": (0.005, 3e-5)}
POINT_SECONDS = {"cpu": 0.8, "cuda": 3.0}

#: Time limit of a point in seconds.
LONGEST = 600.0

#: Warm-up steps, which are not measured, by device.
WARMUP = {"cpu": 1, "cuda": 5}


@dataclass(frozen=True)
class Point:
    """A point: what one process measures.

    Attributes:
        estimator: its canonical id.
        iw: particles K.
        seed: of all random numbers; one for each repetition.
        steps: measured ones.
    """

    estimator: str
    iw: int
    seed: int
    steps: int


@dataclass(frozen=True)
class Cost:
    """The measured cost of a point.

    Attributes:
        memory: peak of the steps, bytes, see :mod:`ovis.paper.efficiency.isolated_process`.
        seconds: of one step, on average.
        data: ``binmnist``, or ``synthetic``: random images in its place.
    """

    memory: float
    seconds: float
    data: str


def point_settings(estimator: str, iw: int, seed: int = 1, device: str = "auto") -> TrainSettings:
    """The settings of the training run whose first steps are measured.

    Raises:
        SettingsError: an unknown estimator, or one that can't work with so few particles.
    """
    settings = TrainSettings(
        estimator=estimator, iw=iw, seed=seed, device=device, dataset="binmnist", bs=24, lr=1e-3, N=200, nlayers=0
    )
    if parse_estimator(estimator).facts.reparameterized:
        settings = dataclasses.replace(settings, model="vae", prior="normal")
    else:
        settings = dataclasses.replace(settings, model="sbm", prior="bernoulli", depth=1)
    settings.check_combination()
    return settings


def default_steps(device: str, iw: int) -> int:
    """Number of measured steps of a point; on the CPU those of about 1.5 s, between 3 and 50."""
    if device == "cuda":
        return 50
    constant, slope = STEP_SECONDS["cpu"]
    return min(max(round(1.5 / (constant + slope * iw)), 3), 50)


def point_seconds(device: str, point: Point) -> float:
    """Approximate seconds of a point on two cores, or on the paper's GPU."""
    constant, slope = STEP_SECONDS[device]
    return POINT_SECONDS[device] + (point.steps + WARMUP[device]) * (constant + slope * point.iw)


def describe_device(device: torch.device) -> str:
    """Description of a device: kind, name and, for a CPU, the number of threads."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def measure_missing(
    points: Iterable[Point], limits: dict[str, int], measure: Callable[[Point], CallResult]
) -> Iterator[tuple[Point, CallResult | None]]:
    """Measure points; after an estimator has failed at one K, this K and larger ones are skipped.

    Args:
        points: in the order in which they are to be measured.
        limits: estimator -> the smallest K that is known to be too much; what is found out is added.
        measure: measures one point.

    Yields:
        every point, and what came of it; None where it was left out.
    """
    for point in points:
        if point.iw >= limits.get(point.estimator, math.inf):
            yield point, None
            continue
        answer = measure(point)
        if answer.state != "ok":
            limits[point.estimator] = point.iw
        yield point, answer


def measure_apart(point: Point, device: str) -> CallResult:
    """Measure a point in a separate process; the value of the result is its :class:`Cost`."""
    return run_apart(measure_point, (point, device), LONGEST)


def measure_point(point: Point, device: str) -> Cost:
    """Measure the training steps of a point in this process.

    Before them one step of REINFORCE with K = 2 lets torch allocate what it does once, and the optimizer its state;
    then come steps that warm up caches.
    """
    settings = point_settings(point.estimator, point.iw, point.seed, device)
    on = pick_device(device)
    seed_everything(settings.seed)
    data, splits = _load(settings)
    splits = splits.to(on)
    memory = peak_memory(on)
    run = _build(settings, on, splits)
    small = dataclasses.replace(settings, estimator="reinforce", iw=2)
    _take(dataclasses.replace(run, estimator=build_estimator(small, splits.x_shape)), 1, 0)
    memory.start()
    seconds = _take(run, WARMUP[on.type], point.steps)
    return Cost(memory.peak(), seconds / point.steps, data)


def _build(settings: TrainSettings, device: torch.device, splits: Splits) -> TrainingRun:
    """As ``build_run``, but with given data instead of those of the settings."""
    model = build_model(settings.trained_model, splits.x_shape, splits.mean.cpu(), **settings.model_options).to(device)
    estimator = build_estimator(settings, splits.x_shape).to(device)
    return TrainingRun(settings, device, splits, model.train(), estimator, build_optimizer(settings, model, estimator))


def _take(run: TrainingRun, warmup: int, steps: int) -> float:
    """Seconds of the steps after the warm-up."""
    take = TrainingStep(run)
    began = time.perf_counter()
    for number, x in enumerate(run.batches(0, warmup + steps)):
        if number == warmup:
            _wait(run.device)
            began = time.perf_counter()
        take(x, number)
    _wait(run.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def has_data(settings: TrainSettings) -> bool:
    """Whether the files of binarized MNIST exist; a measurement downloads nothing."""
    root = Path(settings.data_root)
    sources = [root / source.path for source in FILES.values()]
    return (root / "cache" / f"binmnist-v{VERSION}.npz").exists() or all(
        path.exists() or path.with_name(f"{path.name}.gz").exists() for path in sources
    )


def _load(settings: TrainSettings) -> tuple[str, Splits]:
    if has_data(settings):
        return "binmnist", load_dataset(settings.dataset, settings.mini, **settings.dataset_options)
    generator = torch.Generator().manual_seed(settings.seed)
    images = (torch.rand(500, 1, 28, 28, generator=generator) < 0.13).to(torch.uint8)  # as much ink as MNIST has
    train = StoredData(images.repeat(100, 1, 1, 1))
    return "synthetic", Splits(train, images, images, images.float().mean(0))
