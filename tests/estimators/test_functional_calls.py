"""``torch.func``: many draws of a gradient at once, and the gradient of each datum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from estimator_cases import EXCLUSIVE, INCLUSIVE, PATHWISE, SCORE, TVO, make
from problems import (
    OneNormal,
    ParticleForm,
    ReadmeForm,
    SmallBeliefNetwork,
    TwoBernoulli,
    exact_bound,
    gradient,
    phi_of,
)
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ovis.analysis.random_inputs import RandomInputs
from ovis.estimators import GradientEstimator
from ovis.models import SigmoidBeliefNetwork


class Step(nn.Module):
    """What is differentiated: the mean loss of a batch."""

    def __init__(self, estimator: GradientEstimator, model: nn.Module):
        super().__init__()
        self.estimator, self.model = estimator, model

    def forward(self, x: Tensor, **overrides: Any) -> Tensor:
        return self.estimator(self.model, x, return_diagnostics=False, **overrides)[0].mean()


def draws(estimator: GradientEstimator, model: nn.Module, x: Tensor, count: int) -> dict[str, Tensor]:
    """``count`` independent gradients to each of the model's parameters."""
    step = Step(estimator, model)
    parameters = {name: item.detach() for name, item in step.named_parameters()}

    def one(index: Tensor) -> dict[str, Tensor]:
        return grad(lambda values: functional_call(step, values, (x,)))(parameters)

    return vmap(one, randomness="different")(torch.arange(count))


@pytest.mark.parametrize("name", ["reinforce", "vimco-geometric", "ovis-gamma0", "ovis-S2", "ovis-S2-exclusive"])
def test_many_draws_have_the_exact_mean(name: str) -> None:
    """Of the package's belief network, within four standard errors of the enumerated gradient."""
    problem = SmallBeliefNetwork()
    estimator, x, count = make(name, iw=3), torch.ones(2, 1, dtype=torch.float64), 4000
    result = draws(estimator, problem.model, x, count)
    phi = torch.cat([item.flatten(1) for name, item in result.items() if "inference_network" in name], 1)
    exact = exact_bound(problem, 1.0, 1 if name == "ovis-S2" else 3).phi
    error = phi.std(0) / count**0.5
    assert (error > 0).all(), "the draws are all the same"
    assert exact.norm() > 4 * error.norm()
    assert ((-phi.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("name", [*SCORE[:1], *SCORE[2:], *EXCLUSIVE, *INCLUSIVE, "wake-wake", "wake-sleep", *TVO])
def test_the_step_of_a_belief_network(name: str) -> None:
    model = SigmoidBeliefNetwork((6,), N=4, depth=3)
    result = draws(make(name, mc=2, iw=3), model, torch.rand(5, 6).round(), 7)
    for key, item in result.items():
        assert item.shape[0] == 7
        assert torch.isfinite(item).all()
        if "inference_network" in key:
            assert not torch.allclose(item[0], item[1])


@pytest.fixture
def _no_validation() -> Iterator[None]:
    """torch's distributions read their arguments to check them, which vmap cannot do."""
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.mark.usefixtures("_no_validation")
@pytest.mark.parametrize("name", ["vimco", "ovis-S1-exclusive", "tvo-part2-config1"])
def test_the_step_of_a_readme_model(name: str) -> None:
    result = draws(make(name, iw=3), ReadmeForm(TwoBernoulli()), torch.ones(2, 1, dtype=torch.float64), 7)
    for key, item in result.items():
        assert torch.isfinite(item).all()
        if "inference_network" in key:
            assert not torch.allclose(item[0], item[1])


@pytest.mark.usefixtures("_no_validation")
@pytest.mark.parametrize("name", PATHWISE)
def test_the_step_of_a_reparameterized_model(name: str) -> None:
    """vmap refuses torch's Normal.rsample, which fills a tensor in place: it is given its noise."""
    step, x = Step(make(name, iw=3), ParticleForm(OneNormal())), torch.ones(2, 1, dtype=torch.float64)
    parameters = {key: item.detach() for key, item in step.named_parameters()}

    def one(noise: Tensor) -> dict[str, Tensor]:
        with RandomInputs([noise]):
            return grad(lambda values: functional_call(step, values, (x,)))(parameters)

    noises = torch.randn(7, 2, 3, dtype=torch.float64)
    result = vmap(one)(noises)
    for row, noise in enumerate(noises):
        for key, item in one(noise).items():
            torch.testing.assert_close(result[key][row], item)


@pytest.mark.usefixtures("_no_validation")
@pytest.mark.parametrize("name", PATHWISE)
def test_grad_equals_backward_through_samples(name: str) -> None:
    """DReG's factor is a hook on z: a transform must not lose it."""
    problem = OneNormal()
    step, x = Step(make(name, iw=3), ParticleForm(problem)), torch.ones(2, 1, dtype=torch.float64)
    parameters = dict(step.named_parameters())
    torch.manual_seed(1)
    functional = grad(lambda values: functional_call(step, values, (x,)))(parameters)
    torch.manual_seed(1)
    step(x).backward()
    for key, item in parameters.items():
        torch.testing.assert_close(functional[key], item.grad)


def test_grad_equals_backward() -> None:
    """The same draws: torch.func.grad against autograd, for every parameter."""
    model = SigmoidBeliefNetwork((6,), N=4, depth=2)
    step, x = Step(make("ovis-gamma1", iw=3), model), torch.rand(5, 6).round()
    parameters = dict(step.named_parameters())
    torch.manual_seed(1)
    functional = grad(lambda values: functional_call(step, values, (x,)))(parameters)
    torch.manual_seed(1)
    step(x).backward()
    for name, item in parameters.items():
        torch.testing.assert_close(functional[name], item.grad)


def test_alpha_may_be_mapped() -> None:
    """One gradient for each alpha, from the same draws."""
    problem = SmallBeliefNetwork()
    step, x = Step(make("ovis-gamma0", iw=3), problem.model), torch.ones(2, 1, dtype=torch.float64)
    parameters = {name: item.detach() for name, item in step.named_parameters()}
    alphas = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)

    def one(alpha: Tensor) -> dict[str, Tensor]:
        return grad(lambda values: functional_call(step, values, (x,), {"alpha": alpha}))(parameters)

    torch.manual_seed(3)
    mapped = vmap(one, randomness="same")(alphas)
    for row, alpha in enumerate(alphas.tolist()):
        torch.manual_seed(3)
        single = gradient(step(x, alpha=alpha), phi_of(problem.model))
        result = torch.cat([item[row].flatten() for name, item in mapped.items() if "inference_network" in name])
        torch.testing.assert_close(result, single)
