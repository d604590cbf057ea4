"""Seeds: a generator for each draw, seeded by its number, so that results don't depend on how draws are batched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["fill_normal", "own_seed", "seeded_generator"]


def seeded_generator(device: torch.device, seed: int, *keys: int) -> torch.Generator:
    """A generator seeded by a function of the seed and the keys.

    The last key is a counter: for equal other keys, its 2^32 values give different seeds, as many as torch's CPU
    generator distinguishes.

    Args:
        device: device of the generator.
        seed: seed of the study.
        keys: what identifies the numbers, e.g. the purpose and the number of the draw.
    """
    *purpose, count = keys
    state = seed
    for key in purpose:
        state = _mix(state * 0x9E3779B9 + key + 1)
    return torch.Generator(device).manual_seed(_mix((_mix(state) + count) & 0xFFFFFFFF))


@contextlib.contextmanager
def own_seed(seed: int | None, device: torch.device | None) -> Iterator[None]:
    """Seed torch's global random numbers for a block and restore their state afterwards.

    Args:
        seed: the seed; None: leave the global random state as it is, and let the block advance it.
        device: a device whose random numbers are restored, besides those of the CPU.
    """
    if seed is None:
        yield
        return
    kind = "cuda" if device is None or device.type == "cpu" else device.type
    others = [] if device is None or device.type == "cpu" else [device]
    with torch.random.fork_rng(others, device_type=kind):
        torch.manual_seed(seed)
        yield


def fill_normal(rows: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Fill a tensor with standard normal numbers, an equal share of its rows from each generator.

    Args:
        rows: shape [R, ...], overwritten.
        generators: one for each R / len(generators) consecutive rows.

    Returns:
        ``rows`` itself.
    """
    for share, generator in zip(rows.chunk(len(generators)), generators, strict=True):
        share.normal_(generator=generator)
    return rows


def _mix(n: int) -> int:
    """A bijection of 32-bit numbers that spreads neighbours (Murmur3's finalizer)."""
    n &= 0xFFFFFFFF
    n = (n ^ n >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    n = (n ^ n >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return n ^ n >> 16
