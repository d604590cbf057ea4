"""Single precision for densities and draws, whatever precision the networks run in."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

__all__ = ["HALF", "at_least_single", "autocasts", "without_autocast"]

#: Half precision: 8 or 11 significant bits, too few for probabilities and for sums of many log-densities.
HALF = frozenset((torch.float16, torch.bfloat16))


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in float32 if it is in half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor


def autocasts(device: torch.device) -> bool:
    """Whether autocast is enabled, under which matrix products of float32 tensors are computed in half precision."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which autocast is disabled."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else contextlib.nullcontext()
