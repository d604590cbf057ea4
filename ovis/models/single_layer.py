"""Base class of the models with one stochastic layer and binary observations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ovis.models.distributions import BernoulliVector
from ovis.models.latents import Latents
from ovis.models.model import Model
from ovis.models.sigmoid_belief_network import logits_of_mean
from ovis.models.template import Output

__all__ = ["SingleLayerModel", "start_at_mean"]


class SingleLayerModel(Model):
    """A model with one stochastic layer: p(x, z) = Bernoulli(x; decoder(z)) p(z) and q(z|x), p(z) of one family.

    A subclass builds ``inference_network``, which computes the parameters of q, and ``generative_model``, which maps
    the values of samples, [R, *event], to the logits of x, R times the pixels of x.

    Args:
        x_shape: shape of one observation.
        latents: the family of z.
        learn_prior: learn the parameters of p(z); otherwise they are zeros: N(0, I), or uniform.
        x_mean: mean observation, shape ``x_shape``; None: :meth:`network_input` is x itself.
    """

    bernoulli = True
    mean: Tensor | None
    prior: Tensor
    inference_network: nn.Module
    generative_model: nn.Module

    def __init__(self, x_shape: Sequence[int], latents: Latents, learn_prior: bool, x_mean: Tensor | None):
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latents = latents
        mean = None if x_mean is None else x_mean.detach().float().reshape(self.x_shape).clone()
        self.register_buffer("mean", mean)
        prior = torch.zeros(latents.parameters)
        if learn_prior:
            self.prior = nn.Parameter(prior)
        else:
            self.register_buffer("prior", prior)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The parameters of q(z|x): [B, *x_shape] -> [B, latents.parameters]."""

    @final
    def network_input(self, x: Tensor) -> Tensor:
        """The input of the inference network: (x - mean + 1)/2, in [0, 1]; x if there is no mean."""
        x = self.target(x)
        return x if self.mean is None else (x - self.mean + 1) / 2

    @final
    def target(self, x: Tensor) -> Tensor:
        """x; integers and booleans as numbers in the parameters' precision."""
        return x if x.is_floating_point() else x.to(self.prior.dtype)

    def q(self, h: Tensor, tau: float = 0.0) -> Distribution:
        """q(z|x) from its parameters."""
        return self.latents.distribution(h, tau)

    def p(self, z: Tensor, h: Tensor, tau: float = 0.0) -> tuple[Distribution, Distribution]:
        """p(x|z) and p(z)."""
        lead = z.shape[: -self.latents.event_dims]
        # one entry per leading dimension, so that the log-density stays a matrix product where it can be one
        prior = self.latents.distribution(self.prior.expand(*(1 for _ in lead), -1), tau)
        return self._observation(z, tau), prior

    @final
    def sample_from_prior(self, bs: int, **kwargs: Any) -> Output:
        prior = self.latents.distribution(self.prior.expand(bs, -1))
        z = prior.sample()
        return {"px": self._observation(z, 0.0), "z": [z], "pz": [prior]}

    def _observation(self, z: Tensor, tau: float) -> Distribution:
        values = self.latents.values(z, tau).to(self.prior.dtype)  # samples are float32 in a network of half precision
        lead = values.shape[: -self.latents.event_dims]
        logits = self.generative_model(values.flatten(0, len(lead) - 1))  # convolutions need one leading dimension
        return BernoulliVector(logits.view(*lead, *self.x_shape), len(self.x_shape), finite=True)


@torch.no_grad()
def start_at_mean(decoder: nn.Sequential, mean: Tensor | None) -> nn.Sequential:
    """Set the bias of the last layer to the logits of a mean observation: the best model of independent pixels.

    Args:
        decoder: its last module is a linear layer with one output per pixel.
        mean: mean observation, entries in [0, 1], any shape with as many entries; None: leave the bias as it is.

    Returns:
        ``decoder`` itself.
    """
    if mean is None:
        return decoder
    last = decoder[-1]
    assert isinstance(last, nn.Linear)
    last.bias.copy_(logits_of_mean(mean.flatten()))
    return decoder
