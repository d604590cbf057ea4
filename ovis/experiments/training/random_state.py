"""Random numbers that are nobody else's: what is measured or drawn does not change the training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["global_of", "own_random_state", "random_state_of"]


@contextlib.contextmanager
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random numbers for a block, and leave them as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def random_state_of(*generators: torch.Generator) -> Iterator[None]:
    """Let torch's global random numbers be those of these generators (one of a device) for a block; they move on."""
    devices = [generator.device for generator in generators if generator.device.type == "cuda"]
    with torch.random.fork_rng(devices=devices):
        for generator in generators:
            global_of(generator.device).set_state(generator.get_state())
        yield
        for generator in generators:
            generator.set_state(global_of(generator.device).get_state())


def global_of(device: torch.device) -> torch.Generator:
    """torch's global generator on a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
