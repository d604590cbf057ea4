"""Relaxed discrete samples: their limit, and that float32 keeps their density at low temperatures."""

from __future__ import annotations

import pytest
import torch

from ovis.models.latents import BernoulliLatents, CategoricalLatents

FAMILIES = [BernoulliLatents(3), CategoricalLatents(3, 4)]


def draw(family, tau, n=20_000):
    torch.manual_seed(0)
    logits = 3 * torch.randn(family.parameters, dtype=torch.float64)
    return logits, family.distribution(logits.expand(n, -1), tau).rsample()


@pytest.mark.parametrize("family", FAMILIES, ids=["bernoulli", "categorical"])
def test_low_temperatures_give_exact_samples(family):
    logits, z = draw(family, 0.01)
    values = family.values(z, 0.01)
    if family.event_dims == 1:
        values, probs = (values + 1) / 2, logits.sigmoid()
    else:
        probs = logits.view(3, 4).softmax(-1)
    assert ((values - 0.5).abs() > 0.49).double().mean() > 0.97
    # thresholded, they have the exact probabilities at any temperature
    error = (probs * (1 - probs) / len(z)).sqrt()
    hard = values > 0.5 if family.event_dims == 1 else torch.nn.functional.one_hot(values.argmax(-1), 4)
    assert ((hard.double().mean(0) - probs).abs() < 4.5 * error + 1e-4).all()


@pytest.mark.parametrize("tau", [0.1, 1.0])
@pytest.mark.parametrize("family", FAMILIES, ids=["bernoulli", "categorical"])
def test_single_precision_keeps_the_log_ratio(family, tau):
    logits, z = draw(family, tau)
    prior = torch.zeros_like(logits)

    def log_ratio(dtype):
        q, p = (family.distribution(each.to(dtype), tau) for each in (logits, prior))
        return p.log_prob(z.to(dtype)) - q.log_prob(z.to(dtype))

    torch.testing.assert_close(log_ratio(torch.float32).double(), log_ratio(torch.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", [0.2, 0.7])
@pytest.mark.parametrize("family", FAMILIES, ids=["bernoulli", "categorical"])
def test_importance_weights_average_to_one(family, tau):
    """E_q[p(z)/q(z)] = 1: q is the density of its samples, and p is normalized."""
    torch.manual_seed(0)
    logits = 0.5 * torch.randn(family.parameters, dtype=torch.float64)
    q = family.distribution(logits, tau)
    p = family.distribution(torch.zeros_like(logits), tau)
    z = q.expand((100_000,)).rsample()
    weights = (p.log_prob(z) - q.log_prob(z)).exp()
    error = weights.std() / len(weights) ** 0.5
    assert error < 0.02
    assert (weights.mean() - 1).abs() < 4 * error
