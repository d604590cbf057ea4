"""Scored and reparameterized layers in one bound, against enumeration x Gauss-Hermite quadrature."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

import ovis
from ovis.analysis.oracle import check_estimator
from ovis.estimators import Mixed
from ovis.estimators.types import Estimate
from ovis.functional import multisample_loss
from ovis.functional.log_weights import iw_bound
from ovis.models import SigmoidBeliefNetwork, Template

STATES, NODES, X = 3, 3, 2


def wide(x: Tensor, like: Tensor) -> Tensor:
    return x.expand(*like.shape[:-1], x.shape[-1])


class Network(nn.Module):
    """Densities of a class z and a normal y, one of which depends on the other."""

    def __init__(self, first: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = first
        self.logits, self.location = nn.Linear(X + 1, STATES), nn.Linear(X + 1, 1)
        self.log_scale, self.decoder = nn.Parameter(torch.tensor(-0.3)), nn.Linear(2, X)
        self.prior, self.means = nn.Parameter(torch.randn(STATES)), nn.Parameter(torch.randn(STATES))
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))

    def q_class(self, x: Tensor, y: Tensor | None) -> Categorical:
        given = torch.zeros_like(x[..., :1]) if y is None else y.unsqueeze(-1)
        return Categorical(logits=self.logits(torch.cat([wide(x, given), given], -1)))

    def q_normal(self, x: Tensor, z: Tensor | None) -> Normal:
        given = torch.zeros_like(x[..., :1]) if z is None else z.unsqueeze(-1).double()
        return Normal(self.location(torch.cat([wide(x, given), given], -1)).squeeze(-1), self.log_scale.exp())

    def joint(self, z: Tensor, y: Tensor) -> tuple[Bernoulli, Categorical, Normal]:
        px = Bernoulli(logits=self.decoder(torch.stack([z.double(), y.tanh()], -1)))
        return px, Categorical(logits=self.prior), Normal(self.means[z.long()], 1.0)


class Scripted(ovis.Model):
    """Draws given classes and given noise, some columns of them at each call."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.network = Network(first)
        self.script: tuple[Tensor, Tensor] | None = None
        self.start = 0

    def q(self, h: Tensor) -> Any:
        if self.network.first == "class":
            z = yield self.network.q_class(h, None)
            yield self.network.q_normal(h, z)
        else:
            y = yield self.network.q_normal(h, None)
            yield self.network.q_class(h, y)

    def p(self, z: Any, h: Tensor) -> Any:
        px, pz, py = self.network.joint(*(z if self.network.first == "class" else reversed(z)))
        return px, [pz, py] if self.network.first == "class" else [py, pz]

    def _draw(self, layer: int, q: Any, lead: Any, zgrads: bool) -> Tensor:
        if self.script is None:
            return super()._draw(layer, q, lead, zgrads)
        columns = slice(self.start, self.start + lead[1])
        if layer == 1:
            self.start = columns.stop % self.script[0].shape[1]
        if isinstance(q, Categorical):
            return self.script[0][:, columns]
        y = q.loc + q.scale * self.script[1][:, columns]
        return y if zgrads else y.detach()


class AsTemplate(Template):
    """The same, given x repeated."""

    def __init__(self, model: Scripted) -> None:
        super().__init__()
        self.network, self.model = model.network, model

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        return self.model(x, zgrads, mixed=True)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


