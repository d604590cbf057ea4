"""The sleep phase: E[grad_phi] = grad_phi E_p(x, z) log q(z|x) = - grad_phi E_p(x) KL(p(z|x) || q(z|x))."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from estimator_cases import make
from problems import (
    DISCRETE,
    OneBernoulli,
    OneNormal,
    ParticleForm,
    Problem,
    ReadmeForm,
    ReadmeFormGivenZ,
    SmallBeliefNetwork,
    TwoBernoulli,
    all_tuples,
    exact_bound,
    gradient,
    phi_of,
    scripted,
    theta_of,
)
from torch import Tensor, nn

from ovis.models import SigmoidBeliefNetwork

X = torch.tensor([[0.0], [1.0]], dtype=torch.float64)


def sleep_gradient(problem: Problem) -> tuple[Tensor, float]:
    """grad_phi of sum_x,z p(x, z) log q(z|x), and E_p(x) KL(p(z|x) || q(z|x)) from its definition."""
    total, divergence = torch.zeros(()).double(), 0.0
    for x in X:
        densities = problem.log_densities(x)
        log_joint = (densities.px + densities.pz.sum(-1)).detach()
        log_q = densities.qz.sum(-1)
        total = total + (log_joint.exp() * log_q).sum()
        posterior = log_joint - log_joint.logsumexp(0)
        divergence += (log_joint.exp() * (posterior - log_q.detach())).sum().item()
    return gradient(total, phi_of(problem)), divergence


def expected_sleep(model: nn.Module, problem: Problem, top_first: bool = True) -> tuple[Tensor, Tensor]:
    """One dream for each datum, every (x, z) once, weighted by p(x, z); the particles are z = 0."""
    states, _ = problem.states()
    count = len(states[0])
    dream_x = X.repeat(1, count).view(-1, 1)
    dream_z = [state.repeat(2, *[1] * (state.dim() - 1)) for state in states]
    weights = torch.cat([(d := problem.log_densities(x)).px + d.pz.sum(-1) for x in X]).exp().detach()
    assert weights.sum().item() == pytest.approx(1)
    particles = [torch.zeros_like(z) for z in dream_z]
    with scripted([*particles, *reversed(dream_z), dream_x]):
        loss, _, _ = make("wake-sleep", iw=1)(model, torch.ones(2 * count, 1, dtype=torch.float64))
    total = (weights * loss).sum()
    return gradient(-total, phi_of(model)), gradient(-total, theta_of(model))


@pytest.mark.parametrize("form", [ParticleForm, ReadmeFormGivenZ])
@pytest.mark.parametrize("problem", DISCRETE)
def test_expected_gradient(problem: str, form: Any) -> None:
    made = DISCRETE[problem]()
    phi, _ = expected_sleep(form(made), made)
    exact, divergence = sleep_gradient(made)
    assert divergence > 0.005
    assert exact.norm() > 0.01
    torch.testing.assert_close(phi, exact, rtol=0, atol=1e-12)
    assert (phi - exact_bound(made, 1.0, 1).phi).norm() > 0.01, "it is not the gradient of the bound"


def test_expected_gradient_of_the_belief_network() -> None:
    problem = SmallBeliefNetwork()
    phi, _ = expected_sleep(problem.model, problem)
    torch.testing.assert_close(phi, sleep_gradient(problem)[0], rtol=0, atol=1e-12)


def test_it_is_minus_the_gradient_of_the_divergence() -> None:
    """By finite differences of the divergence itself."""
    problem = OneBernoulli()
    phi, _ = expected_sleep(ParticleForm(problem), problem)
    for index, item in enumerate(phi_of(problem)):
        with torch.no_grad():
            item.add_(1e-5)
        above = sleep_gradient(problem)[1]
        with torch.no_grad():
            item.sub_(2e-5)
        below = sleep_gradient(problem)[1]
        with torch.no_grad():
            item.add_(1e-5)
        assert -(above - below) / 2e-5 == pytest.approx(phi[index].item(), abs=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("problem", DISCRETE)
def test_theta_follows_the_bound_and_dreams_leave_it_alone(problem: str, alpha: float) -> None:
    """All tuples of two particles; the sleep samples are z = 0, x = 0, on which theta must not depend."""
    made = DISCRETE[problem]()
    states, _ = made.states()
    probability = made.log_densities(X[1]).log_probability.detach()
    index = all_tuples(len(probability), 2)
    particles = [state[index] for state in states]
    dreams = [torch.zeros_like(item) for item in particles]
    dream_x = torch.zeros(index.numel(), 1, dtype=torch.float64)
    model = ParticleForm(made)
    with scripted([*particles, *reversed(dreams), dream_x]):
        loss, _, _ = make("wake-sleep", iw=2, alpha=alpha)(model, X[1:].expand(len(index), 1))
    total = (probability[index].sum(-1).exp() * loss).sum()
    exact = exact_bound(made, 1.0, 2, alpha)
    assert total.item() == pytest.approx(-exact.bound, abs=1e-12)
    torch.testing.assert_close(gradient(-total, theta_of(model)), exact.theta, rtol=0, atol=1e-12)


def test_dreams_carry_no_gradient_to_theta_even_where_the_prior_is_reparameterized() -> None:
    class Reparameterized(ReadmeFormGivenZ):
        def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
            z = [self.problem.prior(0, []).expand((bs, 1)).rsample()]
            assert not z[0].requires_grad
            return {"px": self.problem.likelihood(z), "z": z, "pz": []}

    problem = OneNormal()
    loss, _, _ = make("wake-sleep", iw=2)(Reparameterized(problem), torch.ones(4, 1, dtype=torch.float64))
    assert gradient(loss.sum(), phi_of(problem)).abs().min() > 0


def test_as_many_dreams_as_particles() -> None:
    """And their loss is the mean: the gradient of B losses' mean is that of the mean over B M K dreams."""
    problem = OneBernoulli()
    dreams = (torch.arange(24, dtype=torch.float64) % 2).view(24, 1)
    with scripted([torch.zeros(24), dreams, torch.ones(24)]):
        loss, _, _ = make("wake-sleep", mc=2, iw=3)(ParticleForm(problem), torch.ones(4, 1, dtype=torch.float64))
    densities = problem.log_densities(X[1])
    expected = -densities.qz.mean()  # half of the dreams are 0, half are 1
    torch.testing.assert_close(
        gradient(loss.mean(), phi_of(problem)), gradient(expected, phi_of(problem)), rtol=0, atol=1e-14
    )


