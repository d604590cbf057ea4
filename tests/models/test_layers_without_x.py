"""Layers of q without x, and priors of few dimensions, in a ``Model``: right, or refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

import ovis
from ovis.analysis.enumeration import exact_gradient, exact_moments
from ovis.functional.log_weights import iw_bound

B, D = 3, 3  # with as many particles, every broadcasting mistake has shapes that fit


class WithoutX(ovis.Model):
    """q(z) and p(z) of parameters [D]; ``q`` and ``prior`` make the distributions of them."""

    def __init__(self, q: Callable[[Tensor, Tensor], Distribution], prior: Callable[[Tensor], Distribution]):
        super().__init__()
        self.inference_network = nn.Parameter(torch.tensor([0.3, -1.0, 0.6], dtype=torch.float64))
        self.prior = nn.Parameter(torch.tensor([-0.2, 0.5, 0.1], dtype=torch.float64))
        self.decoder = nn.Linear(D, 4).double()
        self.make_q, self.make_prior = q, prior

    def q(self, h: Any) -> Any:
        return self.make_q(self.inference_network, h)

    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z)), self.make_prior(self.prior)


ACCEPTED: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "expanded": lambda phi, h: Bernoulli(logits=phi.expand(*h.shape[:-1], -1)),
    "[1, 1, D]": lambda phi, h: Bernoulli(logits=phi[None, None]),
    "event of [1, 1]": lambda phi, h: Independent(Bernoulli(logits=phi[None, None]), 1),
}
REFUSED: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "[D]": lambda phi, h: Bernoulli(logits=phi),
    "[1, D]": lambda phi, h: Bernoulli(logits=phi[None]),
    "event": lambda phi, h: Independent(Bernoulli(logits=phi), 1),
}
PRIORS: dict[str, Callable[[Tensor], Distribution]] = {
    "[D]": lambda logits: Bernoulli(logits=logits),
    "[1, D]": lambda logits: Bernoulli(logits=logits[None]),
    "[1, 1, D]": lambda logits: Bernoulli(logits=logits[None, None]),
    "event": lambda logits: Independent(Bernoulli(logits=logits), 1),
}
X = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0.0]], dtype=torch.float64)


def log_weights(model: WithoutX, z: Tensor) -> Tensor:
    """log w of samples [B, N, D], one by one."""

    def log_bernoulli(value: Tensor, logits: Tensor) -> Tensor:
        return (value * logits - logits.exp().log1p()).sum()

    weights = [
        log_bernoulli(X[b], model.decoder(z[b, n]))
        + log_bernoulli(z[b, n], model.prior)
        - log_bernoulli(z[b, n], model.inference_network)
        for b in range(B)
        for n in range(z.shape[1])
    ]
    return torch.stack(weights).view(z.shape[:2])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("q", ACCEPTED)
def test_the_weights_are_those_of_each_particle_by_itself(q: str, prior: str) -> None:
    model = WithoutX(ACCEPTED[q], PRIORS[prior])
    for K in (2, B):
        loss, _, output = ovis.estimator("reinforce", iw=K)(model, X)
        assert output["z"][0].shape == (B, K, D)
        torch.testing.assert_close(-loss, iw_bound(log_weights(model, output["z"][0])))


@pytest.mark.parametrize("name", ["vimco", "ovis-gamma0"])
def test_the_gradient_is_the_exact_one(name: str) -> None:
    model = WithoutX(ACCEPTED["expanded"], PRIORS["[D]"])
    exact = exact_gradient(model, X, iw=2)
    assert exact.norm() > 0.01
    torch.testing.assert_close(exact_moments(ovis.estimator(name, iw=2), model, X).mean, exact)


@pytest.mark.parametrize("q", REFUSED)
def test_a_q_without_rows_is_refused_with_the_remedy(q: str) -> None:
    model = WithoutX(REFUSED[q], PRIORS["[D]"])
    for K in (2, B):
        with pytest.raises(
            ValueError, match=r"layer 0 \(\w+\) has batch shape .*expand it, as in loc.expand\("
        ) as raised:
            ovis.estimator("reinforce", iw=K)(model, X)
        assert "\n" not in str(raised.value)
        (problem,) = ovis.check_model(model, X).problems
        assert problem.startswith("the model can't be run: WithoutX.q: layer 0")


def test_a_single_datum_is_a_row() -> None:
    model = WithoutX(ACCEPTED["[1, 1, D]"], PRIORS["[D]"])
    loss, _, _ = ovis.estimator("reinforce", iw=4)(model, X[:1])
    assert loss.shape == (1,)
