"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from ovis.datasets import digits, gaussian_toy, gmm, shapes
from ovis.datasets.splits import Splits
from ovis.settings import TrainSettings

__all__ = ["DATASETS", "load_dataset"]

DATASETS: dict[str, Callable[[TrainSettings], Splits]] = {
    "digits": digits.load,
    "gmm": gmm.load,
    "gaussian-toy": gaussian_toy.load,
    "shapes": shapes.load,
}

#: Points of a ``--mini`` run: training, and each of the other splits.
MINI = (256, 64)


def load_dataset(settings: TrainSettings) -> Splits:
    """The data of a run, on the CPU; the same for every seed of the run.

    Raises:
        ImportError: a package that this data set needs is missing; one line that names it.
    """
    splits = DATASETS[settings.dataset](settings)
    return splits.subset(*MINI) if settings.mini else splits
