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
    "evaluation_mode",
    "frozen_batch_statistics",
    "no_argument_validation",
    "restored_buffers",
    "untracked_batch_statistics",
]


def batch_norm_modules(model: nn.Module) -> list[_BatchNorm]:
    """The batch-normalization modules in training mode: their result for one datum depends on the others.

    Args:
        model: any module.

    Returns:
        its batch-normalization modules that are in training mode, in the order of ``model.modules()``.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A context in which a model is in evaluation mode; at its end, each module gets back the mode that it had.

    Args:
        model: any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def restored_buffers(module: nn.Module) -> Iterator[None]:
    """A context that restores all buffers of a module at its end, also if an exception leaves it.

    Use it around forward passes that are not to count, such as those of an analysis during training: batch
    normalization changes its running statistics in each.

    Args:
        module: the module; buffers that are replaced by other tensors are restored as well. Parameters are not.

    See also:
        :func:`untracked_batch_statistics`, which copies nothing, for batch normalization alone.
    """
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
    """A context in which batch normalization uses its running statistics, unchanged, instead of the batch's.

    The result for one datum then does not depend on the others in the batch. Use it where a datum is evaluated alone,
    which has no batch statistics.

    Args:
        model: its batch-normalization modules that are in training mode are put into evaluation mode and back.

    See also:
        :func:`untracked_batch_statistics`, which keeps the batch's statistics.
    """
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
    """A context in which batch normalization uses the batch's statistics without updating its running ones.

    Use it for additional forward passes of a training step, such as those of a diagnostic.

    Args:
        model: its batch-normalization modules that are in training mode are changed; the others do not update.
    """
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
    """A context without the argument checks of ``torch.distributions``: they read values, which vmap does not allow.

    The setting is global in torch and restored at the end. Use it around calls of :func:`torch.func.vmap` whose
    arguments are known to be valid.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
