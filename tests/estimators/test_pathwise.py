"""VAE, IWAE, STL and DReG on Gaussian problems: against quadrature, the score form, and closed forms."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
from estimator_cases import PATHWISE, SCORE, make
from problems import (
    FORMS,
    BernoulliNormal,
    OneNormal,
    ParticleForm,
    ReadmeForm,
    exact_bound,
    exact_evidence,
    expectation,
    expectation_reparameterized,
    gradient,
    phi_of,
    theta_of,
)
from slow_cases import slow_except
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from ovis.models import Template

X = 1.1
#: of the sums over 40 nodes, see test_the_quadrature_has_converged
QUADRATURE = 1e-9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("objective", [{}, {"beta": 0.6}])
@pytest.mark.parametrize(
    ("name", "alpha"),
    [("pathwise-vae", None), *((name, alpha) for name in ("pathwise-iwae", "stl", "dreg") for alpha in (0.0, 0.3))],
)
def test_expected_gradient(name: str, alpha: float | None, objective: dict[str, float], form: str) -> None:
    """To phi, the scale of q included, and to theta. STL leaves out - beta sum_k v_k h_k, and has just that bias."""
    objective = objective if alpha is None else {**objective, "alpha": alpha}
    problem = OneNormal()
    estimator = make(name, iw=2, **objective)
    result = expectation_reparameterized(estimator, FORMS[form](problem), X)
    exact = exact_bound(problem, X, 1 if name == "pathwise-vae" else 2, **objective)
    assert exact.phi.abs().min() > 0.005, "or else an error could hide"
    assert result.value == pytest.approx(-exact.bound, abs=QUADRATURE)
    torch.testing.assert_close(-result.theta, exact.theta, rtol=0, atol=QUADRATURE)
    if name == "stl":
        assert (-result.phi - exact.phi).norm() > 0.01
        exact = exact._replace(phi=exact.phi + estimator.settings.beta * exact.wake_phi)
    else:
        assert estimator.unbiased_for == ("ELBO" if name == "pathwise-vae" else "L_K")
    torch.testing.assert_close(-result.phi, exact.phi, rtol=0, atol=QUADRATURE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("objective", [{}, {"beta": 0.6}])
@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_expected_gradient_of_a_mixture_of_bounds(weight: float, objective: dict[str, float], form: str) -> None:
    problem = OneNormal()
    estimator = make(f"ciwae-beta{weight}", iw=2, **objective)
    result = expectation_reparameterized(estimator, FORMS[form](problem), X)
    elbo, bound = (exact_bound(problem, X, K, **objective) for K in (1, 2))
    assert (elbo.phi - bound.phi).norm() > 0.01
    assert result.value == pytest.approx(-weight * elbo.bound - (1 - weight) * bound.bound, abs=QUADRATURE)
    for found, of_elbo, of_bound in ((result.theta, elbo.theta, bound.theta), (result.phi, elbo.phi, bound.phi)):
        exact = weight * of_elbo + (1 - weight) * of_bound
        torch.testing.assert_close(-found, exact, rtol=0, atol=QUADRATURE)
    assert estimator.unbiased_for == {0: "L_K", 1: "ELBO"}.get(weight)


@pytest.mark.parametrize("name", ["pathwise-iwae", "dreg"])
@pytest.mark.parametrize("iw", [1, 3])
def test_other_numbers_of_particles(name: str, iw: int) -> None:
    problem = OneNormal()
    result = expectation_reparameterized(make(name, iw=iw), ParticleForm(problem), X, nodes=32)
    problem.nodes = 48
    torch.testing.assert_close(-result.phi, exact_bound(problem, X, iw).phi, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", PATHWISE)
def test_mc_averages_bounds(name: str) -> None:
    problem = OneNormal()
    one = expectation_reparameterized(make(name, iw=1, mc=1), ParticleForm(problem), X)
    two = expectation_reparameterized(make(name, iw=1, mc=2), ParticleForm(problem), X)
    assert two.value == pytest.approx(one.value, abs=QUADRATURE)
    torch.testing.assert_close(two.phi, one.phi, rtol=0, atol=QUADRATURE)


@pytest.mark.parametrize("name", [name for name in SCORE if name != "reinforce-baseline"])
def test_score_mean_equals_pathwise_mean(name: str) -> None:
    problem = OneNormal()
    score = expectation(make(name, iw=2), ParticleForm(problem), problem, X)
    pathwise = expectation_reparameterized(make("pathwise-iwae", iw=2), ParticleForm(problem), X)
    biased = name in ("ovis-gamma0.3", "ovis-gamma1")
    assert ((score.phi - pathwise.phi).abs().max() < QUADRATURE) is not biased
    torch.testing.assert_close(score.theta, pathwise.theta, rtol=0, atol=QUADRATURE)


def test_the_quadrature_has_converged() -> None:
    problem = OneNormal()
    sums = [expectation_reparameterized(make("dreg", iw=2), ParticleForm(problem), X, nodes=n) for n in (32, 40)]
    torch.testing.assert_close(sums[0].phi, sums[1].phi, rtol=0, atol=QUADRATURE)
    coarse = OneNormal()
    coarse.nodes = 60
    exact = [exact_bound(item, X, 2) for item in (problem, coarse)]
    torch.testing.assert_close(exact[0].phi, exact[1].phi, rtol=0, atol=QUADRATURE)
    # x ~ N(mu, 2)
    log_evidence = -((X - 0.2) ** 2) / 4 - math.log(4 * math.pi) / 2
    assert exact_evidence(problem, X) == pytest.approx(log_evidence, abs=1e-12)


# ---------------------------------------------------------------------------------------- many draws, more particles


class Draws:
    """Means of the gradient to q's mean and to its log-scale, from many data at once, and their standard errors."""

    def __init__(self, name: str, iw: int, count: int = 40_000, **settings: Any):
        problem = OneNormal()
        estimator = make(name, iw=iw, **settings)
        x = torch.full((count, 1), X, dtype=torch.float64)
        mean = torch.full((count, 1), 0.8 * X - 0.3, dtype=torch.float64, requires_grad=True)
        scale = torch.full((count, 1), 0.6, dtype=torch.float64, requires_grad=True)

        def posterior(layer: int, features: Tensor, z: Any) -> Distribution:
            return Normal(mean.unsqueeze(1), scale.unsqueeze(1))

        with mock.patch.object(problem, "posterior", posterior):
            loss, _, _ = estimator(ParticleForm(problem), x)
        self.draws = -torch.cat(torch.autograd.grad(loss.sum(), [mean, scale]), -1)
        self.mean = self.draws.mean(0)
        self.error = self.draws.std(0) / count**0.5


