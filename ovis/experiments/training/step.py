"""One optimizer step, and the schedules that it follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.buffers import keep_freed_memory
from ovis.experiments.training.build import Run
from ovis.experiments.training.cuda_graph import CapturedStep, CudaGraphs, Graphs
from ovis.experiments.training.schedule import warmup

__all__ = ["LearningRates", "TrainingStep", "estimator_config"]


class TrainingStep:
    """Callable: one batch in, the parameters one step further.

    With ``--compile`` the loss and its gradient are compiled; with ``--capture`` a whole step is recorded and replayed.
    Both take alpha from memory on the device, as what they read from Python is that of the first step.

    Args:
        run: the parts of the run.
        total: steps of the whole run: the learning rate is halved at equal distances.
        graphs: what records a step; None: CUDA, where the run is to be captured.
    """

    def __init__(self, run: Run, total: int, graphs: Graphs | None = None):
        settings = run.settings
        self.run = run
        self.rates = LearningRates(settings, run.optimizer, total)
        if graphs is None and settings.capture:
            graphs = CudaGraphs(run.device)
        self.alpha: Tensor | None = None
        if settings.warmup and (settings.compile or graphs is not None):
            self.alpha = torch.zeros((), dtype=torch.float64, device=run.device)
        self.mean = self._mean
        if settings.compile:  # with torch's own random numbers, which are faster on the CPU than the compiler's
            self.mean = torch.compile(self._mean, dynamic=False, fullgraph=True, options={"fallback_random": True})
        self.captured: CapturedStep | None = None
        if graphs is not None:
            self.captured = CapturedStep(lambda x: self._take(x, self._fixed), graphs)
            self.rates.on(run.device)
        keep_freed_memory()

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Take step number ``step`` (from 0) on a batch [B, *event]. Nothing here makes the device wait.

        Returns:
            the mean loss, without dimensions, detached; where steps are captured, the next one overwrites it.
        """
        self.rates(step)
        config = estimator_config(self.run.settings, step)
        if self.alpha is not None:
            self.alpha.fill_(config["alpha"])
            config = self._fixed
        return self._take(x, config) if self.captured is None else self.captured(x)

    @property
    def _fixed(self) -> dict[str, Any]:
        return {} if self.alpha is None else {"alpha": self.alpha}

    def _take(self, x: Tensor, config: dict[str, Any]) -> Tensor:
        mean = self.mean(x, config)
        mean.backward()
        self.run.optimizer.step()
        self.run.optimizer.zero_grad(set_to_none=True)
        return mean.detach()

    def _mean(self, x: Tensor, config: dict[str, Any]) -> Tensor:
        loss: Tensor = self.run.estimator(self.run.model, x, return_diagnostics=False, **config)[0]
        return loss.mean()


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
                rate *= 0.5**halvings
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def on(self, device: torch.device) -> None:
        """Keep them in memory on the device, where a recorded step reads them."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.full((), float(group["lr"]), device=device)


def estimator_config(settings: TrainSettings, step: int) -> dict[str, Any]:
    """The estimator's settings that change with the step."""
    if not settings.warmup:
        return {}
    period, mode, offset = settings.warmup, settings.warmup_mode, settings.warmup_offset
    return {"alpha": warmup(step, settings.alpha_init, settings.alpha, period, mode, offset)}
