"""The models by name, and how the settings of a run build one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ovis.estimators.ids import MODEL_OPTIONS
from ovis.experiments.settings import TrainSettings
from ovis.models.conv_vae import ConvVAE
from ovis.models.gaussian_mixture import GaussianMixture
from ovis.models.gaussian_toy import GaussianToyVAE
from ovis.models.gaussian_vae import GaussianVAE
from ovis.models.sigmoid_belief_network import SigmoidBeliefNetwork
from ovis.models.template import ParticleModel
from ovis.models.vae import VAE

__all__ = ["MODELS", "build_model"]

MODELS: dict[str, type[ParticleModel]] = {
    "gmm": GaussianMixture,
    "gaussian-toy": GaussianToyVAE,
    "sbm": SigmoidBeliefNetwork,
    "gaussian-vae": GaussianVAE,
    "vae": VAE,
    "conv-vae": ConvVAE,
}


def build_model(settings: TrainSettings, x_shape: Sequence[int], x_mean: Tensor) -> ParticleModel:
    """The model of a run, its parameters drawn from the global random state.

    Args:
        settings: of the run; the data sets gmm and gaussian-toy bring their own model.
        x_shape: shape of one observation.
        x_mean: mean of the training data, shape ``x_shape``.

    Raises:
        ValueError: a model that does not fit the observations.
    """
    name = settings.trained_model
    options = {option: getattr(settings, option) for option in MODEL_OPTIONS[name]}
    if name == "gmm":
        return GaussianMixture(**options)
    if name == "gaussian-toy":
        return GaussianToyVAE(math.prod(x_shape), x_mean=x_mean)
    return MODELS[name](x_shape, x_mean=x_mean, **options)
