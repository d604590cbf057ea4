"""What is measured: a dict of dicts, and its running mean over batches. Nothing here makes the device wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Aggregator", "Diagnostic"]

Leaf = Tensor | float | int


class Diagnostic(dict[str, dict[str, Any]]):
    """Measurements by group and name, e.g. ``{"loss": {"L_k": tensor of shape [B]}}``.

    A leaf is a number, or a tensor of which the first dimension is the data.

    >>> summary = Diagnostic({"loss": {"L_k": torch.tensor([1.0, 3.0])}})
    >>> summary.update({"grads": {"snr": 0.5}})
    >>> summary.flat()
    {'loss/L_k': 2.0, 'grads/snr': 0.5}
    """

    def update(self, other: Mapping[str, Mapping[str, Any]]) -> None:  # type: ignore[override]
        """Add the leaves of another one; a leaf of the same group and name is replaced."""
        for group, leaves in other.items():
            self.setdefault(group, {}).update(leaves)

    def to(self, device: torch.device | str) -> Diagnostic:
        """A copy with every tensor on the device, detached."""
        move = {
            group: {
                name: leaf.detach().to(device) if isinstance(leaf, Tensor) else leaf for name, leaf in leaves.items()
            }
            for group, leaves in self.items()
        }
        return Diagnostic(move)

    def flat(self, prefix: str = "") -> dict[str, float]:
        """The mean of each leaf under the name ``prefix + group/name``."""
        return {
            f"{prefix}{group}/{name}": float(leaf.double().mean()) if isinstance(leaf, Tensor) else float(leaf)
            for group, leaves in self.items()
            for name, leaf in leaves.items()
        }

    def log(self, writer: Any, global_step: int) -> None:
        """Write the mean of each leaf to TensorBoard.

        Args:
            writer: a ``torch.utils.tensorboard.SummaryWriter``, or anything with its ``add_scalar``.
            global_step: optimizer steps so far.
        """
        for tag, value in self.flat().items():
            writer.add_scalar(tag, value, global_step)


class Aggregator:
    """Running mean of diagnostics over batches, weighted by their number of data.

    >>> agg = Aggregator()
    >>> agg.update({"loss": {"L_k": torch.tensor([1.0, 2.0])}})
    >>> agg.update({"loss": {"L_k": torch.tensor([6.0])}})
    >>> agg.data["loss"]["L_k"]
    tensor(3.)
    """

    def __init__(self) -> None:
        self.initialize()

    def initialize(self) -> None:
        """Forget everything."""
        self._mean = Diagnostic()
        self._count: dict[tuple[str, str], int] = {}

    def update(self, diagnostics: Mapping[str, Mapping[str, Leaf | None]]) -> None:
        """Take in one batch. Leaves that are None are skipped; new ones may join at any time.

        Args:
            diagnostics: leaves of shape [B, ...], averaged over B; numbers and tensors without dimensions count as one.
        """
        for group, leaves in diagnostics.items():
            means = self._mean.setdefault(group, {})
            for name, leaf in leaves.items():
                if leaf is None:
                    continue
                batch, size = _mean_and_size(leaf)
                if size == 0:
                    continue
                total = self._count.get((group, name), 0) + size
                self._count[group, name] = total
                means[name] = means[name] + (batch - means[name]) * (size / total) if name in means else batch

    @property
    def data(self) -> Diagnostic:
        """The means so far."""
        return Diagnostic({group: dict(leaves) for group, leaves in self._mean.items()})


def _mean_and_size(leaf: Leaf) -> tuple[Leaf, int]:
    if not isinstance(leaf, Tensor):
        return leaf, 1
    leaf = leaf.detach()
    leaf = leaf if leaf.is_floating_point() else leaf.float()
    return (leaf.clone(), 1) if leaf.dim() == 0 else (leaf.mean(0), len(leaf))
