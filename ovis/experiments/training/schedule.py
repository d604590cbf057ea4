"""Schedules: the warm-up of alpha, from an easy Renyi bound to the target, and the learning rates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ovis.experiments.settings import TrainSettings

__all__ = ["LearningRates", "scheduled_config", "warmup"]


def warmup(step: int, start: float, end: float, period: int, mode: str = "log", offset: int = 0) -> float:
    """alpha at a step of the warm-up. With t = (step - offset)/period and x = t clipped to [0, 1]:

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


def scheduled_config(settings: TrainSettings, step: int) -> dict[str, Any]:
    """The estimator's options that change with the step: ``{"alpha": ...}`` with ``--warmup``, else empty."""
    if not settings.warmup:
        return {}
    period, mode, offset = settings.warmup, settings.warmup_mode, settings.warmup_offset
    return {"alpha": warmup(step, settings.alpha_init, settings.alpha, period, mode, offset)}


class LearningRates:
    """Callable: sets the learning rates of a step, halved ``--lr_reduce_steps`` times at equal distances.

    Args:
        settings: the run's options; a resumed optimizer's rates may have been halved already.
        optimizer: its first parameter group is the model's, the second one, if any, the baseline's.
        total: steps of the whole run.
    """

    def __init__(self, settings: TrainSettings, optimizer: torch.optim.Optimizer, total: int):
        self.settings, self.optimizer, self.total = settings, optimizer, total
        self.halvings = -1

    def __call__(self, step: int) -> None:
        """Set the rates of step number ``step`` (from 0)."""
        halvings = step * (self.settings.lr_reduce_steps + 1) // self.total
        if halvings != self.halvings:
            self.halvings = halvings
            rates = [self.settings.lr, self.settings.baseline_lr][: len(self.optimizer.param_groups)]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                rate *= 0.5**halvings
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def move_to(self, device: torch.device) -> None:
        """Keep the rates in memory on the device, where a captured step reads them."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.full((), float(group["lr"]), device=device)
