"""One optimizer step, and the schedules that it follows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ovis.settings import TrainSettings
from ovis.training.build import Run
from ovis.training.schedule import warmup

__all__ = ["TrainingStep", "estimator_config"]


class TrainingStep:
    """Callable: one batch in, the parameters one step further.

    Args:
        run: the parts of the run.
        total: steps of the whole run: the learning rate is halved at equal distances.
    """

    def __init__(self, run: Run, total: int):
        self.run = run
        self.total = total
        # from the settings: those of a resumed optimizer may have been halved already
        self.rates = [run.settings.lr, run.settings.baseline_lr][: len(run.optimizer.param_groups)]
        self.halvings = -1

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Take step number ``step`` (from 0) on a batch [B, *event]. Nothing here makes the device wait.

        Returns:
            the mean loss, without dimensions, detached.
        """
        run = self.run
        self._reduce_rates(step)
        config = estimator_config(run.settings, step)
        loss, _, _ = run.estimator(run.model, x, return_diagnostics=False, **config)
        mean: Tensor = loss.mean()
        mean.backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        return mean.detach()

    def _reduce_rates(self, step: int) -> None:
        halvings = step * (self.run.settings.lr_reduce_steps + 1) // self.total
        if halvings != self.halvings:
            self.halvings = halvings
            for group, rate in zip(self.run.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * 0.5**halvings


def estimator_config(settings: TrainSettings, step: int) -> dict[str, Any]:
    """The estimator's settings that change with the step."""
    if not settings.warmup:
        return {}
    period, mode, offset = settings.warmup, settings.warmup_mode, settings.warmup_offset
    return {"alpha": warmup(step, settings.alpha_init, settings.alpha, period, mode, offset)}
