"""Latent-variable models whose forward pass returns distributions."""

from ovis.models.sigmoid_belief_network import SigmoidBeliefNetwork
from ovis.models.template import Output, ParticleModel, Template

__all__ = ["Output", "ParticleModel", "SigmoidBeliefNetwork", "Template"]
