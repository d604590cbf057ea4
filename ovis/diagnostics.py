"""Measurements as a dict of dicts, and their running mean over batches, without host-device synchronization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Aggregator", "Diagnostic"]

Measurement = Tensor | float | int


class Diagnostic(dict[str, dict[str, Any]]):
    """Measurements by group and name, e.g. ``{"loss": {"L_k": tensor of shape [B]}}``.

    A measurement is a number, or a tensor whose first dimension is the data.

    >>> summary = Diagnostic({"loss": {"L_k": torch.tensor([1.0, 3.0])}})
    >>> summary.update({"grads": {"snr": 0.5}})
    >>> summary.flat()
    {'loss/L_k': 2.0, 'grads/snr': 0.5}
    """

    def update(self, other: Mapping[str, Mapping[str, Any]]) -> None:  # type: ignore[override]
        """Add other measurements; those of the same group and name are replaced."""
        for group, values in other.items():
            self.setdefault(group, {}).update(values)

    def to(self, device: torch.device | str) -> Diagnostic:
        """A copy with every tensor on the device, detached."""
        move = {
            group: {
                name: value.detach().to(device) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
            for group, values in self.items()
        }
        return Diagnostic(move)

    def flat(self, prefix: str = "") -> dict[str, float]:
        """The mean of each measurement as a number, e.g. for a log.

        Args:
            prefix: before each name.

        Returns:
            the means by ``prefix + group/name``. Reading tensors on a GPU takes host-device synchronization.
        """
        return {
            f"{prefix}{group}/{name}": float(value.double().mean()) if isinstance(value, Tensor) else float(value)
            for group, values in self.items()
            for name, value in values.items()
        }

    def log(self, writer: Any, global_step: int) -> None:
        """Write the mean of each measurement to a log, e.g. TensorBoard's.

        Args:
            writer: a ``torch.utils.tensorboard.SummaryWriter``, or anything with its ``add_scalar``.
            global_step: optimizer steps so far.
        """
        for tag, value in self.flat().items():
            writer.add_scalar(tag, value, global_step)


class Aggregator:
    """Running mean of diagnostics over batches, weighted by the number of data in each.

    The means stay on the device until they are read.

    >>> agg = Aggregator()
    >>> agg.update({"loss": {"L_k": torch.tensor([1.0, 2.0])}})
    >>> agg.update({"loss": {"L_k": torch.tensor([6.0])}})
    >>> agg.data["loss"]["L_k"]
    tensor(3.)
    """

    def __init__(self) -> None:
        self.initialize()

    def initialize(self) -> None:
        """Remove all measurements."""
        self._mean = Diagnostic()
        self._count: dict[tuple[str, str], int] = {}

    def update(self, diagnostics: Mapping[str, Mapping[str, Measurement | None]]) -> None:
        """Add one batch. Measurements that are None are skipped; new names may be added at any time.

        Args:
            diagnostics: measurements of shape [B, ...], averaged over B; numbers and tensors without dimensions count
                as one.
        """
        for group, values in diagnostics.items():
            means = self._mean.setdefault(group, {})
            for name, value in values.items():
                if value is None:
                    continue
                batch, size = _mean_and_size(value)
                if size == 0:
                    continue
                total = self._count.get((group, name), 0) + size
                self._count[group, name] = total
                means[name] = means[name] + (batch - means[name]) * (size / total) if name in means else batch

    @property
    def data(self) -> Diagnostic:
        """The means so far."""
        return Diagnostic({group: dict(values) for group, values in self._mean.items()})


def _mean_and_size(value: Measurement) -> tuple[Measurement, int]:
    if not isinstance(value, Tensor):
        return value, 1
    value = value.detach()
    value = value if value.is_floating_point() else value.float()
    return (value.clone(), 1) if value.dim() == 0 else (value.mean(0), len(value))
