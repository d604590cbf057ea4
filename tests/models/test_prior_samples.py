"""Samples from the prior against the moments of the model, enumerated or in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch
from model_cases import build
from torch.nn import functional as F

from ovis.models import VAE, GaussianMixture, SigmoidBeliefNetwork

DRAWS = 40_000


def close(samples, mean, errors=4.5):
    """The mean over samples [n, ...] is within standard errors of the truth; not trivially so."""
    samples = samples.double()
    error = samples.std(0) / len(samples) ** 0.5
    assert (error > 0).all()
    assert ((samples.mean(0) - mean).abs() < errors * error).all()


def cube(n):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


@torch.no_grad()
def test_sigmoid_belief_network():
    torch.manual_seed(0)
    model = SigmoidBeliefNetwork((5,), N=3, depth=2).double()
    for parameter in model.parameters():
        parameter.normal_(0, 1.5)
    states = cube(3)
    w = model.state_dict()

    def ones(layer, z):
        return F.linear(2 * z - 1, w[f"generative_model.{layer}.0.weight"], w[f"generative_model.{layer}.0.bias"])

    top = w["prior_logits"].sigmoid()
    p2 = (states * top + (1 - states) * (1 - top)).prod(-1)
    given2 = ones(1, states).sigmoid()
    p1 = (states * given2[:, None] + (1 - states) * (1 - given2[:, None])).prod(-1)  # [z2, z1]
    joint = p2[:, None] * p1
    assert joint.sum() == pytest.approx(1)
    drawn = model.sample_from_prior(DRAWS)
    x = drawn["px"].sample()
    close(drawn["z"][1], top)
    close(drawn["z"][0], p2 @ given2)
    close(x, joint.sum(0) @ ones(0, states).sigmoid())
    # the pairs, so that a layer sampled from a wrong one is seen too
    pairs = drawn["z"][0][:, :, None] * drawn["z"][1][:, None, :]
    close(pairs, torch.einsum("ts,si,tj->ij", joint, states, states))


@torch.no_grad()
@pytest.mark.parametrize("learn_prior", [False, True])
def test_categorical(learn_prior):
    torch.manual_seed(0)
    model = VAE((5,), "categorical", learn_prior, N=2, K=3, nlayers=0).double()
    for parameter in model.parameters():
        parameter.normal_(0, 1.0)
    probs = model.prior.view(2, 3).softmax(-1)
    assert torch.allclose(probs, torch.full_like(probs, 1 / 3)) != learn_prior
    drawn = model.sample_from_prior(DRAWS)
    close(drawn["z"][0], probs)
    one_hot = torch.eye(3, dtype=torch.float64)
    states = torch.stack([one_hot[[i, j]] for i in range(3) for j in range(3)])
    weights = (states * probs).sum(-1).prod(-1)
    close(drawn["px"].sample(), weights @ model.generative_model(states).sigmoid())


@torch.no_grad()
def test_bernoulli():
    torch.manual_seed(0)
    model = VAE((5,), "bernoulli", True, N=3, nlayers=0).double()
    for parameter in model.parameters():
        parameter.normal_(0, 1.0)
    probs, states = model.prior.sigmoid(), cube(3)
    drawn = model.sample_from_prior(DRAWS)
    close(drawn["z"][0], probs)
    weights = (states * probs + (1 - states) * (1 - probs)).prod(-1)
    close(drawn["px"].sample(), weights @ model.generative_model(2 * states - 1).sigmoid())


@torch.no_grad()
@pytest.mark.parametrize("case", ["vae-normal", "gaussian-vae", "conv-vae"])
def test_normal(case):
    model = build(case)
    torch.manual_seed(0)
    (z,) = model.sample_from_prior(4000)["z"]
    loc, log_scale = model.prior.chunk(2)
    close(z, loc)
    close((z - loc) ** 2, (2 * log_scale).exp())


@torch.no_grad()
def test_gaussian_toy():
    model = build("gaussian-toy")
    torch.manual_seed(0)
    drawn = model.sample_from_prior(DRAWS)
    x = drawn["px"].sample()
    close(drawn["z"][0], model.mu)
    close(x, model.mu)
    close((x - model.mu) ** 2, torch.full((3,), 2.0, dtype=torch.float64))
    close((x - model.mu) * (drawn["z"][0] - model.mu), torch.ones(3, dtype=torch.float64))


@torch.no_grad()
def test_gaussian_mixture():
    torch.manual_seed(0)
    model = GaussianMixture(N=4).double()
    model.theta.normal_()
    probs, classes = model.theta.softmax(-1), torch.arange(4.0, dtype=torch.float64)
    drawn = model.sample_from_prior(DRAWS)
    close(F.one_hot(drawn["z"][0].long(), 4), probs)
    x = drawn["px"].sample()
    close(x, (probs * 10 * classes).sum())
    close(x**2, (probs * (100 * classes**2 + 25)).sum())
