"""Several runs that differ only in the seed: their parameters and their optimizers' states, in one tensor each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovis.estimators.base import GradientEstimator
from ovis.experiments.training.build import OPTIMIZERS, Run
from ovis.models.template import ParticleModel

__all__ = ["NotTogetherError", "Parts", "Stack"]


class NotTogetherError(ValueError):
    """Why these runs can't be computed at once; each can, alone."""


class Parts(nn.Module):
    """Model and estimator under one roof, so that one dict names all their parameters."""

    def __init__(self, model: ParticleModel, estimator: GradientEstimator):
        super().__init__()
        self.model, self.estimator = model, estimator

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.model, self.estimator, *args)


class Stack:
    """S runs as one. All the optimizers that there are work entry by entry: one serves all rows.

    Args:
        runs: of one configuration, at the same step; their parameters and optimizer states are taken over, and given
            back by :meth:`give_back`.

    Raises:
        NotTogetherError: parameters of several types, or optimizers that are not at the same step.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs = list(runs)
        parts = [Parts(run.model, run.estimator) for run in runs]
        self.parts = parts[0]
        self._parameters = [dict(p.named_parameters()) for p in parts]
        self._buffers = [dict(p.named_buffers()) for p in parts]
        self.values: dict[str, Tensor] = {}  # [S, *shape]: views of what the optimizer moves, and constants
        self.flat: list[nn.Parameter] = []  # of each group of the optimizer [S, D]
        self.names: list[list[str]] = []  # of each group, in its order
        for group in runs[0].optimizer.param_groups:
            self._add_group(group["params"])
        for name in self._parameters[0].keys() - self.values.keys():
            self.values[name] = torch.stack([own[name].detach() for own in self._parameters])
        self.buffers = {name: torch.stack([own[name] for own in self._buffers]) for name in self._buffers[0]}
        self.optimizer = self._make_optimizer()

    def __len__(self) -> int:
        return len(self.runs)

    def move(self, gradients: Sequence[Tensor]) -> None:
        """One step of the optimizer: gradients [S, D] of each group."""
        for flat, gradient in zip(self.flat, gradients, strict=True):
            flat.grad = gradient
        self.optimizer.step()

    def finite(self) -> Tensor:
        """Whether all parameters of a run are finite: bool [S]."""
        return torch.stack([flat.detach().isfinite().all(1) for flat in self.flat]).all(0)

    def give_back(self, row: int) -> None:
        """Bring a run's own model, estimator and optimizer to where its row stands."""
        run = self.runs[row]
        with torch.no_grad():
            for name, parameter in self._parameters[row].items():
                parameter.copy_(self.values[name][row])
            for name, buffer in self._buffers[row].items():
                buffer.copy_(self.buffers[name][row])
        for flat, names, own, ours in zip(
            self.flat, self.names, run.optimizer.param_groups, self.optimizer.param_groups, strict=True
        ):
            own["lr"] = ours["lr"]
            for name, places in zip(names, self._places(names), strict=True):
                parameter = self._parameters[row][name]
                run.optimizer.state[parameter] = {
                    key: _of_row(key, value, row, places, parameter)
                    for key, value in self.optimizer.state[flat].items()
                }

    def _add_group(self, parameters: Sequence[Tensor]) -> None:
        trained = {id(p) for p in parameters if p.requires_grad}
        names = [name for name, p in self._parameters[0].items() if id(p) in trained]
        if len({self._parameters[0][name].dtype for name in names}) > 1:
            raise NotTogetherError("the parameters are of several types")
        rows = [torch.cat([own[name].detach().flatten() for name in names]) for own in self._parameters]
        flat = nn.Parameter(torch.stack(rows))
        self.flat.append(flat)
        self.names.append(names)
        for name, places in zip(names, self._places(names), strict=True):
            self.values[name] = flat.detach()[:, places].view(len(self), *self._parameters[0][name].shape)

    def _places(self, names: Sequence[str]) -> list[slice]:
        """Where each parameter is in its group's row."""
        places, start = [], 0
        for name in names:
            stop = start + self._parameters[0][name].numel()
            places.append(slice(start, stop))
            start = stop
        return places

    def _make_optimizer(self) -> torch.optim.Optimizer:
        first = self.runs[0].optimizer
        kind = OPTIMIZERS[self.runs[0].settings.optimizer]
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": [flat]}
            for group, flat in zip(first.param_groups, self.flat, strict=True)
        ]
        optimizer = kind(groups)  # type: ignore[call-arg]  # a leaf's arguments have defaults
        for flat, names in zip(self.flat, self.names, strict=True):
            states = [[run.optimizer.state.get(own[name]) or {} for name in names] for run, own in self._owners()]
            optimizer.state[flat] = {
                key: _joined(key, [[s[key] for s in row] for row in states]) for key in states[0][0]
            }
        return optimizer

    def _owners(self) -> list[tuple[Run, dict[str, nn.Parameter]]]:
        return list(zip(self.runs, self._parameters, strict=True))


def _joined(key: str, rows: list[list[Any]]) -> Any:
    """An entry of the optimizers' states, of each run and parameter: one value for all, or [S, D]."""
    first = rows[0][0]
    if _is_by_entry(key, first):
        return torch.stack([torch.cat([value.flatten() for value in row]) for row in rows])
    if any(value != first for row in rows for value in row):
        raise NotTogetherError(f"the optimizers are not at the same {key}")
    return first.clone() if isinstance(first, Tensor) else first


def _of_row(key: str, value: Any, row: int, places: slice, parameter: Tensor) -> Any:
    if _is_by_entry(key, value):
        return value[row, places].view(parameter.shape).clone()
    return value.clone() if isinstance(value, Tensor) else value


def _is_by_entry(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and key != "step"
