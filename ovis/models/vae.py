"""Variational auto-encoder with one stochastic layer and perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ovis.models.latents import latents
from ovis.models.layers import mlp
from ovis.models.single_layer import SingleLayerModel, start_at_mean

__all__ = ["VAE"]


class VAE(SingleLayerModel):
    """Variational auto-encoder with perceptrons, for binary observations.

    p(x, z) = Bernoulli(x; MLP(z)) p(z), q(z|x) = family(z; MLP(x)) (Kingma and Welling 2014,
    https://arxiv.org/abs/1312.6114). Use it as the simplest model, or to compare priors. Given the mean observation,
    the input of q is (x - mean + 1)/2 and the decoder's bias starts at the logits of the mean: training starts from the
    best model of independent pixels and is faster. Figure 4 of Lievin et al. 2020 (https://arxiv.org/abs/2008.01998)
    uses no mean.

    Args:
        x_shape: shape of one observation.
        prior: family of z: normal, categorical or bernoulli. Discrete families have relaxed samples at tau > 0.
        learn_prior: learn the parameters of p(z); otherwise p(z) is N(0, I), or uniform.
        N: latent variables.
        K: categories of a categorical variable.
        kdim: size of a category's embedding; 0: the decoder gets one-hot vectors.
        hdim: units of a hidden layer.
        nlayers: hidden layers of the encoder and of the decoder; 0: linear.
        x_mean: mean observation, shape ``x_shape``, at which x is centred and the decoder's bias starts; None: neither.
        normalization: normalization of hidden layers, see :func:`ovis.models.layers.mlp`.
        dropout: dropout probability of hidden units.

    Raises:
        ValueError: an unknown family or normalization.

    See also:
        :class:`ovis.models.ConvVAE` for images, :func:`ovis.models.latents.latents` for the families.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        prior: str = "normal",
        learn_prior: bool = False,
        N: int = 32,
        K: int = 8,
        kdim: int = 0,
        hdim: int = 64,
        nlayers: int = 3,
        x_mean: Tensor | None = None,
        normalization: str = "none",
        dropout: float = 0.0,
    ):
        family = latents(prior, N, K, kdim)
        super().__init__(x_shape, family, learn_prior, x_mean)
        size = math.prod(self.x_shape)
        self.inference_network = mlp(
            size, family.parameters, hdim, nlayers, normalization=normalization, dropout=dropout
        )
        decoder = mlp(family.width, size, hdim, nlayers, normalization=normalization, dropout=dropout)
        self.generative_model = nn.Sequential(family.embedding(), start_at_mean(decoder, self.mean))

    def encode(self, x: Tensor) -> Tensor:
        features: Tensor = self.inference_network(self.network_input(x).flatten(1))
        return features
