"""Latent-variable models whose forward pass returns samples and their distributions."""

from ovis.models.baseline import Baseline
from ovis.models.conv_vae import ConvVAE
from ovis.models.gaussian_mixture import GaussianMixture
from ovis.models.gaussian_toy import GaussianToyVAE
from ovis.models.gaussian_vae import GaussianVAE
from ovis.models.masked import Masked
from ovis.models.model import Model
from ovis.models.sigmoid_belief_network import SigmoidBeliefNetwork
from ovis.models.template import Output, Template
from ovis.models.vae import VAE

__all__ = [
    "VAE",
    "Baseline",
    "ConvVAE",
    "GaussianMixture",
    "GaussianToyVAE",
    "GaussianVAE",
    "Masked",
    "Model",
    "Output",
    "SigmoidBeliefNetwork",
    "Template",
]
