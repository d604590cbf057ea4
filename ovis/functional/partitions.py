"""Partitions of [0, 1] for the thermodynamic variational objective (TVO)."""

from __future__ import annotations

import itertools
import math

__all__ = ["tvo_nodes", "tvo_partition"]

#: First inner point by number of particles (below 10, below 30, from 30), as in the TVO paper's two configurations.
CONFIGS = {"config1": (0.05, 0.2, 0.3), "config2": (0.01, 0.02, 0.03)}


def tvo_partition(partitions: int, first: float | str, particles: int) -> list[float]:
    """Knots 0 = b_0 < b_1 < ... < b_P = 1, the inner ones equally spaced in log b.

    Masrani et al. (2019), https://arxiv.org/abs/1907.00031.

    >>> tvo_partition(2, "config1", particles=50)
    [0.0, 0.3, 1.0]

    Args:
        partitions: P, at least 1. P = 1 has no inner point.
        first: b_1 in (0, 1), or ``config1`` / ``config2``: b_1 by the number of particles.
        particles: K.

    Returns:
        P + 1 knots.

    Raises:
        ValueError: P below 1, b_1 outside (0, 1), or an unknown configuration.
    """
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, got {partitions}")
    if isinstance(first, str):
        if first not in CONFIGS:
            raise ValueError(f"unknown TVO configuration {first!r}; valid: {', '.join(CONFIGS)}, or a number in (0, 1)")
        first = CONFIGS[first][(particles >= 10) + (particles >= 30)]
    if not 0 < first < 1:
        raise ValueError(f"the first TVO partition must lie in (0, 1), got {first}")
    if partitions == 1:
        return [0.0, 1.0]
    start = math.log(first)
    inner = [math.exp(start * (1 - i / (partitions - 1))) for i in range(1, partitions - 1)]
    return [0.0, first, *inner, 1.0]


def tvo_nodes(knots: list[float], integration: str = "left") -> list[tuple[float, float]]:
    """Nodes and weights of the Riemann sum over the partition.

    >>> tvo_nodes([0.0, 0.3, 1.0], "right")
    [(0.3, 0.3), (1.0, 0.7)]

    Args:
        knots: 0 = b_0 < ... < b_P = 1.
        integration: left (a lower bound of log p(x)), right (an upper bound) or trapz.

    Returns:
        pairs (b, weight); the weights sum to 1.

    Raises:
        ValueError: an unknown rule.
    """
    widths = [b - a for a, b in itertools.pairwise(knots)]
    left = list(zip(knots[:-1], widths, strict=True))
    right = list(zip(knots[1:], widths, strict=True))
    if integration == "left":
        return left
    if integration == "right":
        return right
    if integration == "trapz":
        halves = [0.5 * (a + b) for a, b in zip([0.0, *widths], [*widths, 0.0], strict=True)]
        return list(zip(knots, halves, strict=True))
    raise ValueError(f"unknown integration rule {integration!r}; valid: left, right, trapz")
