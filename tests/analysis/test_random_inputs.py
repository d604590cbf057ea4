"""Random functions, one by one: numbered by datum, of the right law, and refused where they are neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta, Binomial, Cauchy, Dirichlet, Gamma, Geometric, LogNormal, Poisson, StudentT
from torch.nn import functional as F

from ovis.analysis.gradient_samples import ParameterGradientSampler
from ovis.analysis.gradients import get_gradients_statistics
from ovis.analysis.random_inputs import RandomInputs, make_random_inputs, record_random_inputs
from ovis.estimators import GradientEstimator, get_config
from ovis.models import Template

ROWS = 2000

#: Samples [n, 3] for x [n, 3] of ones, and their mean; Cauchy: of its distribution function.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "gamma": (lambda x: Gamma(3 * x, 2 * x).sample(), 1.5),
    "beta": (lambda x: Beta(x, 3 * x).sample(), 0.25),
    "dirichlet": (lambda x: Dirichlet(x).sample(), 1 / 3),
    "poisson": (lambda x: Poisson(2.5 * x).sample(), 2.5),
    "student": (lambda x: StudentT(8 * x).sample(), 0.0),
    "binomial": (lambda x: Binomial(5, 0.3 * x).sample(), 1.5),
    "cauchy": (lambda x: Cauchy(x, x).cdf(Cauchy(x, x).sample()), 0.5),
    "geometric": (lambda x: Geometric(0.25 * x).sample(), 3.0),
    "geometric in place": (lambda x: torch.empty_like(x).geometric_(0.25), 4.0),
    "log-normal": (lambda x: LogNormal(0 * x, 0.5 * x).sample(), 2.718281828**0.125),
    "log-normal in place": (lambda x: torch.empty_like(x).log_normal_(0.0, 0.5), 2.718281828**0.125),
    "bernoulli in place": (lambda x: torch.empty_like(x).bernoulli_(0.3), 0.3),
    "exponential in place": (lambda x: torch.empty_like(x).exponential_(lambd=2.0), 0.5),
    "dropout": (lambda x: nn.Dropout(0.25).train()(x), 1.0),
    "gumbel-softmax": (lambda x: F.gumbel_softmax(x, hard=True)[:, :1].expand(-1, 3), 1 / 3),
    "uniform by a statement": (lambda x: [t := torch.zeros_like(x), t.uniform_()][0], 0.5),
}


def run(function: Callable[[Tensor], Tensor], rows: range, seed: int = 3) -> Tensor:
    requests, _ = record_random_inputs(lambda: function(torch.ones(1, 3)))
    with RandomInputs(make_random_inputs(requests, rows, torch.device("cpu"), seed, 0)):
        return function(torch.ones(len(rows), 3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_random_numbers_are_those_of_their_row_and_of_the_right_law(name: str) -> None:
    function, mean = FUNCTIONS[name]
    state = torch.get_rng_state()
    whole = run(function, range(ROWS))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(run(function, range(7, 10)), whole[7:10])
    assert not torch.equal(run(function, range(ROWS), seed=4), whole)
    found = whole.mean(1)
    assert found.mean().item() == pytest.approx(mean, abs=4 * found.std().item() / ROWS**0.5 + 1e-6)


class Drawn(Template):
    """q = Gamma of a learned shape; a layer of the caller's choice behind it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.inference_network = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
        self.layer = layer

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        q = Gamma(self.inference_network.exp().expand(len(x), 1), torch.ones_like(x))
        z = q.rsample() if zgrads else q.sample()
        p = Gamma(torch.ones_like(x), torch.ones_like(x))
        return {"px": Poisson(self.layer(z) + 0.1), "z": [z], "qz": [q], "pz": [p]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


def make(name: str, **settings: Any) -> dict[str, GradientEstimator]:
    Estimator, config = get_config(name)
    return {name: Estimator(**settings, **config)}


@pytest.mark.parametrize("name", ["vimco", "iwae"])
def test_draws_of_a_gamma_do_not_depend_on_their_grouping(name: str) -> None:
    model, x = Drawn(nn.Dropout(0.5)).train(), torch.ones(3, 1, dtype=torch.float64)
    whole = torch.cat(list(ParameterGradientSampler(make(name, iw=4), model, x, seed=3)(0, 5)))
    assert (whole.std(0) > 0).all()
    torch.manual_seed(11)
    parts = torch.cat(list(ParameterGradientSampler(make(name, iw=4), model, x, seed=3, samples_per_batch=4)(0, 5)))
    torch.testing.assert_close(parts, whole)


def test_numbers_that_can_not_be_numbered_are_refused() -> None:
    x, (estimator,) = torch.ones(3, 1, dtype=torch.float64), make("vimco", iw=4).values()
    model = Drawn(nn.Dropout1d(0.5)).train()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"dropout1d draws random numbers that can't be numbered.*model.eval\(\)"):
        get_gradients_statistics(estimator, model, x, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    get_gradients_statistics(estimator, model.eval(), x, 5, seed=1)
    with pytest.raises(ValueError, match="randperm draws"):
        record_random_inputs(lambda: torch.randperm(4))


def test_a_tensor_that_vmap_can_not_fill_holds_no_number() -> None:
    def statement(noise: Tensor) -> Tensor:
        tensor = torch.zeros(2)
        with RandomInputs([noise]):
            tensor.normal_()
        return tensor * 1.0

    assert torch.vmap(statement)(torch.randn(3, 1, 2)).isnan().all()
    given = torch.randn(1, 2)
    assert torch.equal(statement(given), given[0])
