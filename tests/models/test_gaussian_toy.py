"""The Gaussian toy model: its optimum, its perturbation, its closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from ovis.models import GaussianToyVAE


@pytest.fixture
def x():
    return 2 + torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def errors(model, x):
    return model.diagnostics(x)["gaussian_toy"]


def test_optimum(x):
    model = GaussianToyVAE(4).double()
    model.set_optimal_parameters(x)
    torch.testing.assert_close(model.mu.data, x.mean(0))
    torch.testing.assert_close(model.A.data, torch.eye(4, dtype=x.dtype) / 2)
    torch.testing.assert_close(model.b.data, x.mean(0) / 2)
    assert errors(model, x) == {"mse_mu": 0, "mse_A": 0, "mse_b": 0}


def test_importance_weights_at_the_optimum(x):
    """There q has the mean of the exact posterior N((x + mu)/2, I/2), and p(x|z) p(z) / p(z|x) is p(x) for any z."""
    model = GaussianToyVAE(4).double()
    model.set_optimal_parameters(x)
    output = model(x, particles=3)
    torch.testing.assert_close(output["qz"][0].mean.squeeze(1), (x + model.mu) / 2)
    z = output["z"][0]
    posterior = Normal((x + model.mu).unsqueeze(1) / 2, 0.5**0.5).log_prob(z).sum(-1)
    log_px = output["px"].log_prob(x.unsqueeze(1)) + output["pz"][0].log_prob(z) - posterior
    want = MultivariateNormal(model.mu, 2 * torch.eye(4, dtype=x.dtype)).log_prob(x)
    torch.testing.assert_close(log_px, want.unsqueeze(1).expand(-1, 3))


def test_perturbation_is_in_the_order_mu_a_b(x):
    model = GaussianToyVAE(4).double()
    model.set_optimal_parameters(x)
    model.perturb(0.1, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for name in ("mu", "A", "b"):
        want = model.optimum()[name]
        noise = torch.randn(want.shape, generator=generator, dtype=want.dtype)
        torch.testing.assert_close(model.get_parameter(name).data, want + 0.1 * noise)
        assert errors(model, x)[f"mse_{name}"].item() == pytest.approx(0.1 * noise.norm().item())


def test_perturbations_do_not_accumulate(x):
    model = GaussianToyVAE(4).double()
    model.set_optimal_parameters(x)
    optimum = model.optimum()
    model.perturb(0.01, torch.Generator().manual_seed(5))
    once = errors(model, x)
    for epsilon in (10.0, 1.0, 0.01):
        model.perturb(epsilon, torch.Generator().manual_seed(5))
    assert errors(model, x) == once
    assert all(torch.equal(model.optimum()[name], value) for name, value in optimum.items())


def test_training_moves_no_optimum(x):
    """The stored optimum shares no memory with the parameters."""
    model = GaussianToyVAE(4, x_mean=x.mean(0)).double()
    model.set_optimal_parameters(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    got = errors(model, x)
    assert got["mse_mu"].item() == pytest.approx(2.0)
    assert got["mse_b"].item() == pytest.approx(2.0)
    assert got["mse_A"].item() == pytest.approx(4.0)


def test_optimum_is_known_from_the_data_mean(x):
    model = GaussianToyVAE(4, x_mean=x.mean(0)).double()
    got = errors(model, x)
    assert got["mse_mu"].item() == pytest.approx(x.mean(0).norm().item(), rel=1e-6)
    assert got["mse_A"].item() == pytest.approx(1.0)


def test_perturbation_leaves_the_global_random_state(x):
    model = GaussianToyVAE(4).double()
    before = torch.get_rng_state()
    model.perturb(1.0, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
