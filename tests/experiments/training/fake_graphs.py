"""A CUDA graph on the CPU: it repeats the operations of a step on the tensors that they read and write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result


def _memory(tree) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


class FakeGraphs:
    """As with CUDA, a replay reads memory again, but keeps the numbers that Python computed at the recording.

    Args:
        state: the tensors that the work changes: a recording does no work, so they are put back.
    """

    def __init__(self, state: Callable[[], list[Tensor]]):
        self.state = state
        self.warmed = self.recorded = self.replayed = 0

    @contextlib.contextmanager
    def warming(self):
        self.warmed += 1
        yield

    def record(self, work):
        self.recorded += 1
        before, random = [tensor.detach().clone() for tensor in self.state()], torch.get_rng_state()
        with _Recorder() as recorder:
            result = work()
        with torch.no_grad():
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(random)
        return result, lambda: self._replay(recorder.operations)

    @torch.no_grad()
    def _replay(self, operations):
        self.replayed += 1
        for func, args, kwargs, result in operations:
            again = func(*args, **kwargs)
            read = _memory((args, kwargs))
            for tensor, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in read:
                    tensor.copy_(value)  # (not a view of an input, nor the result of an in-place operation)
