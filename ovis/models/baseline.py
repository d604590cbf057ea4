"""Neural baseline of REINFORCE (Mnih and Gregor 2014, https://arxiv.org/abs/1402.0030)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovis.models.layers import mlp
from ovis.nests import Nest, tensors_of

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

    def forward(self, x: Nest) -> Tensor:
        """The baseline of each datum in nats: [B, *x_shape], or a nest of such tensors, -> [B]."""
        weight = next(self.network.parameters())
        rows = [tensor.reshape(len(tensor), -1).to(weight.dtype) for tensor in tensors_of(x)]
        value: Tensor = self.network(rows[0] if len(rows) == 1 else torch.cat(rows, 1))
        return value.squeeze(-1)
