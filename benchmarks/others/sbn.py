"""What all contenders share: the model in plain torch, what a contender is, and the exact gradient of a tiny model.

Imports torch only, since every environment must be able to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, PIXELS, UNITS = 24, 784, 200


class SBN(nn.Module):
    """A sigmoid belief network of one layer: p(z) p(x|z) and q(z|x), all Bernoulli, logits linear in 2z - 1 and x."""

    def __init__(self, pixels: int = PIXELS, units: int = UNITS):
        super().__init__()
        self.encoder = nn.Linear(pixels, units)
        self.decoder = nn.Linear(units, pixels)
        self.prior = nn.Parameter(torch.zeros(units))

    def encode(self, x: Tensor) -> Tensor:
        """Logits of q(z|x): [B, pixels] -> [B, units]."""
        return self.encoder((x + 0.5) / 2)

    def decode(self, z: Tensor) -> Tensor:
        """Logits of p(x|z): [..., units] -> [..., pixels]."""
        return self.decoder(2 * z - 1)

    def q_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def p_parameters(self) -> list[nn.Parameter]:
        return [*self.decoder.parameters(), self.prior]


class Subject(NamedTuple):
    """A contender at work on one model.

    Attributes:
        parameters: those of q, then those of p, in SBN's order; empty: there is nothing to train.
        backward: (x [B, pixels], K) -> None; leaves in ``parameters`` its gradient of minus the bound.
        over_data: the gradient is that of the "mean" or the "sum" over the data.
    """

    parameters: list[nn.Parameter]
    backward: Callable[[Tensor, int], None]
    over_data: str = "mean"


def log_bernoulli(value: Tensor, logits: Tensor) -> Tensor:
    """log p(value), summed over the last dimension; shapes broadcast."""
    value, logits = torch.broadcast_tensors(value, logits)
    return -F.binary_cross_entropy_with_logits(logits, value, reduction="none").sum(-1)


def exact_gradients(model: SBN, x: Tensor, iw: int) -> dict[str, list[Tensor]]:
    """Gradients of the mean over x of E[L_K] ("L_K") and of the ELBO ("ELBO"), by enumeration of all K-tuples.

    Args:
        model: of few units, float64.
        x: [B, pixels].
        iw: K.

    Returns:
        for each bound one tensor per parameter, q's first.
    """
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(model.prior))), dtype=x.dtype)
    log_q = log_bernoulli(states, model.encode(x)[:, None])  # [B, S]
    log_p = log_bernoulli(states, model.prior) + log_bernoulli(x[:, None], model.decode(states))
    tuples = torch.cartesian_prod(*[torch.arange(len(states))] * iw).view(-1, iw)
    bound = (log_p - log_q)[:, tuples].logsumexp(-1) - math.log(iw)  # [B, S^K]
    bounds = {"L_K": log_q[:, tuples].sum(-1).exp() * bound, "ELBO": log_q.exp() * (log_p - log_q)}
    parameters = model.q_parameters() + model.p_parameters()
    return {
        name: list(torch.autograd.grad(each.sum(1).mean(), parameters, retain_graph=True))
        for name, each in bounds.items()
    }
