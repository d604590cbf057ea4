"""The table of data sets. A new data set needs a module and a row here, see CONTRIBUTING.md.

The table refers to the functions that load data sets by name, so command lines, identities and reports read it without
importing torch.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovis.suggestions import did_you_mean

if TYPE_CHECKING:
    from ovis.experiments.datasets.splits import Splits

__all__ = ["DATASETS", "DatasetEntry", "load_dataset"]


@dataclass(frozen=True)
class DatasetEntry:
    """What the experiments need to know of a data set before it is loaded.

    Attributes:
        load: ``"module:function"``, called as ``load(**options)``; it returns
            :class:`~ovis.experiments.datasets.splits.Splits`.
        options: the fields of ``TrainSettings`` that are passed to it.
        model: for synthetic data, the model that they are drawn from; it is trained, whatever ``--model`` is.
        title: name in figures; empty: its key in :data:`DATASETS`.
    """

    load: str
    options: tuple[str, ...] = ()
    model: str | None = None
    title: str = ""


DATASETS = {
    "binmnist": DatasetEntry("ovis.experiments.datasets.binmnist:load", ("data_root",), title="binarized MNIST"),
    "digits": DatasetEntry("ovis.experiments.datasets.digits:load"),
    "fashion": DatasetEntry("ovis.experiments.datasets.fashion:load", ("data_root",), title="Fashion-MNIST"),
    "gaussian-toy": DatasetEntry(
        "ovis.experiments.datasets.gaussian_toy_points:load", ("N",), model="gaussian-toy", title="Gaussian toy"
    ),
    "gmm": DatasetEntry("ovis.experiments.datasets.gmm:load", ("N",), model="gmm", title="Gaussian mixture"),
    "mnist": DatasetEntry("ovis.experiments.datasets.mnist:load", ("data_root",), title="MNIST"),
    "omniglot": DatasetEntry("ovis.experiments.datasets.omniglot:load", ("data_root",), title="Omniglot"),
    "shapes": DatasetEntry("ovis.experiments.datasets.shapes:load"),
}

#: Points of a ``--mini`` run: in the training set, and in each of the other splits.
MINI = (256, 64)


def load_dataset(name: str, mini: bool = False, **options: Any) -> Splits:
    """Load a data set by its name, on the CPU; the same points at every call.

    Examples: ``load_dataset("digits")``, ``load_dataset("mnist", data_root="data/")``, ``load_dataset("gmm", N=20)``.

    Args:
        name: key of :data:`DATASETS`.
        mini: a small fixed subset of each split.
        options: options of the data set: ``data_root``, the folder of its files, or ``N``, the number of classes or
            dimensions of synthetic data.

    Returns:
        the data set.

    Raises:
        ValueError: an unknown name.
        TypeError: an option that this data set does not have.
        ImportError: a package that this data set needs is missing; the message names it.
        DataError: a file of this data set is corrupt, or missing and can't be downloaded; the message names it.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)}")
    entry = DATASETS[name]
    for option in options:
        if option not in entry.options:
            raise TypeError(f"data set {name!r} has no option {option!r}; valid: {', '.join(entry.options) or 'none'}")
    splits: Splits = pkgutil.resolve_name(entry.load)(**options)
    return splits.subset(*MINI) if mini else splits
