"""A data set in memory: whole tensors on one device, or a function that draws new points there.

A batch is one ``index_select`` or one draw, without worker processes or loading of single items. No function here
changes the global random state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Generator, Tensor

__all__ = ["FreshData", "Splits", "StoredData", "TrainSource", "as_float"]

#: Seed of choices that are the same in every run.
SEED = 42


def as_float(points: Tensor, generator: Generator | None = None) -> Tensor:
    """Convert stored points to the floats that a model takes.

    Args:
        points: shape [n, *event], of any dtype.
        generator: not used; it is there for the signature of ``StoredData.read``.

    Returns:
        shape [n, *event], in the default dtype unless ``points`` are already floating point.
    """
    return points if points.is_floating_point() else points.to(torch.get_default_dtype())


class TrainSource(ABC):
    """Training data, read in epochs of batches: :class:`StoredData` or :class:`FreshData`."""

    @property
    @abstractmethod
    def epoch_size(self) -> int:
        """Number of points in one epoch."""

    @abstractmethod
    def points(self, n: int) -> Tensor:
        """Up to n points for evaluations, the same random choice in every run: float, shape [n, *event]."""

    @abstractmethod
    def to(self, device: torch.device | str) -> TrainSource:
        """The same data on another device."""

    @abstractmethod
    def subset(self, n: int) -> TrainSource:
        """The same data with up to n points per epoch, the same choice in every run."""

    @abstractmethod
    def chunks(self, size: int) -> Iterator[Tensor]:
        """All stored points in order, or one chunk of synthetic ones: float, shape [up to size, *event]."""

    @final
    def batches_per_epoch(self, batch_size: int) -> int:
        """Number of batches in one epoch: a last, partial batch is dropped unless it is the only one."""
        return max(1, self.epoch_size // batch_size)

    @abstractmethod
    def batches(self, batch_size: int, generator: Generator) -> Iterator[Tensor]:
        """The batches of one epoch, in random order.

        Args:
            batch_size: points per batch; a smaller epoch is one batch.
            generator: generator of all random numbers of the epoch, on the device of the data.

        Yields:
            ``batches_per_epoch`` float tensors of shape [min(batch_size, epoch_size), *event].
        """


@dataclass(frozen=True, eq=False)
class StoredData(TrainSource):
    """A tensor of points, each of which occurs once per epoch, in random order.

    Attributes:
        data: shape [n, *event]; uint8 for binary data, which needs a quarter of the memory of floats.
        read: (stored points, generator) -> the floats of a batch, e.g. a random binarization of grey levels.

    See also:
        :class:`FreshData` for synthetic data.
    """

    data: Tensor
    read: Callable[[Tensor, Generator], Tensor] = as_float

    @property
    def epoch_size(self) -> int:
        return len(self.data)

    def points(self, n: int) -> Tensor:
        generator = torch.Generator(self.data.device).manual_seed(SEED)
        return self.read(self.subset(n).data, generator)  # not the first n, which might be of one class

    def chunks(self, size: int) -> Iterator[Tensor]:
        generator = torch.Generator(self.data.device).manual_seed(SEED)
        return (self.read(part, generator) for part in self.data.split(size))

    def to(self, device: torch.device | str) -> StoredData:
        return replace(self, data=self.data.to(device))

    def subset(self, n: int) -> StoredData:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(SEED))
        return replace(self, data=self.data[order[:n].to(self.data.device)])

    def batches(self, batch_size: int, generator: Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(self.data), generator=generator, device=self.data.device)
        for step in range(self.batches_per_epoch(batch_size)):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            yield self.read(self.data.index_select(0, chosen), generator)


@dataclass(frozen=True, eq=False)
class FreshData(TrainSource):
    """Synthetic points that are drawn anew for every batch.

    Attributes:
        draw: (n, generator) -> n float points, shape [n, *event], on the device of the generator.
        size: points per epoch.
        device: device of the points for evaluations.

    See also:
        :class:`StoredData` for a fixed set of points.
    """

    draw: Callable[[int, Generator], Tensor]
    size: int
    device: torch.device | str = "cpu"

    @property
    def epoch_size(self) -> int:
        return self.size

    def points(self, n: int) -> Tensor:
        return self.draw(min(n, self.size), torch.Generator(self.device).manual_seed(SEED))

    def chunks(self, size: int) -> Iterator[Tensor]:
        yield self.points(size)

    def to(self, device: torch.device | str) -> FreshData:
        return replace(self, device=device)

    def subset(self, n: int) -> FreshData:
        return replace(self, size=min(n, self.size))

    def batches(self, batch_size: int, generator: Generator) -> Iterator[Tensor]:
        for _ in range(self.batches_per_epoch(batch_size)):
            yield self.draw(min(batch_size, self.size), generator)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, as :func:`ovis.experiments.datasets.load_dataset` returns it.

    Attributes:
        train: training data.
        valid: validation data, shape [n, *event]; convert a batch with :func:`as_float`.
        test: test data, as ``valid``.
        mean: mean of the training data, float, shape [*event].
    """

    train: TrainSource
    valid: Tensor
    test: Tensor
    mean: Tensor

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return tuple(self.mean.shape)

    def to(self, device: torch.device | str) -> Splits:
        """The same data on another device."""
        return Splits(self.train.to(device), self.valid.to(device), self.test.to(device), self.mean.to(device))

    def subset(self, train: int, evaluation: int) -> Splits:
        """The same data set with fewer points, the same choice in every run.

        Args:
            train: largest number of training points per epoch.
            evaluation: largest number of points in each of the other splits.
        """
        valid, test = (StoredData(data).subset(evaluation).data for data in (self.valid, self.test))
        return replace(self, train=self.train.subset(train), valid=valid, test=test)
