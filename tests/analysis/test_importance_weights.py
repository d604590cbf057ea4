"""Pareto shapes of samples of which they are known."""

import math

import numpy as np
import pytest
import torch
from problems import OneNormal, ParticleForm

from ovis.analysis.active_units import active_units
from ovis.analysis.importance_weights import pareto_k, pareto_shape, weight_diagnostics
from ovis.estimators.sampling import draw, encode
from ovis.models import GaussianMixture, SigmoidBeliefNetwork


@pytest.mark.parametrize("shape", [-0.3, 0.1, 0.5, 0.9])
def test_shape_of_generalized_pareto_samples(shape):
    """By inversion of the distribution function, 100 sets of 1000, whatever their scale."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(100, 1000, generator=generator, dtype=torch.float64)
    samples = ((1 - uniform) ** -shape - 1) / shape * 5.0
    result = pareto_shape(samples.sort(-1).values)
    assert result.mean().item() == pytest.approx(shape, abs=0.02)
    torch.testing.assert_close(pareto_shape(samples.sort(-1).values * 1e-9), result, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_k_of_pareto_weights(shape):
    """Weights u^-shape have a Pareto tail; a common factor does not matter, nor the order."""
    uniform = torch.rand(100, 10_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    log_w = -shape * uniform.log()
    result = pareto_k(log_w)
    assert result.mean().item() == pytest.approx(shape, abs=0.05)
    torch.testing.assert_close(pareto_k(log_w.flip(-1) - 1000), result)


def test_edges():
    assert pareto_k(torch.randn(3, 24)).isfinite().all()
    assert (pareto_k(torch.randn(3, 20)) == math.inf).all()
    assert pareto_k(torch.randn(3, 21)).isfinite().all()
    assert (pareto_k(torch.zeros(2, 100)) == -math.inf).all()
    log_w = torch.randn(50)
    log_w[:10] = -math.inf
    assert pareto_k(log_w).isfinite()


def by_arviz(log_w):
    """k-hat of one row as ArviZ writes it (``psislw``, ``_gpdfit``); the tail's size is rounded up, as in R's loo."""
    log_w = np.asarray(log_w, np.float64)
    ordered = np.sort(log_w - log_w.max())
    size = math.ceil(min(0.2 * len(ordered), 3 * math.sqrt(len(ordered))))
    cutoff = max(ordered[-size - 1], math.log(np.finfo(float).tiny))
    tail = np.exp(ordered[ordered > cutoff]) - math.exp(cutoff)
    n = len(tail)
    if n <= 4:
        return math.inf
    grid = 30 + int(math.sqrt(n))
    b = 1 / tail[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * tail[int(n / 4 + 0.5) - 1])
    k = np.log1p(-b[:, None] * tail).mean(1)
    likelihood = n * (np.log(-b / k) - k - 1)
    weights = 1 / np.exp(likelihood - likelihood[:, None]).sum(1)
    k = np.log1p(-(b @ weights / weights.sum()) * tail).mean()
    return (n * k + 5) / (n + 10)


@pytest.mark.parametrize("heavy", [3, 4, 5, 8, 20, 30, 99])
@pytest.mark.parametrize("light", [-math.inf, -2.0])
def test_weights_of_two_values(heavy, light):
    """K = 100, a tail of at most 20: fewer than 5 heavy weights, or more than 20, say nothing of it."""
    log_w = torch.full((100,), light)
    log_w[:heavy] = 0.0
    result = pareto_k(log_w).item()
    assert result == pytest.approx(by_arviz(log_w))
    assert (result == math.inf) == (heavy < 5 or heavy > 20)
    assert result == math.inf or -10 < result < 0.5  # bounded


def test_weights_that_tie_in_a_mixture_of_twenty_classes():
    torch.manual_seed(3)
    model, x = GaussianMixture(N=20), torch.linspace(0, 190, 12).unsqueeze(1)
    log_w = draw(model, x, 500, encoded=encode(model, x)).log_w()
    assert max(len(row.unique()) for row in log_w) <= 20
    result = pareto_k(log_w)
    assert result.tolist() == pytest.approx([by_arviz(row) for row in log_w])
    assert result.isfinite().any()
    assert result[result.isfinite()].abs().max() < 10


def test_weights_that_are_no_numbers_have_no_shape():
    log_w = torch.randn(4, 100)
    log_w[0, 7] = math.nan
    log_w[1] = -math.inf
    log_w[2, 3] = math.inf
    assert pareto_k(log_w).isnan().tolist() == [True, True, True, False]
    assert pareto_k(log_w[:, :10]).isnan().tolist() == [True, True, True, False]


def test_diagnostics_of_a_model_are_the_same_in_pieces():
    """q narrower than the posterior, of scale 0.7: heavy weights; wider: bounded weights."""
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).unsqueeze(1)
    narrow, wide = (ParticleForm(OneNormal(0.5, 0.1, scale=scale, mu=0.2)) for scale in (0.45, 1.0))
    heavy = weight_diagnostics(narrow, x, 5000, max_rows=7000)["weights"]
    light = weight_diagnostics(wide, x, 5000)["weights"]
    assert heavy["pareto_k"].shape == light["ess"].shape == (4,)
    assert heavy["pareto_k"].min() > 0.3 > 0.0 > light["pareto_k"].max()
    assert (light["pareto_k_above_0.7"] == 0).all()


def test_active_units_never_decode(monkeypatch):
    model = SigmoidBeliefNetwork((4,), N=3, depth=2)
    rows = []
    encode = model.encode
    monkeypatch.setattr(model, "generate", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(model, "encode", lambda x: rows.append(len(x)) or encode(x))
    active_units(model, torch.rand(10, 4).round(), mc_samples=1000)
    assert sum(rows) == 10
