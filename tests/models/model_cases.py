"""Small models of every kind, to loop over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from ovis.models import (
    VAE,
    ConvVAE,
    GaussianMixture,
    GaussianToyVAE,
    GaussianVAE,
    Model,
    SigmoidBeliefNetwork,
)
from ovis.models.template import Output

IMAGE = (1, 8, 8)


def _image_mean() -> Tensor:
    return torch.rand(IMAGE, generator=torch.Generator().manual_seed(3))


CASES: dict[str, Callable[[], Model]] = {
    "gmm": lambda: GaussianMixture(N=6, hdim=5),
    "gaussian-toy": lambda: GaussianToyVAE(D=3, x_mean=torch.tensor([0.5, -1.0, 2.0])),
    "sbm": lambda: SigmoidBeliefNetwork(IMAGE, N=5, depth=3, x_mean=_image_mean()),
    "sbm-nonlinear": lambda: SigmoidBeliefNetwork(IMAGE, N=5, depth=2, nlayers=1, hdim=7, x_mean=_image_mean()),
    "gaussian-vae": lambda: GaussianVAE(IMAGE, N=4, hdim=6, x_mean=_image_mean()),
    "vae-normal": lambda: VAE(IMAGE, "normal", True, N=4, hdim=6, nlayers=1, x_mean=_image_mean()),
    "vae-bernoulli": lambda: VAE(IMAGE, "bernoulli", True, N=4, hdim=6, nlayers=1, x_mean=_image_mean()),
    "vae-categorical": lambda: VAE(IMAGE, "categorical", True, N=3, K=4, hdim=6, nlayers=0, x_mean=_image_mean()),
    "vae-embedding": lambda: VAE(IMAGE, "categorical", True, N=3, K=4, kdim=2, hdim=6, nlayers=1),
    "vae-fixed-prior": lambda: VAE(IMAGE, "categorical", N=3, K=4, normalization="layernorm", hdim=6, nlayers=1),
    "conv-vae": lambda: ConvVAE(IMAGE, "normal", True, N=4, hdim=6, x_mean=_image_mean()),
    "conv-vae-28": lambda: ConvVAE((1, 28, 28), "bernoulli", True, N=4, hdim=6),
    "conv-vae-odd": lambda: ConvVAE((2, 9, 14), "categorical", True, N=3, K=4, kdim=2, hdim=6),
}

#: cases with reparameterized samples -> the temperature to ask for
REPARAMETERIZABLE = {
    "gaussian-toy": 0.0,
    "gaussian-vae": 0.0,
    "vae-normal": 0.0,
    "conv-vae": 0.0,
    "vae-bernoulli": 0.5,
    "vae-categorical": 0.5,
    "vae-embedding": 1.0,
    "conv-vae-28": 0.5,
    "conv-vae-odd": 0.5,
}


def build(case: str) -> Model:
    """The model in float64, its parameters moved off their starting points so that no zero hides a mistake."""
    torch.manual_seed(0)
    model = CASES[case]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def observations(model: Model, n: int) -> Tensor:
    """n points of a kind that the model may see, float64."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, GaussianMixture):
        return 50 * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    if isinstance(model, GaussianToyVAE):
        return torch.randn(n, len(model.mu), generator=generator, dtype=torch.float64)
    return (torch.rand(n, *model.x_shape, generator=generator) < 0.4).double()  # type: ignore[arg-type]


def log_densities(output: Output, x: Tensor, qz: list[Distribution] | None = None) -> Tensor:
    """log p(x|z), then log p(z_l) of every layer, then log q(z_l|.): shape [*lead, 1 + 2L]; x broadcasts with it."""
    parts = [output["px"].log_prob(x)]
    parts += [p.log_prob(z) for p, z in zip(output["pz"], output["z"], strict=True)]
    parts += [q.log_prob(z) for q, z in zip(qz or output["qz"], output["z"], strict=True)]
    return torch.stack(parts, -1)
