"""Pareto shapes of samples of which they are known."""

import math

import pytest
import torch
from problems import OneNormal, ParticleForm

from ovis.analysis.active_units import active_units
from ovis.analysis.weights import pareto_k, pareto_shape, weight_diagnostics
from ovis.models import SigmoidBeliefNetwork


@pytest.mark.parametrize("shape", [-0.3, 0.1, 0.5, 0.9])
def test_shape_of_generalized_pareto_samples(shape):
    """By inversion of the distribution function, 100 sets of 1000, whatever their scale."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(100, 1000, generator=generator, dtype=torch.float64)
    samples = ((1 - uniform) ** -shape - 1) / shape * 5.0
    found = pareto_shape(samples.sort(-1).values)
    assert found.mean().item() == pytest.approx(shape, abs=0.02)
    torch.testing.assert_close(pareto_shape(samples.sort(-1).values * 1e-9), found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_k_of_pareto_weights(shape):
    """Weights u^-shape have a Pareto tail; a common factor does not matter, nor the order."""
    uniform = torch.rand(100, 10_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    log_w = -shape * uniform.log()
    found = pareto_k(log_w)
    assert found.mean().item() == pytest.approx(shape, abs=0.05)
    torch.testing.assert_close(pareto_k(log_w.flip(-1) - 1000), found)


def test_edges():
    assert pareto_k(torch.randn(3, 24)).isfinite().all()
    assert (pareto_k(torch.randn(3, 15)) == math.inf).all()
    assert (pareto_k(torch.zeros(2, 100)) == -math.inf).all()
    log_w = torch.randn(50)
    log_w[:10] = -math.inf
    assert pareto_k(log_w).isfinite()


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
