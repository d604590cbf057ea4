"""The mixture against enumeration over its classes."""

from __future__ import annotations

import math

import pytest
import torch
from model_cases import observations
from torch.distributions import Normal

from ovis.models import GaussianMixture


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GaussianMixture(N=20).double()


def joint(model, x, log_prior):
    """log p(x, z) for every class: [B, N]."""
    return log_prior + Normal(10 * torch.arange(20.0, dtype=x.dtype), 5.0).log_prob(x)


def test_all_classes_as_particles_give_the_marginal(model):
    """The model scored at every class sums to log p(x)."""
    torch.nn.init.normal_(model.theta)
    x = observations(model, 7)
    classes = torch.arange(20.0, dtype=x.dtype).expand(7, 20)
    output = model(x, particles=20, z=[classes])
    got = (output["px"].log_prob(x.unsqueeze(1)) + output["pz"][0].log_prob(classes)).logsumexp(-1)
    torch.testing.assert_close(got, joint(model, x, model.theta.log_softmax(-1)).logsumexp(-1))
    torch.testing.assert_close(output["qz"][0].log_prob(classes).exp().sum(-1), torch.ones(7, dtype=x.dtype))


def test_true_posterior(model):
    x = observations(model, 7)
    prior = torch.arange(5.0, 25.0, dtype=x.dtype)
    want = joint(model, x, (prior / prior.sum()).log()).softmax(-1)
    torch.testing.assert_close(model.true_posterior(x), want)
    with torch.no_grad():
        model.theta.normal_()
    torch.testing.assert_close(model.true_posterior(x), want)  # the truth does not depend on what was learned


def test_prior_mse_starts_where_the_paper_says(model):
    got = model.diagnostics(observations(model, 3))["gmm"]
    assert got["prior_mse"].shape == ()
    assert got["prior_mse"].item() == pytest.approx(0.0889, abs=5e-5)
    by_hand = math.sqrt(sum((1 / 20 - (5 + z) / 290) ** 2 for z in range(20)))
    assert got["prior_mse"].item() == pytest.approx(by_hand)


def test_posterior_mse(model):
    x = observations(model, 3)
    got = model.diagnostics(x)["gmm"]["posterior_mse"]
    q, p = model(x)["qz"][0].probs, model.true_posterior(x)
    for i in range(3):
        by_hand = math.sqrt(sum((q[i, z] - p[i, z]).item() ** 2 for z in range(20)))
        assert got[i].item() == pytest.approx(by_hand)
    assert not got.requires_grad


def test_diagnostics_are_zero_at_the_truth(model):
    with torch.no_grad():
        model.theta.copy_(torch.log(torch.arange(5.0, 25.0)))
        for parameter in model.phi.parameters():
            parameter.zero_()
        x = torch.full((1, 1), 37.0, dtype=torch.float64)
        model.phi[-1].bias.copy_(model.true_posterior(x)[0].log())
    got = model.diagnostics(x)["gmm"]
    assert got["prior_mse"] < 1e-7  # theta is copied from float32
    assert got["posterior_mse"] < 1e-12
    assert model.diagnostics(x + 10)["gmm"]["posterior_mse"] > 0.1


def test_samples_follow_q(model):
    torch.manual_seed(1)
    x = observations(model, 2)
    output = model(x, particles=20_000)
    probs = output["qz"][0].probs.squeeze(1)
    frequencies = torch.nn.functional.one_hot(output["z"][0].long(), 20).double().mean(1)
    assert ((frequencies - probs).abs() <= 4.5 * (probs * (1 - probs) / 20_000).sqrt() + 1e-4).all()
    assert (probs[0] - probs[1]).abs().max() > 0.01  # each row has a q of its own
