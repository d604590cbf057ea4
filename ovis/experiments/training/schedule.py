"""The warm-up of alpha, from an easy Renyi bound to the one wanted."""

from __future__ import annotations

import math

__all__ = ["warmup"]


def warmup(step: int, start: float, end: float, period: int, mode: str = "log", offset: int = 0) -> float:
    """alpha at a step; with t = (step - offset)/period, and x = t clipped to [0, 1]:

    linear:  start + x (end - start)
    log:     1 - (1 - start)^(1 - x) (1 - end)^x, geometric in 1 - alpha
    sigmoid: start + s (end - start), s = sigmoid(6 (t - 1)) - (1 - x)/(1 + e^6): half way at t = 1

    >>> round(warmup(500, 0.99, 0.0, 1000), 3)
    0.9

    Args:
        step: optimizer steps so far.
        start: alpha until the warm-up begins.
        end: alpha after it.
        period: steps; 0: no warm-up.
        mode: linear, log or sigmoid.
        offset: steps before it begins.

    Raises:
        ValueError: an unknown mode.
    """
    if period <= 0:
        return end
    t = (step - offset) / period
    x = min(max(t, 0.0), 1.0)
    if mode == "linear":
        return start + x * (end - start)
    if mode == "log":
        return 1 - math.exp((1 - x) * math.log1p(-start) + x * math.log1p(-end))
    if mode == "sigmoid":
        share = 1 / (1 + math.exp(-6 * max(t - 1, -100.0))) - (1 - x) / (1 + math.exp(6))
        return start + max(share, 0.0) * (end - start)
    raise ValueError(f"unknown warm-up {mode!r}; valid: linear, log, sigmoid")