def test_a_hierarchy_of_images() -> None:
    model = SigmoidBeliefNetwork((1, 3, 4), N=5, depth=3)
    loss, _, _ = make("wake-sleep", iw=3)(model, torch.rand(6, 1, 3, 4).round(), backward=True)
    assert loss.shape == (6,)
    for item in model.parameters():
        assert item.grad is not None
        assert item.grad.abs().sum() > 0


def test_one_layer_is_scored_without_the_keyword_z() -> None:
    """q(z|x) of a single layer does not depend on the samples, so a plain ``Template`` supports the sleep phase."""
    problem = OneBernoulli()
    losses = []
    for form in (ReadmeForm, ReadmeFormGivenZ):
        torch.manual_seed(3)
        loss, _, _ = make("wake-sleep", iw=2)(form(problem), X)
        losses.append(gradient(loss.sum(), phi_of(problem)))
    assert losses[0].abs().min() > 0
    torch.testing.assert_close(losses[0], losses[1])


def test_a_hierarchy_that_cannot_score_given_samples_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"wake-sleep scores given samples: ReadmeForm\.forward must take the keyword z"
    ):
        make("wake-sleep", iw=2)(ReadmeForm(TwoBernoulli()), X)


def test_a_model_that_cannot_dream_is_refused() -> None:
    class NoPrior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ReadmeFormGivenZ(OneBernoulli())

        def forward(self, x: Tensor, z: Any = None) -> Any:
            return self.inner(x, z=z)

    with pytest.raises(ValueError, match="NoPrior has no sample_from_prior"):
        make("wake-sleep", iw=2)(NoPrior(), X)


def test_a_model_that_ignores_the_given_samples_is_refused() -> None:
    class Deaf(ReadmeFormGivenZ):
        def forward(self, x: Tensor, zgrads: bool = False, z: Any = None, **kwargs: Any) -> Any:
            return super().forward(x, zgrads)

    with pytest.raises(ValueError, match=r"Deaf\.forward was given z"):
        make("wake-sleep", iw=2)(Deaf(OneBernoulli()), X)


@pytest.mark.parametrize("wake", [0, 0.4, 1])
def test_a_mixture_of_wake_and_sleep(wake: float) -> None:
    """On the same draws it is the mixture of both gradients; at the ends, one of them to the bit."""

    def gradient_of(name: str) -> Tensor:
        model = ReadmeFormGivenZ(TwoBernoulli())
        torch.manual_seed(0)
        loss, _, _ = make(name, iw=3, mc=2, alpha=0.3)(model, X)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss.mean(), list(model.parameters()))])

    mixed, awake, asleep = map(gradient_of, (f"wake-mix{wake}", "wake-wake", "wake-sleep"))
    assert (awake - asleep).norm() > 0.01
    torch.testing.assert_close(mixed, wake * awake + (1 - wake) * asleep, rtol=0, atol=1e-12)
    if wake in (0, 1):
        assert torch.equal(mixed, awake if wake else asleep)
