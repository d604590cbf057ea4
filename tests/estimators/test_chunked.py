"""Constant memory in K: the gradient of several chunks is that of one, for the same particles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chunked_reference import both_ways, close
from estimator_cases import ALL, EXCLUSIVE, PATHWISE, make
from problems import OneNormal, ReadmeFormGivenZ, TwoBernoulli
from torch import Tensor, nn

from ovis.estimators import GradientEstimator
from ovis.models import GaussianMixture, GaussianVAE, SigmoidBeliefNetwork

B, K = 5, 7


def build(name: str, inputs: int = 6, **settings: Any) -> GradientEstimator:
    if name == "reinforce-baseline":
        settings["baseline"] = nn.Sequential(nn.Linear(inputs, 1, dtype=torch.float64), nn.Flatten(0))
    return make(name, **settings)


def auxiliary(name: str) -> int:
    return EXCLUSIVE.get(name, 0)


def images(count: int = B, pixels: int = 6) -> Tensor:
    return (torch.rand(count, pixels, dtype=torch.float64) < 0.4).double()


def belief_network() -> nn.Module:
    return SigmoidBeliefNetwork((6,), N=4, depth=2).double()


@pytest.mark.parametrize("size", [1, 3, K, K + 5])
@pytest.mark.parametrize("name", [name for name in ALL if name not in PATHWISE])
def test_belief_network(name: str, size: int) -> None:
    torch.manual_seed(3)
    estimator, model, x = build(name, iw=K), belief_network(), images().requires_grad_()
    close(*both_ways(estimator, model, x, size, 2, auxiliary(name)))


@pytest.mark.parametrize("size", [1, 3, K, K + 5])
@pytest.mark.parametrize("name", ALL)
def test_gaussian_variables(name: str, size: int) -> None:
    torch.manual_seed(3)
    estimator, model = build(name, iw=K), GaussianVAE((6,), N=4, hdim=5, nlayers=1).double()
    close(*both_ways(estimator, model, images().requires_grad_(), size, 1, auxiliary(name)))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_models_that_take_x_repeated_and_copies_of_the_bound(name: str, size: int) -> None:
    torch.manual_seed(3)
    model = ReadmeFormGivenZ(OneNormal() if name in PATHWISE else TwoBernoulli())
    x = (torch.arange(B, dtype=torch.float64) % 2).unsqueeze(-1).requires_grad_()
    estimator = build(name, 1, mc=2, iw=K)
    close(*both_ways(estimator, model, x, size, model.problem.depth, auxiliary(name)))


@pytest.mark.parametrize("name", [name for name in ALL if name not in PATHWISE])
def test_gaussian_mixture(name: str) -> None:
    torch.manual_seed(3)
    model, x = GaussianMixture(N=4).double(), 20 * torch.rand(B, 1, dtype=torch.float64)
    close(*both_ways(build(name, 1, mc=2, iw=K), model, x, 3, 1, auxiliary(name)))
