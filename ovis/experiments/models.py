"""The table of models. A new model needs a class and a row here, see CONTRIBUTING.md.

The table refers to classes and functions by name, so command lines, identities and reports read it without importing
torch.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovis.suggestions import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ovis.models.model import Model

__all__ = ["MODELS", "ModelEntry", "build_model"]


@dataclass(frozen=True)
class ModelEntry:
    """What the experiments need to know of a model before it is built.

    Attributes:
        build: ``"module:function"`` or ``"module:class"``, called as ``build(x_shape, x_mean=x_mean, **options)``.
        options: the fields of ``TrainSettings`` that are passed to it. Those of other models are not part of a run's
            identity. ``use_data_mean`` is not passed: without it ``x_mean`` is None.
        inference_parameters: text that the names of q's parameters contain (alternatives separated by commas); the
            default of ``--grad_key``.
        reparameterized: whether q has reparameterized samples, exact or relaxed; pathwise estimators need them.
    """

    build: str
    options: tuple[str, ...] = ()
    inference_parameters: str = "inference_network"
    reparameterized: bool = True


MODELS = {
    "gmm": ModelEntry(
        "ovis.experiments.models:build_gaussian_mixture",
        ("N", "hdim"),
        inference_parameters="phi",
        reparameterized=False,
    ),
    "gaussian-toy": ModelEntry("ovis.experiments.models:build_gaussian_toy", inference_parameters="A,b"),
    "sbm": ModelEntry(
        "ovis.models.sigmoid_belief_network:SigmoidBeliefNetwork",
        ("N", "depth", "nlayers", "hdim", "normalization", "dropout"),
        reparameterized=False,
    ),
    "gaussian-vae": ModelEntry("ovis.models.gaussian_vae:GaussianVAE", ("N", "hdim", "nlayers", "use_data_mean")),
    "vae": ModelEntry(
        "ovis.models.vae:VAE",
        ("prior", "learn_prior", "N", "K", "kdim", "hdim", "nlayers", "normalization", "dropout", "use_data_mean"),
    ),
    "conv-vae": ModelEntry(
        "ovis.models.conv_vae:ConvVAE",
        ("prior", "learn_prior", "N", "K", "kdim", "hdim", "use_data_mean"),
    ),
}


def build_model(name: str, x_shape: Sequence[int], x_mean: Tensor, use_data_mean: bool = True, **options: Any) -> Model:
    """Build a model by its name. Its initial parameters are drawn from the global random state.

    Args:
        name: key of :data:`MODELS`.
        x_shape: shape of one observation.
        x_mean: mean of the training data, shape ``x_shape``.
        use_data_mean: pass the mean to the model, which may centre x at it and start a bias there.
        options: options of the model, see its row; the defaults are those of its class.

    Returns:
        the model, on the CPU.

    Raises:
        ValueError: an unknown name, or a model that does not fit the observations.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
    build = pkgutil.resolve_name(MODELS[name].build)
    model: Model = build(x_shape, x_mean=x_mean if use_data_mean else None, **options)
    return model


def build_gaussian_mixture(x_shape: Sequence[int], x_mean: Tensor, **options: Any) -> Model:
    """The Gaussian mixture, which needs neither shape (observations are single numbers) nor mean."""
    from ovis.models.gaussian_mixture import GaussianMixture

    return GaussianMixture(**options)


def build_gaussian_toy(x_shape: Sequence[int], x_mean: Tensor) -> Model:
    """The Gaussian toy model, with as many latent dimensions as the data; their mean is its optimal mu."""
    from ovis.models.gaussian_toy import GaussianToyVAE

    return GaussianToyVAE(math.prod(x_shape), x_mean=x_mean)
