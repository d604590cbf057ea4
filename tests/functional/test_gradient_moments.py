"""Means and variances of gradients by enumeration of all draws, against exact values: nothing here is sampled."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ovis.functional import iw_bound, multisample_loss

UNBIASED = ("reinforce", "vimco", "vimco-geometric", "ovis-S", "ovis-gamma0")
BIASED = ("ovis-gamma0.5", "ovis-gamma1", "tvo-part2-config1")


@dataclass
class Enumeration:
    """All draws of K particles from q, a distribution over n states with logits phi [P] -> log q [n]."""

    states: Tensor  # [n^K, K]
    log_q: Tensor  # [n], with a graph to phi
    log_p: Tensor  # [n]
    phi: Tensor  # [P]
    log_q_of: object  # phi [..., P] -> log q [..., n]

    @staticmethod
    def of(phi: list[float], p: list[float], count: int, log_q_of) -> Enumeration:
        phi = torch.tensor(phi, dtype=torch.float64, requires_grad=True)
        states = torch.tensor(list(itertools.product(range(len(p)), repeat=count)))
        return Enumeration(states, log_q_of(phi), torch.tensor(p, dtype=torch.float64).log(), phi, log_q_of)

    def probabilities(self) -> Tensor:
        return self.log_q[self.states].sum(-1).exp()

    def bound(self, alpha: float = 0.0) -> Tensor:
        """L_K, exactly, differentiable in phi."""
        return (self.probabilities() * iw_bound((self.log_p - self.log_q)[self.states], alpha)).sum()

    def bound_gradient(self, alpha: float = 0.0) -> Tensor:
        return torch.autograd.grad(self.bound(alpha), self.phi)[0]

    def draws(self, method: str, alpha: float = 0.0) -> Tensor:
        """The estimate of the bound's gradient from each draw, [n^K, P]."""
        if method != "ovis-S":
            return self.draw(method, alpha, None)
        # infinitely many auxiliary samples: c_k is linear in their mean, which is an expectation under q
        log_w, q = (self.log_p - self.log_q).detach(), self.log_q.detach().exp()
        return sum(q[n] * self.draw("ovis-S1-exclusive", alpha, log_w[n : n + 1]) for n in range(len(q)))

    def draw(self, method: str, alpha: float, aux: Tensor | None) -> Tensor:
        phi = self.phi.detach().repeat(len(self.states), 1).requires_grad_()  # one copy for each draw
        log_q = self.log_q_of(phi).gather(-1, self.states)
        loss = multisample_loss(self.log_p[self.states], log_q, method, alpha, aux)
        return -torch.autograd.grad(loss.sum(), phi)[0]

    def moments(self, method: str, alpha: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean and variance of the estimate, [P] each."""
        draws, weights = self.draws(method, alpha), self.probabilities().detach().unsqueeze(-1)
        mean = (weights * draws).sum(0)
        return mean, (weights * (draws - mean).square()).sum(0)


def bernoulli(count: int) -> Enumeration:
    """One Bernoulli variable, logit -0.4, p(x, z=0) = 0.1, p(x, z=1) = 0.3."""
    log_sigmoid = torch.nn.functional.logsigmoid
    return Enumeration.of([-0.4], [0.1, 0.3], count, lambda f: torch.cat([log_sigmoid(-f), log_sigmoid(f)], -1))


def categorical(count: int) -> Enumeration:
    """A rare event: p = (.95, .01 x 5) against a q that is nearly uniform."""
    return Enumeration.of([0.2, 0.0, -0.1, 0.3, 0.1, 0.0], [0.95, *[0.01] * 5], count, lambda phi: phi.log_softmax(-1))


def two_layers(count: int) -> Enumeration:
    """Two layers of one Bernoulli variable: z2 ~ q(z2), z1 ~ q(z1 | z2); state 2 z2 + z1."""

    def log_q_of(phi):
        upper = torch.nn.functional.logsigmoid(torch.stack([-phi[..., 0], phi[..., 0]], -1))
        logit = torch.stack([phi[..., 1], phi[..., 1] + phi[..., 2]], -1)
        lower = torch.nn.functional.logsigmoid(torch.stack([-logit, logit], -1))
        return (upper.unsqueeze(-1) + lower).flatten(-2)

    return Enumeration.of([0.3, -0.5, 1.0], [0.1, 0.02, 0.05, 0.4], count, log_q_of)


#: K, alpha -> L_K, dL/dlogit, the variances in the order of COLUMNS
TABLE = {
    (2, 0.0): (-1.0642675237, 0.2320088126, 1.45742873, 0.13252962, 0.13252962, 0.00278463, 0.09380782),
    (3, 0.0): (-1.0138559227, 0.1606030978, 1.73129488, 0.09470876, 0.07118854, 0.00204798, 0.01929858),
}
COLUMNS = ("reinforce", "vimco", "vimco-geometric", "ovis-S", "ovis-gamma0")


def to_digits(value: Tensor, digits: int) -> float:
    return round(value.item(), digits)


@pytest.mark.parametrize("count", [2, 3])
def test_table_of_one_bernoulli_to_all_printed_digits(count):
    model, (bound, gradient, *variances) = bernoulli(count), TABLE[count, 0.0]
    assert to_digits(model.bound(), 10) == bound
    assert to_digits(model.bound_gradient(), 10) == gradient
    for method, variance in zip(COLUMNS, variances, strict=True):
        mean, result = model.moments(method)
        assert to_digits(mean, 10) == gradient, method
        assert to_digits(result, 8) == variance, method


@pytest.mark.parametrize(("count", "gamma1", "wake"), [(2, 0.38451068, 0.15250186), (3, 0.38235719, 0.22175409)])
def test_the_bias_of_gamma_one_is_exactly_the_wake_phi_gradient(count, gamma1, wake):
    model = bernoulli(count)
    means = [model.moments(method)[0] for method in ("ovis-gamma1", "rws")]
    assert [to_digits(mean, 8) for mean in means] == [gamma1, wake]
    torch.testing.assert_close(means[0] - model.bound_gradient(), means[1], rtol=0, atol=1e-15)


def test_row_of_alpha_in_the_table_to_all_printed_digits():
    model = bernoulli(3)
    mean, variance = model.moments("ovis-gamma0", 0.3)
    assert to_digits(model.bound(0.3), 10) == -1.0633374445
    assert to_digits(model.bound_gradient(0.3), 10) == 0.2150152112
    assert to_digits(mean, 10) == 0.2150152112
    assert to_digits(variance, 8) == 0.02786063


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(("model", "count"), [(bernoulli, 4), (two_layers, 2), (two_layers, 3), (categorical, 3)])
@pytest.mark.parametrize("method", UNBIASED)
def test_the_unbiased_methods_have_the_bounds_gradient_as_their_mean(method, model, count, alpha):
    model = model(count)
    torch.testing.assert_close(model.moments(method, alpha)[0], model.bound_gradient(alpha), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("model", "count"), [(bernoulli, 4), (two_layers, 3), (categorical, 3)])
@pytest.mark.parametrize("method", [*BIASED, "rws"])
def test_the_biased_methods_do_not(method, model, count):
    model = model(count)
    assert (model.moments(method)[0] - model.bound_gradient()).abs().max() > 0.01


@pytest.mark.parametrize(("model", "count"), [(two_layers, 3), (categorical, 3)])
@pytest.mark.parametrize("gamma", [0.25, 1.0])
def test_the_bias_of_gamma_is_gamma_times_the_wake_phi_gradient(gamma, model, count):
    model = model(count)
    bias = model.moments(f"ovis-gamma{gamma}")[0] - model.bound_gradient()
    torch.testing.assert_close(bias, gamma * model.moments("rws")[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_within_a_budget_phi_follows_the_bound_of_the_particles_that_are_left(alpha):
    mean, _ = bernoulli(4).moments("ovis-S1", alpha)
    torch.testing.assert_close(mean, bernoulli(3).bound_gradient(alpha), rtol=1e-12, atol=1e-14)
    assert (mean - bernoulli(4).bound_gradient(alpha)).abs() > 0.01


def test_a_few_auxiliary_samples_cost_variance_and_no_bias():
    model = bernoulli(2)
    log_w, q = (model.log_p - model.log_q).detach(), model.log_q.detach().exp()
    weights = model.probabilities().detach().unsqueeze(-1)
    by_aux = [model.draw("ovis-S1-exclusive", 0.0, log_w[n : n + 1]) for n in range(2)]
    mean = sum(q[n] * (weights * by_aux[n]).sum(0) for n in range(2))
    second = sum(q[n] * (weights * by_aux[n].square()).sum(0) for n in range(2))
    torch.testing.assert_close(mean, model.bound_gradient(), rtol=1e-12, atol=0)
    assert second - mean**2 > model.moments("ovis-S")[1]


def test_the_reference_codes_unscaled_logarithm_is_biased_at_alpha():
    """Without the division by 1 - alpha, gamma = 0 is not unbiased, so the library uses the corrected form."""
    model, alpha = bernoulli(3), 0.3
    v = ((1 - alpha) * (model.log_p - model.log_q).detach()[model.states]).softmax(-1)
    unscaled = -torch.log1p(-v) - v
    h = model.states - model.phi.detach().sigmoid()
    mean = (model.probabilities().detach() * (unscaled * h).sum(-1)).sum()
    assert (mean - 0.2150152112).abs() > 0.05
