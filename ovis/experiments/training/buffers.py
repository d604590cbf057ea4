"""Memory that is used again and again, kept from one use to the next."""

from __future__ import annotations

import torch

__all__ = ["keep_freed_memory"]

#: Bytes: just below the largest block (32 MB) that changes what glibc's malloc keeps.
KEPT_BLOCK = 31 * 2**20


def keep_freed_memory() -> None:
    """Have malloc keep what a step, or a pass of an evaluation, frees, for the next one: up to 62 MB.

    glibc hands memory back to the system, page by page, beyond twice the largest block that was ever freed, and a fresh
    page costs as much as the numbers on it: a third of a training step, half of an evaluation. So free a large block,
    of which nothing is touched. Other allocators don't mind.
    """
    torch.empty(KEPT_BLOCK, dtype=torch.uint8)
