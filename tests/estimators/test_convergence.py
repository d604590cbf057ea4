"""Training reaches the optimum that enumeration knows, from a start that is far from it."""

from __future__ import annotations

import math

import pytest
import torch
from estimator_cases import make
from problems import OneBernoulli, ParticleForm, Problem, exact_bound, exact_evidence
from slow_cases import slow_except
from torch import Tensor, nn

#: the share of x = 1 among the data
SHARE = 0.7


def batch(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) < SHARE * count).double().unsqueeze(-1)


class NoGradient(nn.Module):
    """The negative control: an estimator with the right value and no gradient at all."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args: object) -> tuple[Tensor, object, object]:
        loss, diagnostics, output = self.inner(*args)
        return loss.detach() + 0.0 * loss, diagnostics, output


def train(estimator: nn.Module, problem: Problem, parameters: list[nn.Parameter], steps: int = 400) -> None:
    """Adam with a falling rate, 400 data a step."""
    torch.manual_seed(0)
    model, x = ParticleForm(problem), batch(400)
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 if step < steps // 2 else 0.05 * 0.02 ** (2 * step / steps - 1)
        optimizer.zero_grad()
        estimator(model, x)[0].mean().backward()
        optimizer.step()


IDS = [
    "vimco-arithmetic",
    "vimco-geometric",
    "ovis-gamma0",
    "ovis-gamma1",
    "ovis-S1-exclusive",
    "ovis-S2",
    "wake-wake",
    "wake-sleep",
    "tvo-part2-config1",
]


def distance_of_the_model(problem: Problem) -> tuple[float, float]:
    """To the largest possible mean log-likelihood, - H(share); and the largest error of q(z|x)."""
    best = SHARE * math.log(SHARE) + (1 - SHARE) * math.log(1 - SHARE)
    errors = []
    for x in (0.0, 1.0):
        densities = problem.log_densities(torch.tensor([x], dtype=torch.float64))
        posterior = (densities.px + densities.pz.sum(-1)).softmax(0)
        errors.append((densities.log_probability.exp() - posterior).abs().max().item())
    likelihood = (1 - SHARE) * exact_evidence(problem, 0.0) + SHARE * exact_evidence(problem, 1.0)
    return best - likelihood, max(errors)


def far_start() -> Problem:
    problem = OneBernoulli()
    with torch.no_grad():
        problem.prior_logits.fill_(-1.0)
        problem.inference_network.bias.fill_(2.0)
        problem.generative_model.bias.fill_(-1.5)
    return problem


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", slow_except(["ovis-gamma1"], IDS))
def test_model_and_inference_network_reach_the_optimum(name: str, control: bool) -> None:
    problem = far_start()
    gap, error = distance_of_the_model(problem)
    assert gap > 0.2
    assert error > 0.4
    estimator = make(name, iw=4)
    train(NoGradient(estimator) if control else estimator, problem, list(problem.parameters()), 1 if control else 400)
    arrived = distance_of_the_model(problem)
    reached = arrived[0] < 0.002 and arrived[1] < 0.03
    assert reached is not control, arrived


def tied_start() -> Problem:
    """One q for all x: it cannot be the posterior, so where training ends depends on what is followed."""
    problem = OneBernoulli()
    with torch.no_grad():
        problem.inference_network.weight.zero_()
        problem.inference_network.bias.fill_(-3.0)
        problem.generative_model.weight.fill_(4.0)
        problem.generative_model.bias.fill_(-2.0)
    return problem


def fixed_point(unbiased: float, wake: float) -> float:
    """The bias of q where ``unbiased`` grad L_2 + ``wake`` E sum_k v_k h_k vanishes, exact, by bisection."""
    problem = tied_start()
    low, high = -6.0, 6.0
    while high - low > 1e-6:
        with torch.no_grad():
            problem.inference_network.bias.fill_((low + high) / 2)
        exact = [exact_bound(problem, x, 2) for x in (0.0, 1.0)]
        slopes = [(unbiased * item.phi[1] + wake * item.wake_phi[1]).item() for item in exact]
        if (1 - SHARE) * slopes[0] + SHARE * slopes[1] > 0:
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    return low


def test_the_fixed_point_of_the_bound_is_its_maximum() -> None:
    problem = tied_start()

    def value(bias: float) -> float:
        with torch.no_grad():
            problem.inference_network.bias.fill_(bias)
        return (1 - SHARE) * exact_bound(problem, 0.0, 2).bound + SHARE * exact_bound(problem, 1.0, 2).bound

    best = fixed_point(1, 0)
    assert value(best) > max(value(best - 0.05), value(best + 0.05), value(-3.0) + 0.1)


@pytest.mark.parametrize(
    ("name", "direction"),
    slow_except(
        [("vimco-arithmetic", (1, 0))],
        [
            ("vimco-arithmetic", (1, 0)),
            ("vimco-geometric", (1, 0)),
            ("ovis-gamma0", (1, 0)),
            ("ovis-S2-exclusive", (1, 0)),
            ("ovis-gamma1", (1, 1)),
            ("wake-wake", (0, 1)),
        ],
    ),
)
def test_each_ends_where_its_expected_gradient_vanishes(name: str, direction: tuple[int, int]) -> None:
    """The unbiased ones at the optimum of the bound, the biased ones elsewhere, as exactly computed."""
    end, best = fixed_point(*direction), fixed_point(1, 0)
    problem = tied_start()
    bias = problem.inference_network.bias
    assert abs(bias.item() - end) > 3
    assert (abs(end - best) > 0.15) is (direction != (1, 0))
    train(make(name, iw=2), problem, [bias])
    assert bias.item() == pytest.approx(end, abs=0.05)
