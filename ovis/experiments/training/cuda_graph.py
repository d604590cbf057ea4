"""A training step recorded once, on the device, and replayed: no launch, no allocation, nothing of Python.

What a CUDA graph replays is kernels and the addresses they read. So everything that changes with the step has to be
written into memory before: the batch, alpha, the learning rates. The optimizer's count of steps is on the device, too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CapturedStep", "CudaGraphs", "Graphs"]

#: Steps that are taken as they are before one is recorded: what is made once (the optimizer's moments, workspaces of
#: matrix products, compiled kernels) is made in them.
WARM_UP = 3


class Graphs(Protocol):
    """What records the work of a device. A boundary: there is one for CUDA, and a fake in the tests."""

    def warming(self) -> AbstractContextManager[None]:
        """Where the steps before the recording are taken."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Record work, which is not done yet; its result, which each replay writes anew, and what replays it."""


class CudaGraphs:
    """CUDA graphs, recorded on a stream of their own, as CUDA demands."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def warming(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            result = work()
        return result, graph.replay


@dataclass(frozen=True)
class _Recording:
    x: Tensor  # where the replay reads the batch
    loss: Tensor  # where it writes the loss
    replay: Callable[[], None]


class CapturedStep:
    """Callable: takes a step by replaying a recorded one.

    The first few steps, and the first few of any other shape of the batch, are taken as they are: no step is made twice
    or thrown away.

    Args:
        take: x -> the loss, a step. What it reads and does not make itself must stay where it is in memory.
        graphs: what records.
    """

    def __init__(self, take: Callable[[Tensor], Tensor], graphs: Graphs):
        self.take, self.graphs = take, graphs
        self.recordings: dict[torch.Size, _Recording] = {}
        self.seen: Counter[torch.Size] = Counter()

    def __call__(self, x: Tensor) -> Tensor:
        """Take a step on x. The result is overwritten by the next step of the same shape."""
        recording = self.recordings.get(x.shape)
        if recording is None:
            self.seen[x.shape] += 1
            if self.seen[x.shape] <= WARM_UP:
                with self.graphs.warming():
                    return self.take(x)
            place = x.clone()
            recording = self.recordings[x.shape] = _Recording(place, *self.graphs.record(lambda: self.take(place)))
        recording.x.copy_(x)
        recording.replay()
        return recording.loss
