"""Gaussian VAE with perceptrons, as in the figures of Lievin et al. 2020 (https://arxiv.org/abs/2008.01998)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ovis.models.latents import NormalLatents
from ovis.models.layers import mlp
from ovis.models.single_layer import SingleLayerModel, start_at_mean

__all__ = ["GaussianVAE"]


class GaussianVAE(SingleLayerModel):
    """Gaussian variational auto-encoder for binary observations, in the size used by published comparisons.

    p(x, z) = Bernoulli(x; MLP(z)) N(z; 0, I), q(z|x) = N(z; m, diag s^2) with (m, log s) = MLP(x). With the default
    sizes the encoder is 784-200-200-(200, 200) and the decoder 200-200-200-784 on 28x28 images, with tanh, as in the
    non-linear model of Masrani et al. 2019 (https://arxiv.org/abs/1907.00031). Given the mean observation, the input of
    q is (x - mean + 1)/2 and the decoder's bias starts at the logits of the mean; the figures of Lievin et al. use no
    mean. Its samples can be reparameterized, so pathwise estimators apply.

    Args:
        x_shape: shape of one observation.
        N: latent variables.
        hdim: units of a hidden layer.
        nlayers: hidden layers of the encoder and of the decoder.
        x_mean: mean observation, shape ``x_shape``, at which x is centred and the decoder's bias starts; None: neither.

    See also:
        :class:`ovis.models.VAE`, with a choice of priors.
    """

    def __init__(
        self, x_shape: Sequence[int], N: int = 200, hdim: int = 200, nlayers: int = 2, x_mean: Tensor | None = None
    ):
        family = NormalLatents(N)
        super().__init__(x_shape, family, learn_prior=False, x_mean=x_mean)
        size = math.prod(self.x_shape)
        self.inference_network = mlp(size, family.parameters, hdim, nlayers)
        self.generative_model = start_at_mean(mlp(family.width, size, hdim, nlayers), self.mean)

    def encode(self, x: Tensor) -> Tensor:
        features: Tensor = self.inference_network(self.network_input(x).flatten(1))
        return features
