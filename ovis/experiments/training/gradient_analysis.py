"""The gradient analysis of a run at its evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ovis.analysis.gradients import TENSOR, get_gradients_statistics, select_parameters
from ovis.analysis.module_state import evaluation_mode
from ovis.analysis.output_tensors import FAMILIES, output_tensors
from ovis.analysis.seeding import own_seed
from ovis.experiments.settings import SettingsError
from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.schedule import scheduled_config

__all__ = ["GradientAnalysis"]


class GradientAnalysis:
    """Callable: statistics of the gradient of the next training step, with respect to what ``--grad_key`` selects.

    Args:
        run: the parts of the run.
        x: the analysed mini-batch, shape [B, *event].
        bar: show a progress bar.

    Raises:
        SettingsError: ``--grad_key`` selects neither a parameter nor a tensor of the model's output.
    """

    def __init__(self, run: TrainingRun, x: Tensor, bar: bool = False):
        self.run, self.x, self.bar = run, x, bar
        key = run.settings.analysed_parameters
        try:
            if key.startswith(TENSOR):
                _check_tensor(run, x[:1], key[len(TENSOR) :])
            else:
                select_parameters(run.model, key)
        except ValueError as error:
            raise SettingsError(f"--grad_key: {error}") from None

    def __call__(self, step: int) -> dict[str, float]:
        """``train:grads/...`` by name: see :func:`ovis.analysis.gradients.get_gradients_statistics`.

        Args:
            step: optimizer steps so far; alpha is that of the next step.
        """
        settings = self.run.settings
        stats, _ = get_gradients_statistics(
            self.run.estimator,
            self.run.model,
            self.x,
            mc_samples=settings.grad_samples,
            key_filter=settings.analysed_parameters,
            eps=settings.grad_epsilon,
            progress=self.bar,
            **scheduled_config(settings, step),
        )
        return stats.flat("train:")


def _check_tensor(run: TrainingRun, x: Tensor, key: str) -> None:
    """Check that a gradient with respect to this tensor can be computed.

    Raises:
        ValueError: the model's output has no such tensor that the loss depends on and that has a row for each datum;
            the message lists the valid ones.
    """
    model = run.model
    x = torch.cat([x, x])  # two rows, because a tensor that the data share has one
    # in evaluation mode, so that running statistics are not updated
    with evaluation_mode(model), own_seed(run.settings.seed, run.device):
        loss, _, output = run.estimator(model, x, return_diagnostics=False)
    valid = [name for name in _names(output) if _has_gradient(loss.sum(), output, name, len(x))]
    if key not in valid:
        names = ", ".join(f"{TENSOR}{name}" for name in valid)
        raise ValueError(
            f"the loss has no gradient with respect to {key!r} of {type(model).__name__}'s output, datum by datum; "
            f"valid: {names}"
        )


def _names(output: Mapping[str, Any]) -> list[str]:
    """All names that :func:`ovis.analysis.output_tensors.output_tensors` may accept."""
    parameters = []
    for letter, family in FAMILIES.items():
        layers = output[family] if isinstance(output[family], list | tuple) else [output[family]]
        for layer in layers:
            while isinstance(layer, Distribution):
                parameters += [letter + name for name in vars(layer) if not name.startswith("_")]
                layer = vars(layer).get("base_dist")
    return list(dict.fromkeys([*parameters, *output]))


def _has_gradient(loss: Tensor, output: Mapping[str, Any], name: str, rows: int) -> bool:
    try:
        tensors = output_tensors(output, name)
    except ValueError:
        return False
    if any(tensor.dim() == 0 or len(tensor) != rows for tensor in tensors):
        return False
    return all(grad is not None for grad in torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True))
