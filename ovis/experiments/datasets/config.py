"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from ovis.experiments.datasets import binmnist, digits, fashion, gmm, mnist, omniglot, shapes
from ovis.experiments.datasets import gaussian_toy_points as gaussian_toy
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.settings import TrainSettings

__all__ = ["DATASETS", "load_dataset"]

DATASETS: dict[str, Callable[[TrainSettings], Splits]] = {
    "binmnist": binmnist.load,
    "digits": digits.load,
    "fashion": fashion.load,
    "gaussian-toy": gaussian_toy.load,
    "gmm": gmm.load,
    "mnist": mnist.load,
    "omniglot": omniglot.load,
    "shapes": shapes.load,
}

#: Points of a ``--mini`` run: training, and each of the other splits.
MINI = (256, 64)


def load_dataset(settings: TrainSettings) -> Splits:
    """The data of a run, on the CPU; the same for every seed of the run.

    Raises:
        ImportError: a package that this data set needs is missing; one line that names it.
        DataError: a file of this data set is corrupt, or missing and can't be downloaded; one line that names it.
    """
    splits = DATASETS[settings.dataset](settings)
    return splits.subset(*MINI) if settings.mini else splits
