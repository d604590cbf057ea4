"""A training step that is recorded once as a CUDA graph and then replayed, without Python, launches or allocations.

A CUDA graph replays kernels on fixed addresses. So everything that changes from step to step is written into memory
before a replay: the batch, alpha, the learning rates. The optimizer's step count is on the device, too.
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

#: Eager steps before one is recorded. They make what is made only once: the optimizer's moments, workspaces of matrix
#: products, compiled kernels.
WARM_UP = 3


class Graphs(Protocol):
    """Records the work of a device: :class:`CudaGraphs`, or a fake in the tests."""

    def warming(self) -> AbstractContextManager[None]:
        """Context of the steps before the recording."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Record work without doing it.

        Returns:
            the result's tensor, which each replay overwrites, and a function that replays the work.
        """


class CudaGraphs:
    """CUDA graphs, recorded on a separate stream, as CUDA requires."""

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

    The first few steps on batches of a shape are eager. No step is taken twice or discarded.

    Args:
        take: takes a step on x and returns the loss. Tensors that it reads and does not make must keep their addresses.
        graphs: records the step.
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
            batch = x.clone()
            recording = self.recordings[x.shape] = _Recording(batch, *self.graphs.record(lambda: self.take(batch)))
        recording.x.copy_(x)
        recording.replay()
        return recording.loss
