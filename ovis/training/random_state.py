"""Random numbers that are nobody else's: what is measured or drawn does not change the training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["own_random_state"]


@contextlib.contextmanager
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random numbers for a block, and leave them as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
