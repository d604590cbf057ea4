"""One optimizer step, and the schedules that it follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovis.settings import TrainSettings
from ovis.training.build import Run
from ovis.training.memory import keep_freed_memory
from ovis.training.schedule import warmup

__all__ = ["LearningRates", "TrainingStep", "estimator_config"]


class TrainingStep:
    """Callable: one batch in, the parameters one step further.

    Args:
        run: the parts of the run.
        total: steps of the whole run: the learning rate is halved at equal distances.
    """

    def __init__(self, run: Run, total: int):
        self.run = run
        self.rates = LearningRates(run.settings, run.optimizer, total)
        keep_freed_memory()

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Take step number ``step`` (from 0) on a batch [B, *event]. Nothing here makes the device wait.

        Returns:
            the mean loss, without dimensions, detached.
        """
        run = self.run
        self.rates(step)
        config = estimator_config(run.settings, step)
        loss, _, _ = run.estimator(run.model, x, return_diagnostics=False, **config)
        mean: Tensor = loss.mean()
        mean.backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        return mean.detach()


class LearningRates:
    """Callable: sets the learning rates of a step.

    Args:
        settings: of the run; a resumed optimizer's rates may have been halved already.
        optimizer: with one group of parameters, or a second one of the baseline's.
        total: steps of the whole run: the rates are halved at equal distances.
    """

    def __init__(self, settings: TrainSettings, optimizer: torch.optim.Optimizer, total: int):
        self.settings, self.optimizer, self.total = settings, optimizer, total
        self.halvings = -1

    def __call__(self, step: int) -> None:
        """Set those of step number ``step`` (from 0)."""
        halvings = step * (self.settings.lr_reduce_steps + 1) // self.total
        if halvings != self.halvings:
            self.halvings = halvings
            rates = [self.settings.lr, self.settings.baseline_lr][: len(self.optimizer.param_groups)]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5**halvings


def estimator_config(settings: TrainSettings, step: int) -> dict[str, Any]:
    """The estimator's settings that change with the step."""
    if not settings.warmup:
        return {}
    period, mode, offset = settings.warmup, settings.warmup_mode, settings.warmup_offset
    return {"alpha": warmup(step, settings.alpha_init, settings.alpha, period, mode, offset)}
