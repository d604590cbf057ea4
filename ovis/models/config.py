"""The models by name, and how the settings of a run build one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ovis.models.conv_vae import ConvVAE
from ovis.models.gaussian_mixture import GaussianMixture
from ovis.models.gaussian_toy import GaussianToyVAE
from ovis.models.gaussian_vae import GaussianVAE
from ovis.models.sigmoid_belief_network import SigmoidBeliefNetwork
from ovis.models.template import ParticleModel
from ovis.models.vae import VAE
from ovis.names import IMPLIED_MODELS
from ovis.settings import TrainSettings

__all__ = ["MODELS", "build_model"]

MODELS: dict[str, type[ParticleModel]] = {
    "gmm": GaussianMixture,
    "gaussian-toy": GaussianToyVAE,
    "sbm": SigmoidBeliefNetwork,
    "gaussian-vae": GaussianVAE,
    "vae": VAE,
    "conv-vae": ConvVAE,
}

#: The settings that each model reads, by the names of its arguments.
OPTIONS: dict[str, tuple[str, ...]] = {
    "gmm": ("N", "hdim"),
    "gaussian-toy": (),
    "sbm": ("N", "depth", "nlayers", "hdim", "normalization", "dropout"),
    "gaussian-vae": ("N", "hdim", "nlayers"),
    "vae": ("prior", "learn_prior", "N", "K", "kdim", "hdim", "nlayers", "normalization", "dropout"),
    "conv-vae": ("prior", "learn_prior", "N", "K", "kdim", "hdim"),
}


def build_model(settings: TrainSettings, x_shape: Sequence[int], x_mean: Tensor) -> ParticleModel:
    """The model of a run, its parameters drawn from the global random state.

    Args:
        settings: of the run; the data sets gmm and gaussian-toy bring their own model.
        x_shape: shape of one observation.
        x_mean: mean of the training data, shape ``x_shape``.

    Raises:
        ValueError: a model that is trained on its own data only, or that does not fit the observations.
    """
    name = IMPLIED_MODELS.get(settings.dataset, settings.model)
    if name in IMPLIED_MODELS.values() and settings.dataset not in IMPLIED_MODELS:
        own = [dataset for dataset, model in IMPLIED_MODELS.items() if model == name]
        raise ValueError(f"model {name!r} is trained on its own data: use --dataset {own[0]}, not {settings.dataset}")
    options = {option: getattr(settings, option) for option in OPTIONS[name]}
    if name == "gmm":
        return GaussianMixture(**options)
    if name == "gaussian-toy":
        return GaussianToyVAE(math.prod(x_shape), x_mean=x_mean)
    return MODELS[name](x_shape, x_mean=x_mean, **options)