def agree(a: Draws, b: Draws) -> bool:
    return bool(((a.mean - b.mean).abs() < 4 * (a.error**2 + b.error**2).sqrt()).all())


@pytest.mark.parametrize("alpha", slow_except([0.3], [0.0, 0.3]))
def test_pathwise_score_and_dreg_agree_at_ten_particles(alpha: float) -> None:
    iwae = Draws("pathwise-iwae", 10, alpha=alpha)
    dreg = Draws("dreg", 10, alpha=alpha)
    ovis = Draws("ovis-S2-exclusive", 10, alpha=alpha)
    assert (dreg.mean.abs() > 20 * dreg.error).all(), "too noisy to tell anything"
    assert agree(iwae, dreg)
    assert agree(ovis, dreg)
    assert not agree(Draws("ovis-gamma1", 10, alpha=alpha), dreg)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_wrong_power_of_the_weights_would_be_seen(power: float) -> None:
    """Negative control: DReG's factor of the gradient through z_k, v_k, raised to another power."""
    from ovis.estimators import surrogate
    from ovis.functional.surrogates import scale_gradient

    with mock.patch.object(surrogate, "scale_gradient", lambda z, factor: scale_gradient(z, factor**power)):
        wrong = Draws("dreg", 10)
        result = expectation_reparameterized(make("dreg", iw=2), ParticleForm(OneNormal()), X)
    assert not agree(wrong, Draws("pathwise-iwae", 10))
    assert (-result.phi - exact_bound(OneNormal(), X, 2).phi).norm() > 0.01


