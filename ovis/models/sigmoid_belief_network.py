"""Sigmoid belief network: L layers of Bernoulli variables."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ovis.models.distributions import BernoulliVector
from ovis.models.layers import mlp
from ovis.models.model import Model
from ovis.models.template import Output

__all__ = ["SigmoidBeliefNetwork", "logits_of_mean"]


class SigmoidBeliefNetwork(Model):
    """Sigmoid belief network with L layers of Bernoulli variables, for binary observations.

    p(x, z_1..z_L) = p(z_L) prod_l p(z_{l-1} | z_l), with z_0 = x, and q(z_1..z_L | x) = prod_l q(z_l | z_{l-1}) (Neal
    1992, https://doi.org/10.1016/0004-3702(92)90065-6). Use it to compare estimators for discrete latents, as VIMCO
    (https://arxiv.org/abs/1602.06725), TVO and OVIS do. All conditionals are vectors of Bernoulli variables whose
    logits are a perceptron (linear by default) of 2z - 1. The input of q is (x - mean + 1)/2. The bias of p(x|z_1)
    starts at the logits of the mean, so training starts from the best model of independent pixels.

    Args:
        x_shape: shape of one observation.
        N: variables in each stochastic layer.
        depth: L, number of stochastic layers.
        nlayers: hidden layers of each conditional; 0: linear.
        hdim: units of a hidden layer.
        x_mean: mean observation, shape ``x_shape``; None: 1/2 everywhere.
        normalization: of hidden layers, see :func:`ovis.models.layers.mlp`.
        dropout: of hidden layers.
    """

    bernoulli = True
    mean: Tensor

    def __init__(
        self,
        x_shape: Sequence[int],
        N: int = 200,
        depth: int = 3,
        nlayers: int = 0,
        hdim: int = 64,
        x_mean: Tensor | None = None,
        normalization: str = "none",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.x_shape = tuple(x_shape)
        size = math.prod(self.x_shape)
        mean = torch.full((size,), 0.5) if x_mean is None else x_mean.detach().flatten().float()
        self.register_buffer("mean", mean)

        def conditional(inputs: int, outputs: int) -> nn.Sequential:
            return mlp(inputs, outputs, hdim, nlayers, normalization=normalization, dropout=dropout)

        widths = [size] + [N] * depth
        self.inference_network = nn.ModuleList(map(conditional, widths[:-1], widths[1:]))
        self.generative_model = nn.ModuleList(map(conditional, widths[1:], widths[:-1]))
        self.prior_logits = nn.Parameter(torch.zeros(N))
        with torch.no_grad():
            last = self.generative_model[0][-1]  # type: ignore[index]
            last.bias.copy_(logits_of_mean(mean))

    def encode(self, x: Tensor) -> Tensor:
        """Logits of q(z_1|x): [B, *x_shape] -> [B, N]."""
        logits: Tensor = self.inference_network[0]((self.target(x).flatten(1) - self.mean + 1) / 2)
        return logits

    def target(self, x: Tensor) -> Tensor:
        """x; integers and booleans as numbers in the parameters' precision."""
        return x if x.is_floating_point() else x.to(self.prior_logits.dtype)

    def q(self, h: Tensor) -> Generator[Distribution, Tensor, None]:
        """q(z_1|x), then q(z_l | z_{l-1}) of each further layer."""
        z = yield BernoulliVector(h, finite=True)
        for network in self.inference_network[1:]:
            z = yield BernoulliVector(network(_signs(z)), finite=True)

    def p(self, z: Tensor | list[Tensor], h: Tensor) -> tuple[Distribution, list[Distribution]]:
        """p(x|z_1), and p(z_l | z_{l+1}) of each layer."""
        layers = [z] if isinstance(z, Tensor) else z
        logits = [decoder(_signs(sample)) for decoder, sample in zip(self.generative_model, layers, strict=True)]
        top = self.prior_logits.expand(*(1 for _ in layers[-1].shape[:-1]), -1)
        pz: list[Distribution] = [BernoulliVector(each, finite=True) for each in (*logits[1:], top)]
        return self._observation(logits[0]), pz

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Output:
        pz: list[Distribution] = [BernoulliVector(self.prior_logits.expand(bs, -1))]
        z = [pz[0].sample()]
        for decoder in reversed(self.generative_model[1:]):
            pz.insert(0, BernoulliVector(decoder(_signs(z[0]))))
            z.insert(0, pz[0].sample())
        return {"px": self._observation(self.generative_model[0](_signs(z[0]))), "z": z, "pz": pz}

    def _observation(self, logits: Tensor) -> BernoulliVector:
        return BernoulliVector(logits.view(*logits.shape[:-1], *self.x_shape), len(self.x_shape), finite=True)


def _signs(bits: Tensor) -> Tensor:
    """2 z - 1, in one kernel."""
    return torch.rsub(bits, -1, alpha=-2)


def logits_of_mean(mean: Tensor, floor: float = 1e-4) -> Tensor:
    """Logits log m/(1 - m) of a mean observation, clipped to [floor, 1 - floor].

    Args:
        mean: m, entries in [0, 1], any shape.
        floor: keeps the logits of pixels that are always 0 or always 1 finite.

    Returns:
        the shape of ``mean``.
    """
    return torch.logit(mean.clamp(floor, 1 - floor))
