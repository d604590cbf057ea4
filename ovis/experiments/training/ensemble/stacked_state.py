"""The parameters and optimizer states of several runs that differ only in the seed, stacked in one tensor each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovis.estimators.base import GradientEstimator
from ovis.experiments.training.build import OPTIMIZERS, TrainingRun
from ovis.models.model import Model

__all__ = ["EnsembleUnsupported", "ModelAndEstimator", "StackedState"]


class EnsembleUnsupported(ValueError):
    """These runs can't be computed at once, though each can alone; the message says why."""


class ModelAndEstimator(nn.Module):
    """A model and its estimator as one module, whose state dict names the parameters of both."""

    def __init__(self, model: Model, estimator: GradientEstimator):
        super().__init__()
        self.model, self.estimator = model, estimator

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.model, self.estimator, *args)


class StackedState:
    """The state of S runs. All supported optimizers work entry by entry, so one optimizer updates all rows.

    Args:
        runs: runs with the same settings except the seed, at the same step. Their parameters and optimizer states are
            copied, and copied back by :meth:`write_back`.

    Attributes:
        module: model and estimator of the first run, for functional calls.
        values: every parameter, [S, *shape]: views of the tensors that the optimizer updates, and constants.
        buffers: every buffer, [S, *shape].
        flat: the trained parameters of each optimizer group, [S, D].
        names: the parameters of each optimizer group, in its order.

    Raises:
        EnsembleUnsupported: the parameters have several dtypes, or the optimizers are not at the same step.
    """

    def __init__(self, runs: Sequence[TrainingRun]):
        self.runs = list(runs)
        modules = [ModelAndEstimator(run.model, run.estimator) for run in runs]
        self.module = modules[0]
        self._parameters = [dict(module.named_parameters()) for module in modules]
        self._buffers = [dict(module.named_buffers()) for module in modules]
        self.values: dict[str, Tensor] = {}
        self.flat: list[nn.Parameter] = []
        self.names: list[list[str]] = []
        for group in runs[0].optimizer.param_groups:
            self._add_group(group["params"])
        for name in self._parameters[0].keys() - self.values.keys():
            self.values[name] = torch.stack([parameters[name].detach() for parameters in self._parameters])
        self.buffers = {name: torch.stack([buffers[name] for buffers in self._buffers]) for name in self._buffers[0]}
        self.optimizer = self._make_optimizer()

    def __len__(self) -> int:
        return len(self.runs)

    def optimizer_step(self, gradients: Sequence[Tensor]) -> None:
        """One step of the optimizer: gradients [S, D] of each group."""
        for flat, gradient in zip(self.flat, gradients, strict=True):
            flat.grad = gradient
        self.optimizer.step()

    def write_back(self, row: int) -> None:
        """Copy a row to the model, the estimator and the optimizer of its run."""
        run = self.runs[row]
        with torch.no_grad():
            for name, parameter in self._parameters[row].items():
                parameter.copy_(self.values[name][row])
            for name, buffer in self._buffers[row].items():
                buffer.copy_(self.buffers[name][row])
        groups = zip(run.optimizer.param_groups, self.optimizer.param_groups, self.flat, self.names, strict=True)
        for group, stacked, flat, names in groups:
            group["lr"] = stacked["lr"]
            for name, columns in zip(names, self._columns(names), strict=True):
                parameter = self._parameters[row][name]
                run.optimizer.state[parameter] = {
                    key: _unstack(key, value, row, columns, parameter)
                    for key, value in self.optimizer.state[flat].items()
                }

    def _add_group(self, parameters: Sequence[Tensor]) -> None:
        trained = {id(p) for p in parameters if p.requires_grad}
        names = [name for name, p in self._parameters[0].items() if id(p) in trained]
        if len({self._parameters[0][name].dtype for name in names}) > 1:
            raise EnsembleUnsupported("the parameters are of several types")
        rows = [torch.cat([named[name].detach().flatten() for name in names]) for named in self._parameters]
        flat = nn.Parameter(torch.stack(rows))
        self.flat.append(flat)
        self.names.append(names)
        for name, columns in zip(names, self._columns(names), strict=True):
            self.values[name] = flat.detach()[:, columns].view(len(self), *self._parameters[0][name].shape)

    def _columns(self, names: Sequence[str]) -> list[slice]:
        """The columns of each parameter in its group's row."""
        columns, start = [], 0
        for name in names:
            stop = start + self._parameters[0][name].numel()
            columns.append(slice(start, stop))
            start = stop
        return columns

    def _make_optimizer(self) -> torch.optim.Optimizer:
        first = self.runs[0].optimizer
        kind = OPTIMIZERS[self.runs[0].settings.optimizer]
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": [flat]}
            for group, flat in zip(first.param_groups, self.flat, strict=True)
        ]
        optimizer = kind(groups)  # type: ignore[call-arg]  # a subclass's arguments have defaults
        owners = list(zip(self.runs, self._parameters, strict=True))
        for flat, names in zip(self.flat, self.names, strict=True):
            states = [[run.optimizer.state.get(named[name]) or {} for name in names] for run, named in owners]
            optimizer.state[flat] = {
                key: _stack(key, [[state[key] for state in row] for row in states]) for key in states[0][0]
            }
        return optimizer


def _stack(key: str, rows: list[list[Any]]) -> Any:
    """Stack an entry of the optimizers' states over runs and parameters: one value for all, or shape [S, D]."""
    first = rows[0][0]
    if _is_elementwise(key, first):
        return torch.stack([torch.cat([value.flatten() for value in row]) for row in rows])
    if any(value != first for row in rows for value in row):
        raise EnsembleUnsupported(f"the optimizers are not at the same {key}")
    return first.clone() if isinstance(first, Tensor) else first


def _unstack(key: str, value: Any, row: int, columns: slice, parameter: Tensor) -> Any:
    if _is_elementwise(key, value):
        return value[row, columns].view(parameter.shape).clone()
    return value.clone() if isinstance(value, Tensor) else value


def _is_elementwise(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and key != "step"
