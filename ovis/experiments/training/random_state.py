"""The global random states of this process: seed, save and restore them, or take a generator's for a block."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = [
    "global_generator",
    "random_state_of",
    "random_states",
    "seed_everything",
    "set_random_states",
]


def seed_everything(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (whatever a library draws from the global state)
    torch.manual_seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """All global random states: training draws from torch's, a library may draw from the others."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore what :func:`random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002


@contextlib.contextmanager
def random_state_of(*generators: torch.Generator) -> Iterator[None]:
    """Replace torch's global generators by these (one per device) for a block, whose draws advance them."""
    devices = [generator.device for generator in generators if generator.device.type == "cuda"]
    with torch.random.fork_rng(devices=devices):
        for generator in generators:
            global_generator(generator.device).set_state(generator.get_state())
        yield
        for generator in generators:
            generator.set_state(global_generator(generator.device).get_state())


def global_generator(device: torch.device) -> torch.Generator:
    """torch's global generator on a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
