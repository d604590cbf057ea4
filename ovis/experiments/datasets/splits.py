"""A data set in memory: whole tensors on one device, or a function that draws fresh points there.

A batch is one ``index_select`` or one draw: no worker processes, no item-wise loading. No function here touches the
global random state.
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
    """Stored points, [n, *event] of any type, as the floats that a model reads."""
    return points if points.is_floating_point() else points.to(torch.get_default_dtype())


class TrainSource(ABC):
    """Training data by the epoch."""

    @property
    @abstractmethod
    def epoch_size(self) -> int:
        """Points of one epoch."""

    @abstractmethod
    def points(self, n: int) -> Tensor:
        """At most n points for evaluations, always the same random choice: float, shape [n, *event]."""

    @abstractmethod
    def to(self, device: torch.device | str) -> TrainSource:
        """The same data on another device."""

    @abstractmethod
    def subset(self, n: int) -> TrainSource:
        """At most n points per epoch, always the same choice."""

    @final
    def batches_per_epoch(self, batch_size: int) -> int:
        """Batches of one epoch: the last, partial one is dropped unless it is the only one."""
        return max(1, self.epoch_size // batch_size)

    @abstractmethod
    def batches(self, batch_size: int, generator: Generator) -> Iterator[Tensor]:
        """One epoch.

        Args:
            batch_size: points of a batch; an epoch that is smaller is one batch.
            generator: all randomness of the epoch; on the device of the data.

        Yields:
            ``batches_per_epoch`` float tensors of shape [min(batch_size, epoch_size), *event].
        """


@dataclass(frozen=True, eq=False)
class StoredData(TrainSource):
    """A tensor of points, each seen once per epoch in random order.

    Attributes:
        data: [n, *event]; uint8 where binary, a quarter of the memory.
        read: stored points and a generator to the floats of a batch, such as a random binarization of grey levels.
    """

    data: Tensor
    read: Callable[[Tensor, Generator], Tensor] = as_float

    @property
    def epoch_size(self) -> int:
        return len(self.data)

    def points(self, n: int) -> Tensor:
        generator = torch.Generator(self.data.device).manual_seed(SEED)
        return self.read(self.subset(n).data, generator)  # the first n might be of one class

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
    """Points drawn anew for every batch.

    Attributes:
        draw: (n, generator) to n float points [n, *event] on the device of the generator.
        size: points that are called an epoch.
        device: where to draw the points for evaluations.
    """

    draw: Callable[[int, Generator], Tensor]
    size: int
    device: torch.device | str = "cpu"

    @property
    def epoch_size(self) -> int:
        return self.size

    def points(self, n: int) -> Tensor:
        return self.draw(min(n, self.size), torch.Generator(self.device).manual_seed(SEED))

    def to(self, device: torch.device | str) -> FreshData:
        return replace(self, device=device)

    def subset(self, n: int) -> FreshData:
        return replace(self, size=min(n, self.size))

    def batches(self, batch_size: int, generator: Generator) -> Iterator[Tensor]:
        for _ in range(self.batches_per_epoch(batch_size)):
            yield self.draw(min(batch_size, self.size), generator)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set.

    Attributes:
        train: training data.
        valid: [n, *event], read a batch of it with :func:`as_float`.
        test: [n, *event], as ``valid``.
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
        """At most so many points for training, and for each of the other splits; always the same choice."""
        valid, test = (StoredData(data).subset(evaluation).data for data in (self.valid, self.test))
        return replace(self, train=self.train.subset(train), valid=valid, test=test)
