"""Active units on a network of which the posterior means are known."""

import pytest
import torch

from ovis.analysis.active_units import active_units
from ovis.models import GaussianMixture, SigmoidBeliefNetwork


@pytest.fixture
def model():
    """Two units of the first layer follow the first pixel, and one of the second follows one of those."""
    model = SigmoidBeliefNetwork((4,), N=6, depth=2)
    with torch.no_grad():
        for layer in model.inference_network:
            layer[0].weight.zero_()
            layer[0].bias.zero_()
        first, second = (layer[0] for layer in model.inference_network)
        first.weight[:2, 0] = 20.0
        first.bias[:2] = -10.0
        second.weight[0, 0] = 20.0
    return model


@pytest.fixture
def x():
    x = torch.zeros(50, 4)
    x[:25, 0] = 1
    return x


@pytest.mark.parametrize("max_rows", [200, 2000, 10**6])
def test_counts_the_units_that_depend_on_the_datum(model, x, max_rows):
    counts = active_units(model, x, mc_samples=200, max_rows=max_rows)["active_units"]
    assert {name: int(value) for name, value in counts.items()} == {"au": 3, "au_1": 2, "au_2": 1}


def test_a_mixture_has_active_classes():
    """Two of four classes share the data between them."""
    model, x = GaussianMixture(N=4), torch.linspace(-1, 1, 20).unsqueeze(1)
    with torch.no_grad():
        for p in model.phi.parameters():
            p.zero_()
        model.phi[0].weight[0] = 5.0
        model.phi[-1].weight[0, 0] = 5.0
        model.phi[-1].weight[1, 0] = -5.0
        model.phi[-1].bias[2:] = -20.0
    assert int(active_units(model, x, mc_samples=10)["active_units"]["au"]) == 2


def test_noise_of_the_samples_activates_nothing():
    """A unit of probability 1/2 that x does not move has a sample mean of variance .25/20, far above the threshold."""
    model = SigmoidBeliefNetwork((4,), N=50, depth=2)
    with torch.no_grad():
        model.inference_network[0][0].weight.zero_()
        model.inference_network[1][0].weight.fill_(0.3)
    assert int(active_units(model, (torch.rand(400, 4) < 0.5).float(), mc_samples=20)["active_units"]["au"]) == 0


def test_what_has_no_active_units_is_refused():
    model = SigmoidBeliefNetwork((4,), N=2, depth=1)
    with pytest.raises(ValueError, match="got 1 and 10"):
        active_units(model, torch.ones(1, 4), 10)
    with pytest.raises(ValueError, match="got 3 and 0"):
        active_units(model, torch.ones(3, 4), 0)
    with pytest.raises(ValueError, match="Linear is no Model"):
        active_units(torch.nn.Linear(4, 2), torch.ones(3, 4))
