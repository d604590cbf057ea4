"""Neural baseline of REINFORCE (Mnih and Gregor 2014)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ovis.models.layers import mlp

__all__ = ["Baseline"]


class Baseline(nn.Module):
    """c(x), a perceptron of the observation alone: a control variate that leaves REINFORCE unbiased.

    Its last layer starts at zero, so training starts as if there were no baseline.

    Args:
        x_shape: shape of one observation.
        hdim: units of a hidden layer.
        nlayers: hidden layers; 0: linear.
    """

    def __init__(self, x_shape: Sequence[int], hdim: int = 64, nlayers: int = 1):
        super().__init__()
        self.network = mlp(math.prod(x_shape), 1, hdim, nlayers)
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *x_shape] -> [B], in nats."""
        value: Tensor = self.network(x.flatten(1))
        return value.squeeze(-1)
