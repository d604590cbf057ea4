"""One optimizer step of one run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovis.estimators.chunk_sizes import keep_freed_memory
from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.cuda_graph import CapturedStep, CudaGraphs, Graphs
from ovis.experiments.training.schedule import LearningRates, scheduled_config

__all__ = ["TrainingStep"]


class TrainingStep:
    """Callable: takes one optimizer step of a run on one batch.

    With ``--compile`` the loss and its gradient are compiled; with ``--capture`` a whole step is recorded as a CUDA
    graph and replayed. Both read alpha from a tensor on the device, because a Python number would be fixed at its first
    value.

    Args:
        run: the parts of the run.
        graphs: records a step; None: CUDA graphs with ``--capture``, otherwise no recording.
    """

    def __init__(self, run: TrainingRun, graphs: Graphs | None = None):
        settings = run.settings
        self.run = run
        self.rates = LearningRates(settings, run.optimizer, run.total_steps)
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
            self.rates.move_to(run.device)
        keep_freed_memory()

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Take step number ``step`` (from 0) on a batch [B, *event], without host-device synchronization.

        Returns:
            the mean loss, without dimensions, detached; with captured steps it is overwritten by the next step.
        """
        self.rates(step)
        config = scheduled_config(self.run.settings, step)
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