def test_dreg_has_less_variance_than_iwae() -> None:
    iwae, dreg = Draws("pathwise-iwae", 10), Draws("dreg", 10)
    assert (dreg.error < 0.5 * iwae.error).all()


# ----------------------------------------------------------------------------------------------- at the optimum of q


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_stl_and_dreg_are_zero_where_q_is_the_posterior(alpha: float) -> None:
    """p(z|x) = N((x + mu)/2, 1/2): each draw's gradient is 0, also that to the scale."""
    problem = OneNormal(a=0.5, b=0.1, scale=math.sqrt(0.5), mu=0.2)
    x = torch.linspace(-3, 3, 50, dtype=torch.float64).unsqueeze(-1)
    model = ParticleForm(problem)
    size = {}
    for name in ("stl", "dreg", "pathwise-iwae"):
        loss, diagnostics, _ = make(name, iw=5, alpha=alpha)(model, x)
        size[name] = gradient(loss.abs().sum(), phi_of(problem)).abs().max().item()
        torch.testing.assert_close(diagnostics["loss"]["ess"], torch.full((50,), 5.0, dtype=torch.float64))
    assert size["stl"] < 1e-12
    assert size["dreg"] < 1e-12
    assert size["pathwise-iwae"] > 0.1


# ------------------------------------------------------------------------------------------ q of other distributions


class FreeForm(Template):
    """z of one dimension from any q; p(z) = N(0.2, 1) in the coordinates log z if ``positive``; x|z ~ N(z, 1)."""

    def __init__(self, q: type[nn.Module]):
        super().__init__()
        self.inference_network = q()
        self.prior_mean = nn.Parameter(torch.tensor([0.2], dtype=torch.float64))

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> dict[str, Any]:
        qz = self.inference_network(x)
        z = qz.rsample() if zgrads else qz.sample()
        prior = LogNormal(self.prior_mean, 1.0) if self.inference_network.positive else Normal(self.prior_mean, 1.0)
        return {"px": Normal(z, 1.0), "z": [z], "qz": [qz], "pz": [prior]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


class FreeQ(nn.Module):
    positive = False
    names = ("loc", "log_scale")

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.35], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([-0.6], dtype=torch.float64))


class IndependentQ(FreeQ):
    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(self.loc.expand(len(x), 1), self.log_scale.exp()), 1)


class MultivariateQ(FreeQ):
    def forward(self, x: Tensor) -> Distribution:
        return MultivariateNormal(self.loc.expand(len(x), 1), scale_tril=self.log_scale.exp().view(1, 1))


class LowRankQ(FreeQ):
    def forward(self, x: Tensor) -> Distribution:
        half = self.log_scale.mul(2).exp() / 2
        return LowRankMultivariateNormal(self.loc.expand(len(x), 1), half.sqrt().view(1, 1), half)


class AffineQ(FreeQ):
    """Location and scale are parameters of a caching transform of which somebody keeps the inverse."""

    def forward(self, x: Tensor) -> Distribution:
        standard = Normal(torch.zeros(len(x), 1, dtype=torch.float64), 1.0)
        transform = AffineTransform(self.loc, self.log_scale.exp(), cache_size=1)
        self.inverse = [transform.inv]
        return TransformedDistribution(standard, [transform])


class LogNormalQ(FreeQ):
    positive = True

    def forward(self, x: Tensor) -> Distribution:
        return TransformedDistribution(Normal(self.loc.expand(len(x), 1), self.log_scale.exp()), [ExpTransform()])


