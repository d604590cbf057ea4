"""Contexts that leave a model unchanged: its buffers, its batch-normalization statistics, torch's argument checks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = [
    "batch_norm_modules",
    "frozen_batch_statistics",
    "no_argument_validation",
    "restored_buffers",
    "untracked_batch_statistics",
]


def batch_norm_modules(model: nn.Module) -> list[_BatchNorm]:
    """The batch-normalization modules in training mode: their result for one datum depends on the others."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]


@contextlib.contextmanager
def restored_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers of the module at the end."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    owners = [(owner, dict(owner._buffers)) for owner in module.modules()]  # a buffer may be replaced by another tensor
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, buffers in owners:
                owner._buffers.update(buffers)
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextlib.contextmanager
def frozen_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Make batch normalization use its running statistics, unchanged, instead of the batch's."""
    modules = batch_norm_modules(model)
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()


@contextlib.contextmanager
def untracked_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Make batch normalization use the batch's statistics without updating its running ones."""
    modules = [module for module in batch_norm_modules(model) if module.track_running_stats]
    for module in modules:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in modules:
            module.track_running_stats = True


@contextlib.contextmanager
def no_argument_validation() -> Iterator[None]:
    """Switch off the argument checks of torch's distributions: they read values, which vmap does not allow."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
