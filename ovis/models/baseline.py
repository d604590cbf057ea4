"""Neural baseline of REINFORCE (Mnih and Gregor 2014, https://arxiv.org/abs/1402.0030)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ovis.models.layers import mlp

__all__ = ["Baseline"]


class Baseline(nn.Module):
    """c(x), a perceptron of the observation alone: a control variate of REINFORCE.

    Use it with :class:`ovis.estimators.reinforce.ReinforceBaseline`. It does not depend on z, so REINFORCE stays
    unbiased (Mnih and Gregor 2014, https://arxiv.org/abs/1402.0030). Its last layer starts at zero, so training starts
    as if there were no baseline.

    Args:
        x_shape: shape of one observation; None: taken from the first batch (an optimizer may be made before it).
        hdim: units of a hidden layer.
        nlayers: hidden layers; 0: linear (at least 1 where ``x_shape`` is None).
    """

    def __init__(self, x_shape: Sequence[int] | None = None, hdim: int = 64, nlayers: int = 1):
        super().__init__()
        inputs = None if x_shape is None else math.prod(x_shape)
        self.network = mlp(inputs, 1, hdim, max(nlayers, 1) if inputs is None else nlayers)
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """The baseline of each datum in nats: [B, *x_shape] -> [B]."""
        weight = next(self.network.parameters())
        value: Tensor = self.network(x.reshape(len(x), -1).to(weight.dtype))
        return value.squeeze(-1)