def everything(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each value of ``count`` classes and noises: [R, count] twice, and the weight of the noises, [R]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    index = torch.tensor(list(itertools.product(range(STATES), range(NODES), repeat=count)))
    z, e = index[:, ::2], index[:, 1::2]
    return z, torch.tensor(nodes)[e], torch.tensor(weights)[e].prod(-1)


def log_probability(network: Network, x: Tensor, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log q of classes, log-weights' two gaps and log p(x|z), [R, K], with total derivatives."""
    x = x.unsqueeze(1)
    if network.first == "class":
        q_z = network.q_class(x, None)
        q_y = network.q_normal(x, z)
        y = q_y.loc + q_y.scale * noise
    else:
        q_y = network.q_normal(x, None)
        y = q_y.loc + q_y.scale * noise
        q_z = network.q_class(x, y)
    px, pz, py = network.joint(z, y)
    log_qz = q_z.log_prob(z)
    return log_qz, log_qz - pz.log_prob(z), q_y.log_prob(y) - py.log_prob(y), px.log_prob(x).sum(-1)


def exact(network: Network, x: Tensor, particles: int, alpha: float, beta: float, freebits: float | None) -> Tensor:
    z, noise, weight = everything(particles)
    rows = x.expand(len(z), -1)
    log_qz, *gaps, log_px = log_probability(network, rows, z, noise)
    if freebits is not None:
        gaps = [gap.clamp(min=freebits) for gap in gaps]
    bound = iw_bound(log_px - beta * (gaps[0] + gaps[1]), alpha)
    loss = -(weight * log_qz.sum(-1).exp() * bound).sum()
    return flat(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True), network)


def flat(grads: Any, network: Network) -> Tensor:
    pairs = zip(grads, network.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def mean(estimator: Any, model: Scripted, x: Tensor, columns: int, **settings: Any) -> Tensor:
    """The exact mean of the estimator's gradient: each combination of draws is a datum, weighted by its probability."""
    z, noise, weight = everything(columns)
    rows = x.expand(len(z), -1)
    probability = weight * log_probability(model.network, rows, z, noise)[0].sum(-1).exp()
    model.script, model.start = (z, noise), 0
    loss, _, _ = estimator(model, rows, **settings)
    total = (probability.detach() * loss).sum()
    return flat(torch.autograd.grad(total, list(model.network.parameters()), allow_unused=True), model.network)


ONE = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("first", ["class", "normal"])
@pytest.mark.parametrize(
    ("name", "iw", "settings"),
    [
        ("reinforce+iwae", 2, {}),
        ("vimco+iwae", 2, {}),
        ("vimco+iwae", 2, {"alpha": 0.4, "beta": 0.7}),
        ("vimco+iwae", 2, {"freebits": 0.3}),
        ("vimco-geometric+iwae", 2, {"alpha": -0.5}),
        ("ovis-gamma0+iwae", 2, {"beta": 1.3, "freebits": 0.2}),
        ("ovis-S1-exclusive+iwae", 1, {"alpha": 0.3}),
        ("rloo+vae", 2, {}),
        ("rloo+vae", 2, {"beta": 0.6}),
        ("reinforce+stl", 1, {}),
        ("rloo+stl", 2, {}),
    ],
)
def test_the_mean_is_the_gradient_of_the_bound(name: str, iw: int, settings: dict[str, Any], first: str) -> None:
    model, estimator = Scripted(first), ovis.estimator(name, iw=iw, **settings)
    bound = 1 if name.startswith("rloo") else iw
    settings = {"alpha": 0.0, "beta": 1.0, "freebits": None, **settings}
    truth = exact(model.network, ONE, bound, **settings)
    columns = iw + ("exclusive" in name)
    assert truth.abs().max() > 0.05
    torch.testing.assert_close(mean(estimator, model, ONE, columns), truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("first", ["class", "normal"])
def test_particles_in_chunks_have_the_same_mean(first: str) -> None:
    truth = exact(Scripted(first).network, ONE, 2, 0.0, 1.0, None)
    estimator = ovis.estimator("ovis-gamma0+iwae", iw=2)
    chunks = mean(estimator, Scripted(first), ONE, 2, particles_per_pass=1)
    torch.testing.assert_close(chunks, truth, rtol=1e-9, atol=1e-11)


def test_a_template_draws_both_kinds() -> None:
    model = AsTemplate(Scripted("class"))
    torch.manual_seed(0)
    loss, _, output = ovis.estimator("vimco+iwae", iw=3)(model, ONE.expand(5, -1))
    assert [z.requires_grad for z in output["z"]] == [False, True]
    assert loss.requires_grad


class Exchanged(Mixed):
    """The factors of the two kinds of layers, exchanged."""

    def estimate(self, inputs: Any) -> Estimate:
        right = super().estimate(inputs)
        factors = right.factors._replace(log_q=right.pathwise_log_q)
        return dataclasses.replace(right, factors=factors, pathwise_log_q=right.factors.log_q)


class WithoutExplicitTerm(Mixed):
    """Without the term of the pathwise log q."""

    def estimate(self, inputs: Any) -> Estimate:
        right = super().estimate(inputs)
        return dataclasses.replace(right, pathwise_log_q=torch.zeros_like(right.factors.log_q))


@pytest.mark.parametrize("Wrong", [Exchanged, WithoutExplicitTerm])
@pytest.mark.parametrize("first", ["class", "normal"])
def test_wrong_factors_have_another_mean(Wrong: type[Mixed], first: str) -> None:
    model = Scripted(first)
    truth = exact(model.network, ONE, 2, 0.0, 1.0, None)
    wrong = mean(Wrong(iw=2, scored="vimco", pathwise="iwae"), model, ONE, 2)
    assert (wrong - truth).norm() > 0.05 * truth.norm()


class Discrete(ovis.Model):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inference_network, self.decoder = nn.Linear(X, 2).double(), nn.Linear(2, X).double()

    def encode(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.inference_network(x)
        return encoded

    def q(self, h: Tensor) -> Any:
        return Bernoulli(logits=h)

    def p(self, z: Tensor, h: Tensor) -> Any:
        return Bernoulli(logits=self.decoder(z)), Bernoulli(logits=z.new_zeros(2))


class Continuous(Discrete):
    def q(self, h: Tensor) -> Any:
        return Normal(h, 0.7)

    def p(self, z: Tensor, h: Tensor) -> Any:
        return Bernoulli(logits=self.decoder(z)), Normal(z.new_zeros(2), 1.0)


@pytest.mark.parametrize("settings", [{}, {"beta": 0.5, "freebits": 0.1}])
@pytest.mark.parametrize(
    ("name", "model", "other"),
    [
        ("vimco+iwae", Discrete(), "vimco"),
        ("ovis-gamma1+stl", Discrete(), "ovis-gamma1"),
        ("vimco+iwae", SigmoidBeliefNetwork((X,), N=2, depth=2).double(), "vimco"),
        ("vimco+iwae", Continuous(), "iwae"),
        ("ovis-gamma1+stl", Continuous(), "stl"),
        ("rloo+vae", Continuous(), "vae"),
    ],
)
def test_models_of_one_kind_get_its_gradient_to_the_bit(name: str, model: nn.Module, other: str, settings: Any) -> None:
    if "rloo" in name:
        settings = {key: value for key, value in settings.items() if key != "freebits"}
    results = []
    for each in (name, other):
        torch.manual_seed(1)
        loss, _, _ = ovis.estimator(each, iw=4, **settings)(model, ONE.expand(3, -1))
        results.append([loss, *torch.autograd.grad(loss.mean(), list(model.parameters()))])
    assert all(map(torch.equal, *results))


def test_the_functional_form_is_the_same() -> None:
    model = Scripted("class")
    x = ONE.expand(4, -1)
    torch.manual_seed(0)
    loss, _, output = ovis.estimator("vimco+iwae", iw=5)(model, x)
    z, y = output["z"]
    noise = ((y - output["qz"][1].loc) / output["qz"][1].scale).detach()
    log_qz, gap_z, gap_y, log_px = log_probability(model.network, x, z, noise)
    functional = multisample_loss(log_px - gap_y - (gap_z - log_qz), log_qz, "vimco")
    parameters = list(model.network.parameters())
    grads = [torch.autograd.grad(each.mean(), parameters, allow_unused=True) for each in (loss, functional)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss, functional)


def test_it_is_checked_from_draws() -> None:
    model = Scripted("class")
    assert check_estimator(ovis.estimator("vimco+iwae", iw=2), model, ONE, 400, "network").verdict != "biased"
    wrong = Exchanged(iw=2, scored="vimco", pathwise="iwae")
    assert check_estimator(wrong, model, ONE, 400, "network").verdict == "biased"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vimco+dreg", "can't be combined"),
        ("vimco+vae", "can't be combined"),
        ("rloo+iwae", "can't be combined"),
        ("rws+iwae", "can't be combined"),
        ("ovis-S2+iwae", "can't be combined"),
        ("iwae+vimco", "can't be combined"),
        ("vimco+", "unknown estimator ''"),
        ("vimko+iwae", "unknown estimator 'vimko'.*vimco"),
    ],
)
def test_other_combinations_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ovis.estimator(name, iw=4)


def test_an_estimator_of_one_kind_names_the_layer_and_the_other() -> None:
    model = Scripted("class")
    with pytest.raises(ValueError, match=r"layer 0 \(Categorical\) can't be reparameterized.*vimco\+iwae"):
        ovis.estimator("iwae", iw=2)(model, ONE)
    with pytest.raises(TypeError, match="no setting 'tau'"):
        ovis.estimator("vimco+iwae", iw=2, tau=0.5)
    with pytest.raises(ValueError, match="iw must be at least 2"):
        ovis.estimator("vimco+iwae", iw=1)
    with pytest.raises(TypeError, match="no setting 'alpha'"):
        ovis.estimator("rloo+vae", iw=2, alpha=0.5)


def test_rloo_is_the_gradient_of_half_the_variance() -> None:
    """Richter et al. 2020; exactly 0 at the posterior."""
    torch.manual_seed(0)
    log_p, log_q = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    loss = multisample_loss(log_p, log_q, "vargrad")
    torch.testing.assert_close(loss, -(log_p - log_q).mean(-1))
    half_variance = (log_p - log_q).var(-1) / 2
    expected, got = (torch.autograd.grad(each.sum(), log_q)[0] for each in (half_variance, loss))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)
    equal = multisample_loss(log_q.detach() + 3e5, log_q, "rloo")
    assert (torch.autograd.grad(equal.sum(), log_q)[0].abs() < 1e-9).all()