class ImplicitMixture(MixtureSameFamily):
    """A mixture in one dimension with implicit reparameterization: dz/dphi = - (dF/dphi) / q (Figurnov et al. 2018)."""

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = self.sample(sample_shape).detach()
        cdf = self.cdf(z)
        density = self.log_prob(z).exp().detach()
        return z - (cdf - cdf.detach()) / density


class MixtureQ(FreeQ):
    def __init__(self) -> None:
        super().__init__()
        self.gap = nn.Parameter(torch.tensor([0.9], dtype=torch.float64))
        self.logits = nn.Parameter(torch.tensor([0.3, -0.4], dtype=torch.float64))

    def forward(self, x: Tensor) -> Distribution:
        loc = (self.loc + self.gap * torch.tensor([-1.0, 1.0], dtype=torch.float64)).expand(len(x), 1, 2)
        mixture = Categorical(logits=self.logits.expand(len(x), 1, 2))
        return ImplicitMixture(mixture, Normal(loc, self.log_scale.exp()))


FREE = [IndependentQ, MultivariateQ, LowRankQ, AffineQ, LogNormalQ, MixtureQ]


@pytest.mark.parametrize("q", FREE)
def test_the_score_of_q_is_what_stl_leaves_out(q: type[FreeQ]) -> None:
    """For the same draws: IWAE - STL = - sum_k v_k h_k exactly, for every parameter of q; theta's gradients are equal.

    That holds only if STL detaches all of q's parameters, and scores the density that q has.
    """
    model = FreeForm(q)
    x = torch.linspace(-1, 2, 7, dtype=torch.float64).unsqueeze(-1)
    grads = {}
    for name in ("pathwise-iwae", "stl"):
        torch.manual_seed(3)
        loss, _, output = make(name, iw=4)(model, x)
        grads[name] = gradient(-loss.sum(), phi_of(model)), gradient(-loss.sum(), theta_of(model)), loss.detach()
    z = output["z"][0].detach()
    weights = (
        (output["px"].log_prob(x.repeat_interleave(4, 0)) + output["pz"][0].log_prob(z)).sum(-1)
        - output["qz"][0].log_prob(z).view(28)
    ).view(7, 4)
    weights = weights.softmax(-1).detach()
    left_out = gradient(
        (weights * model.inference_network(x.repeat_interleave(4, 0)).log_prob(z).view(7, 4)).sum(), phi_of(model)
    )
    assert left_out.abs().min() > 1e-3
    torch.testing.assert_close(grads["stl"][0] - grads["pathwise-iwae"][0], left_out, rtol=0, atol=1e-9)
    torch.testing.assert_close(grads["stl"][1], grads["pathwise-iwae"][1])
    torch.testing.assert_close(grads["stl"][2], grads["pathwise-iwae"][2])


@pytest.mark.parametrize("q", slow_except([AffineQ], FREE))
def test_dreg_has_the_mean_of_iwae(q: type[FreeQ]) -> None:
    """From the means of 40 batches of 2,000 draws each."""
    model = FreeForm(q)
    x = torch.full((2000, 1), 0.8, dtype=torch.float64)

    def batches(name: str) -> Tensor:
        estimator = make(name, iw=3)
        return torch.stack([gradient(estimator(model, x)[0].mean(), phi_of(model)) for _ in range(40)])

    means = {name: batches(name) for name in ("pathwise-iwae", "dreg", "stl")}

    def deviation(a: Tensor, b: Tensor) -> Tensor:
        """In standard errors."""
        return (a.mean(0) - b.mean(0)).abs() / ((a.var(0) + b.var(0)) / len(a)).sqrt()

    assert deviation(means["dreg"], means["pathwise-iwae"]).max() < 4
    assert deviation(means["dreg"], means["stl"]).max() > 6, "STL is biased, and this test must see a bias"


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("form", [ParticleForm, ReadmeForm])
def test_stl_and_dreg_refuse_two_layers(form: Any) -> None:
    class TwoNormals(BernoulliNormal):
        def posterior(self, layer: int, features: Tensor, z: Any) -> Distribution:
            return super().posterior(1, features, [features if layer == 0 else z[0]])

        def prior(self, layer: int, z: Any) -> Distribution:
            return Normal(self.prior_mean, 1.0) if layer else Normal(z[1], 1.0)

    model = form(TwoNormals())
    x = torch.ones(3, 1, dtype=torch.float64)
    assert make("pathwise-iwae", iw=2)(model, x)[0].shape == (3,)
    for name in ("stl", "dreg"):
        with pytest.raises(ValueError, match="one stochastic layer, the model has 2; use pathwise-iwae"):
            make(name, iw=2)(model, x)


def test_dreg_refuses_free_bits() -> None:
    with pytest.raises(TypeError, match=r"'freebits' .its gradient would be biased; use pathwise-iwae"):
        make("dreg", iw=2, freebits=0.1)
    with pytest.raises(TypeError, match=r"'freebits' .its gradient would be biased; use pathwise-iwae"):
        make("dreg", iw=2)(ParticleForm(OneNormal()), torch.ones(1, 1, dtype=torch.float64), freebits=0.1)


@pytest.mark.parametrize("name", ["pathwise-vae", "pathwise-iwae", "stl"])
def test_free_bits_stop_the_gradient_of_the_clamped_term(name: str) -> None:
    """Where every log q - log p is clamped, the loss is freebits - log p(x|z): no gradient to the prior."""
    problem = OneNormal()
    x = torch.ones(4, 1, dtype=torch.float64)
    loss, _, output = make(name, iw=1, freebits=50.0)(ParticleForm(problem), x)
    expected = 50 - output["px"].log_prob(x.unsqueeze(1)).view(4)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss.sum(), phi_of(problem)), gradient(expected.sum(), phi_of(problem)))
    assert gradient(loss.sum(), theta_of(problem)).abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PATHWISE)
def test_the_model_can_be_trained_while_q_is_frozen(name: str, form: str) -> None:
    """Samples of a q without trainable parameters have no graph, and need none."""
    problem = OneNormal()
    problem.inference_network.requires_grad_(False)
    result = []
    for _ in range(2):
        torch.manual_seed(1)
        loss, _, _ = make(name, iw=3)(FORMS[form](problem), torch.ones(4, 1, dtype=torch.float64))
        result.append(gradient(loss.sum(), theta_of(problem)))
        problem.inference_network.requires_grad_(True)
    assert result[0].abs().sum() > 0
    torch.testing.assert_close(*result)


@pytest.mark.parametrize("name", ["pathwise-vae", "pathwise-iwae", "dreg", "ovis-gamma1", "vimco"])
def test_second_derivatives_of_a_module_are_those_of_the_loss_or_refused(name: str) -> None:
    """By the mean of q, with beta = 0.5, against autograd of the written ELBO on the same samples."""
    problem, x = OneNormal(), torch.ones(2, 1, dtype=torch.float64)
    settings = {"beta": 0.5, "iw": 3}
    loss, _, output = make(name, **settings)(ParticleForm(problem), x)
    parameters = list(problem.inference_network.parameters())

    def differentiated(value: Tensor) -> Tensor:
        return torch.cat([item.flatten() for item in torch.autograd.grad(value, parameters, create_graph=True)])

    first = differentiated(loss.sum())
    if name != "pathwise-vae":
        with pytest.raises(
            RuntimeError, match="this loss has no second derivative: the factors of its gradient are con"
        ):
            differentiated(first.sum())
        return
    (z,), (q,), (p,) = output["z"], output["qz"], output["pz"]
    log_w = output["px"].log_prob(x.unsqueeze(1)) - 0.5 * (q.log_prob(z) - p.log_prob(z))
    exact = differentiated(-log_w.sum() / 3)
    torch.testing.assert_close(first, exact)
    expected = differentiated(exact.square().sum())
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(differentiated(first.square().sum()), expected)
