"""Variational auto-encoder with one stochastic layer and small convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovis.models.latents import latents
from ovis.models.sigmoid_belief_network import logits_of_mean
from ovis.models.single_layer import SingleLayerModel

__all__ = ["ConvVAE"]


class ConvVAE(SingleLayerModel):
    """Convolutional variational auto-encoder for binary images of any size.

    p(x, z) = Bernoulli(x; deconv(z)) p(z) and q(z|x) = family(z; conv(x)) (Kingma and Welling 2014,
    https://arxiv.org/abs/1312.6114). Use it on images where the perceptrons of :class:`ovis.models.VAE` have too many
    parameters. Two convolutions of stride 2 map H x W to ceil(H/4) x ceil(W/4); the decoder reverses them exactly, for
    even and odd H and W. Given the mean image, the input of q is (x - mean + 1)/2 and the bias of each pixel starts at
    the logits of the mean.

    Args:
        x_shape: [C, H, W], with H and W at least 8.
        prior: family of z: normal, categorical or bernoulli. Discrete families have relaxed samples at tau > 0.
        learn_prior: learn the parameters of p(z); otherwise p(z) is N(0, I), or uniform.
        N: latent variables.
        K: categories of a categorical variable.
        kdim: size of a category's embedding; 0: the decoder gets one-hot vectors.
        hdim: channels after the second convolution; the first has half as many.
        x_mean: mean image, shape ``x_shape``, at which x is centred and the bias of each pixel starts; None: x is not
            centred, and these biases start at 0.

    Raises:
        ValueError: an unknown family, or observations that aren't images of at least 8x8.

    See also:
        :class:`ovis.models.VAE`, :func:`ovis.models.latents.latents` for the families.
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
        x_mean: Tensor | None = None,
    ):
        if len(x_shape) != 3 or min(x_shape[1:]) < 8:
            raise ValueError(f"a convolutional VAE needs images [C, H, W] with H, W >= 8, got shape {tuple(x_shape)}")
        family = latents(prior, N, K, kdim)
        super().__init__(x_shape, family, learn_prior, x_mean)
        channels, height, width = self.x_shape
        wide, narrow = hdim, (hdim + 1) // 2
        half = ((height + 1) // 2, (width + 1) // 2)
        quarter = ((half[0] + 1) // 2, (half[1] + 1) // 2)
        flat = wide * quarter[0] * quarter[1]
        self.inference_network = nn.Sequential(
            nn.Conv2d(channels, narrow, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, family.parameters),
        )
        self.generative_model = nn.Sequential(
            family.embedding(),
            nn.Linear(family.width, flat),
            nn.ReLU(),
            nn.Unflatten(1, (wide, *quarter)),
            nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=_missing(half)),
            nn.ReLU(),
            nn.ConvTranspose2d(
                narrow, channels, 3, stride=2, padding=1, output_padding=_missing((height, width)), bias=False
            ),
            _PixelBias(torch.zeros(self.x_shape) if self.mean is None else logits_of_mean(self.mean)),
        )

    def encode(self, x: Tensor) -> Tensor:
        features: Tensor = self.inference_network(self.network_input(x))
        return features


def _missing(size: tuple[int, int]) -> tuple[int, int]:
    """Output padding of a transposed convolution: without it the size is 2 ceil(n/2) - 1, one less than an even n."""
    return (1 - size[0] % 2, 1 - size[1] % 2)


class _PixelBias(nn.Module):
    """Adds one learned number to each pixel: [R, C, H, W] -> [R, C, H, W]."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.bias = nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias
