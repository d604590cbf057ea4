"""ovis, as its README says."""

from __future__ import annotations

import torch
from sbn import SBN, Subject
from torch import Tensor

from ovis.estimators.config import get_config
from ovis.models import SigmoidBeliefNetwork


def make(name: str, model: SBN) -> Subject:
    """An estimator's id, or one with a number of particles per pass: ``vimco``, ``ovis-gamma1/200``."""
    identifier, _, size = name.partition("/")
    Estimator, config = get_config(identifier)
    estimator = Estimator(mc=1, iw=2, particles_per_pass=int(size) if size else None, **config)
    network = SigmoidBeliefNetwork((model.encoder.in_features,), N=model.encoder.out_features, depth=1)
    encoder, decoder = network.inference_network, network.generative_model
    parameters = [*encoder.parameters(), *decoder.parameters(), network.prior_logits]
    with torch.no_grad():
        for mine, given in zip(parameters, model.q_parameters() + model.p_parameters(), strict=True):
            mine.copy_(given)

    def backward(x: Tensor, iw: int) -> None:
        estimator(network, x, backward=True, return_diagnostics=False, iw=iw)

    return Subject(parameters, backward)
