"""What every estimator promises, whatever it estimates."""

from __future__ import annotations

import inspect
import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from estimator_cases import ALL, EXCLUSIVE, INCLUSIVE, LEAVE_ONE_OUT, PATHWISE, PIWAE, TVO, WAKE, WITH_ALPHA, make
from problems import (
    OneBernoulli,
    OneNormal,
    ParticleForm,
    ReadmeForm,
    ReadmeFormGivenZ,
    TwoBernoulli,
    expectation,
    gradient,
    phi_of,
    theta_of,
)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from ovis.diagnostics import Diagnostic
from ovis.estimators import ESTIMATORS, GradientEstimator, get_config
from ovis.estimators.config import estimator_class
from ovis.functional.partitions import tvo_nodes
from ovis.models import SigmoidBeliefNetwork, Template


def problem_of(name: str) -> Any:
    return OneNormal() if name in PATHWISE else TwoBernoulli()


def observations(count: int = 5) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) % 2).unsqueeze(-1)


def build(name: str, **settings: Any) -> GradientEstimator:
    if name == "reinforce-baseline":
        settings.setdefault("baseline", nn.Sequential(nn.Linear(1, 1, dtype=torch.float64), nn.Flatten(0)))
    return make(name, **settings)


def parts(output: dict[str, Any], x: Tensor, rows: tuple[int, int], readme: bool) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x|z), log p(z), log q(z|x) of what a model returned, [B, N] each."""
    observed = x.repeat_interleave(rows[1], 0) if readme else x.unsqueeze(1)
    px = output["px"].log_prob(observed).reshape(*rows)
    pz = sum(p.log_prob(z).reshape(*rows) for p, z in zip(output["pz"], output["z"], strict=True))
    qz = sum(q.log_prob(z).reshape(*rows) for q, z in zip(output["qz"], output["z"], strict=True))
    return px.detach(), pz.detach(), qz.detach()


# ------------------------------------------------------------------------------------------------- value of the loss


@pytest.mark.parametrize("readme", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_the_loss_is_minus_the_bound_of_each_datum(name: str, readme: bool) -> None:
    """From the model's own output, at alpha = 0.4 where there is one; diagnostics are of untempered weights."""
    alpha = 0.4 if name in WITH_ALPHA else 0.0
    estimator = build(name, mc=2, iw=3, **({"alpha": alpha} if alpha else {}))
    model = (ReadmeFormGivenZ if readme else ParticleForm)(problem_of(name))
    x = observations()
    loss, diagnostics, output = estimator(model, x)
    px, pz, qz = parts(output, x, (5, 6), readme)
    log_w = (px + pz - qz).view(5, 2, 3)
    if name == "pathwise-vae":
        value = log_w.mean(-1)
    elif name in TVO:
        settings = estimator.settings
        value = sum(
            width * ((power * log_w).softmax(-1) * log_w).sum(-1)
            for power, width in tvo_nodes(settings.knots, settings.integration)
        )
    else:
        grouped = log_w.flatten(1).unsqueeze(1) if name in PIWAE else log_w
        value = (((1 - alpha) * grouped).logsumexp(-1) - math.log(grouped.shape[-1])) / (1 - alpha)
        if name == "ciwae-beta0.3":
            value = 0.3 * log_w.mean(-1) + 0.7 * value
    assert loss.shape == (5,)
    assert loss.requires_grad
    torch.testing.assert_close(loss.detach(), -value.mean(1))

    bound = (log_w.logsumexp(-1) - math.log(3)).mean(1)
    expected = {
        "L_k": bound,
        "elbo": log_w.mean((1, 2)),
        "kl": (qz - pz).mean(1),
        "kl_q_p": bound - log_w.mean((1, 2)),
        "nll": -px.mean(1),
        "ess": (log_w.softmax(-1).square().sum(-1).reciprocal()).mean(1),
    }
    assert isinstance(diagnostics, Diagnostic)
    assert list(diagnostics) == ["loss"]
    assert diagnostics["loss"].keys() == expected.keys()
    for key, item in expected.items():
        torch.testing.assert_close(diagnostics["loss"][key], item, msg=key)
        assert not diagnostics["loss"][key].requires_grad


class Wide(Template):
    """Three latents, an observation of shape [2, 4], and distributions that do not say what an event is."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = nn.Linear(8, 3, dtype=torch.float64)
        self.generative_model = nn.Linear(3, 8, dtype=torch.float64)
        self.prior = nn.Parameter(torch.randn(1, 3, dtype=torch.float64))

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        q = Normal(self.inference_network(x.flatten(1)), 0.7)
        z = q.rsample() if zgrads else q.sample()
        px = Bernoulli(logits=self.generative_model(z).view(-1, 2, 4))
        return {"px": px, "z": [z], "qz": [q], "pz": [Normal(self.prior, 1.0)]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["vimco", "dreg"])
def test_densities_are_summed_over_events(name: str) -> None:
    model, x = Wide(), torch.rand(5, 2, 4, dtype=torch.float64).round()
    loss, diagnostics, output = make(name, iw=3)(model, x)
    z = output["z"][0]
    log_px = output["px"].log_prob(x.repeat_interleave(3, 0)).sum((1, 2))
    log_w = log_px + (output["pz"][0].log_prob(z) - output["qz"][0].log_prob(z)).sum(1)
    torch.testing.assert_close(loss, -(log_w.view(5, 3).logsumexp(1) - math.log(3)))
    torch.testing.assert_close(diagnostics["loss"]["nll"], -log_px.view(5, 3).mean(1).detach())
    weights = log_w.view(5, 3).softmax(1).detach().flatten()
    expected = gradient(-(weights * log_w).sum(), [model.generative_model.weight, model.prior])
    torch.testing.assert_close(gradient(loss.sum(), [model.generative_model.weight, model.prior]), expected)


@pytest.mark.parametrize("name", ["pathwise-iwae", "dreg", "tvo-part2-config1", "ovis-gamma1"])
def test_diagnostics_know_nothing_of_beta_and_free_bits(name: str) -> None:
    model, x = ParticleForm(problem_of(name)), observations()
    measured = []
    for settings in ({}, {"beta": 0.3}, {"freebits": 1.0}):
        if name == "dreg" and "freebits" in settings:
            continue
        torch.manual_seed(1)
        loss, diagnostics, _ = make(name, iw=3, **settings)(model, x)
        measured.append((loss, diagnostics))
    for loss, diagnostics in measured[1:]:
        assert not torch.allclose(loss, measured[0][0])
        torch.testing.assert_close(dict(diagnostics["loss"]), dict(measured[0][1]["loss"]))


@pytest.mark.parametrize("name", [name for name in ALL if name != "wake-sleep"])  # dreams belong to no datum
def test_each_loss_is_of_its_own_datum(name: str) -> None:
    problem = problem_of(name)
    x = observations().requires_grad_()
    loss, _, _ = build(name, mc=2, iw=3)(ParticleForm(problem), x)
    for row in range(len(x)):
        (grad,) = torch.autograd.grad(loss[row], x, retain_graph=True)
        assert grad[row].abs().sum() > 0
        assert grad.abs().sum() == grad[row].abs().sum()


@pytest.mark.parametrize("name", ALL)
def test_backward_is_that_of_the_mean_loss(name: str) -> None:
    estimator, problem = build(name, mc=2, iw=3), problem_of(name)
    model, x = ParticleForm(problem), observations()
    parameters = [*model.parameters(), *estimator.parameters()]
    results = []
    for backward in (False, True):
        for item in parameters:
            item.grad = None
        torch.manual_seed(4)
        loss, _, _ = estimator(model, x, backward=backward)
        if not backward:
            assert all(item.grad is None for item in parameters)
            loss.mean().backward()
        results.append([item.grad for item in parameters])
    assert all(item is not None for item in results[0])
    assert sum(item.abs().sum() for item in results[0]) > 0
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ALL)
def test_without_diagnostics(name: str) -> None:
    estimator, model, x = build(name, iw=3), ParticleForm(problem_of(name)), observations()
    torch.manual_seed(4)
    loss, diagnostics, output = estimator(model, x, return_diagnostics=False)
    torch.manual_seed(4)
    again, *_ = estimator(model, x)
    assert diagnostics == {}
    assert torch.equal(loss, again)
    assert set(output) == {"px", "z", "qz", "pz"}


@pytest.mark.parametrize("name", ALL)
def test_evaluation_without_graph(name: str) -> None:
    estimator, model, x = build(name, iw=3), ParticleForm(problem_of(name)), observations()
    torch.manual_seed(4)
    with torch.no_grad():
        loss, diagnostics, _ = estimator(model, x)
    torch.manual_seed(4)
    again, *_ = estimator(model, x)
    assert not loss.requires_grad
    assert torch.equal(loss, again)
    assert diagnostics["loss"]["L_k"].shape == (5,)


# ---------------------------------------------------------------------------------------------------- random numbers


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_loss_and_nothing_is_reseeded(name: str) -> None:
    estimator, model, x = build(name, mc=2, iw=3), ParticleForm(problem_of(name)), observations(40)
    others = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    losses, after = [], []
    for seed in (11, 11, 12):
        torch.manual_seed(seed)
        losses.append(estimator(model, x)[0].detach())
        after.append(torch.rand(()).item())
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert after[0] == after[1] != after[2]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others  # noqa: NPY002


def test_auxiliary_samples_are_fresh_ones() -> None:
    """OVIS_MC's particles are those of the other estimators at the same seed: the extra ones come after."""
    problem = TwoBernoulli()
    model, x = ParticleForm(problem), observations()
    losses = {}
    for name in ("vimco", "ovis-S2-exclusive"):
        torch.manual_seed(2)
        losses[name] = make(name, iw=4)(model, x)[0]
    assert torch.equal(losses["vimco"], losses["ovis-S2-exclusive"])
    grads = [gradient(loss.sum(), phi_of(problem)) for loss in losses.values()]
    assert not torch.allclose(*grads)


# ------------------------------------------------------------------------------------------------------ x is encoded


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("wake-sleep", "wake-mix0.4")])
def test_each_datum_is_encoded_once(name: str) -> None:
    model = ParticleForm(problem_of(name))
    build(name, mc=2, iw=3)(model, observations())
    assert model.encoded_rows == [5]


@pytest.mark.parametrize("name", ["ovis-gamma1", "ovis-S2-exclusive", "tvo-part2-config1"])
def test_each_datum_is_encoded_once_by_the_belief_network(name: str) -> None:
    model = SigmoidBeliefNetwork((6,), N=4, depth=3)
    rows = []
    model.inference_network[0].register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape))
    make(name, mc=2, iw=3)(model, torch.rand(5, 6).round())
    assert rows == [(5, 6)]


@pytest.mark.parametrize("name", ["wake-sleep", "wake-mix0.4"])
def test_dreams_are_encoded_once_each(name: str) -> None:
    model = ParticleForm(TwoBernoulli())
    make(name, mc=2, iw=3)(model, observations())
    assert model.encoded_rows == [5, 30]


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("name", ALL)
def test_config_serves_at_construction_and_at_the_call(name: str) -> None:
    Estimator, config = get_config(name)
    estimator = Estimator(mc=1, iw=16, **config)
    loss, _, _ = estimator(ParticleForm(problem_of(name)).float(), observations().float(), backward=False, **config)
    assert loss.shape == (5,)
    config["mc"] = 7
    assert get_config(name)[1] != config, "each call gives a new dict"


@pytest.mark.parametrize("name", ALL)
def test_settings_change_for_one_call(name: str) -> None:
    estimator, model, x = build(name, iw=3), ParticleForm(problem_of(name)), observations()
    _, _, output = estimator(model, x, mc=2, iw=4)
    assert output["z"][0].shape[:2] == (5, 8)
    _, _, output = estimator(model, x)
    assert output["z"][0].shape[:2] == (5, 3)


def test_gamma_and_s_change_for_one_call() -> None:
    problem = TwoBernoulli()
    model = ParticleForm(problem)

    def phi(estimator: GradientEstimator, extra: int = 0, **overrides: Any) -> Tensor:
        return expectation(estimator, model, problem, 1.0, extra=extra, **overrides).phi

    ovis = make("ovis-gamma1", iw=3)
    assert torch.equal(phi(ovis, gamma=0.0), phi(make("ovis-gamma0", iw=3)))
    assert not torch.allclose(phi(ovis), phi(ovis, gamma=0.0))
    sampled = make("ovis-S1", iw=3)
    assert torch.equal(phi(sampled, auxiliary=2), phi(make("ovis-S2", iw=3)))
    assert torch.equal(phi(sampled, 2, auxiliary=2, exclusive=True), phi(make("ovis-S2-exclusive", iw=3), 2))
    assert torch.equal(phi(sampled, auxiliary=0.7), phi(make("ovis-S2", iw=3)))
    tvo = make("tvo-part2-config1", iw=3)
    assert torch.equal(phi(tvo, integration="right", first=0.1), phi(make("tvo-part2-beta1-right", iw=3)))


def test_config1_follows_the_particles_of_the_call() -> None:
    tvo = make("tvo-part2-config1", iw=3)
    assert tvo.settings.knots == [0.0, 0.05, 1.0]
    changed = tvo._settings(tvo.settings, {"iw": 12})
    assert changed.knots == [0.0, 0.2, 1.0]


@pytest.mark.parametrize("name", WITH_ALPHA)
def test_alpha_may_be_a_tensor(name: str) -> None:
    estimator, problem = build(name, iw=3), problem_of(name)
    model, x = ParticleForm(problem), observations()
    parameters = [*phi_of(problem), *theta_of(problem)]
    results = []
    for alpha in (0.4, torch.tensor(0.4, dtype=torch.float64)):
        torch.manual_seed(4)
        loss, _, _ = estimator(model, x, alpha=alpha)
        results.append((loss.detach(), gradient(loss.mean(), parameters)))
    torch.testing.assert_close(results[0], results[1])
    torch.manual_seed(4)
    assert not torch.allclose(results[0][0], estimator(model, x)[0])


@pytest.mark.parametrize("name", [name for name in ALL if name not in WAKE])
def test_beta_may_be_a_tensor(name: str) -> None:
    estimator, problem = build(name, iw=3), problem_of(name)
    parameters = [*phi_of(problem), *theta_of(problem)]
    results = []
    for beta in (0.7, torch.tensor(0.7, dtype=torch.float64), 1.0, torch.tensor(1.0, dtype=torch.float64)):
        torch.manual_seed(4)
        loss, _, _ = estimator(ParticleForm(problem), observations(), beta=beta)
        results.append((loss.detach(), gradient(loss.mean(), parameters)))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[2], results[3])
    assert not torch.allclose(results[0][0], results[2][0])


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_setting_is_refused_with_the_valid_ones(name: str) -> None:
    estimator = build(name, iw=3)
    valid = "mc, iw.*alpha" if name in WITH_ALPHA else "mc, iw, particles_per_pass, beta, tau, freebits"
    message = rf"{type(estimator).__name__} has no setting 'alhpa'; valid: {valid}"
    with pytest.raises(TypeError, match=message):
        build(name, iw=3, alhpa=0.5)
    with pytest.raises(TypeError, match=message):
        estimator(ParticleForm(problem_of(name)), observations(), alhpa=0.5)


@pytest.mark.parametrize("name", ["pathwise-vae", *TVO])
def test_estimators_without_alpha_say_so(name: str) -> None:
    with pytest.raises(TypeError, match="no setting 'alpha'"):
        make(name, iw=3, alpha=0.5)


@pytest.mark.parametrize("name", [*LEAVE_ONE_OUT, *TVO])
def test_one_particle_is_refused_where_one_is_left_out(name: str) -> None:
    model, x = ParticleForm(TwoBernoulli()), observations()
    with pytest.raises(ValueError, match="iw must be at least 2, got 1"):
        make(name, iw=1)
    with pytest.raises(ValueError, match="iw must be at least 2, got 1"):
        make(name)
    with pytest.raises(ValueError, match="iw must be at least 2, got 1"):
        make(name, iw=2)(model, x, iw=1)


@pytest.mark.parametrize("name", INCLUSIVE)
def test_inclusive_auxiliary_samples_leave_a_particle(name: str) -> None:
    model, x = ParticleForm(TwoBernoulli()), observations()
    with pytest.raises(ValueError, match="of the particles are auxiliary"):
        make(name, iw=1)
    with pytest.raises(ValueError, match="of the particles are auxiliary"):
        make(name, iw=3)(model, x, iw=1)


def test_a_fraction_that_takes_all_particles_is_refused_for_what_it_is() -> None:
    with pytest.raises(ValueError, match="auxiliary must be a fraction below 1 unless exclusive"):
        make("ovis-S1.0", iw=3)


@pytest.mark.parametrize("name", ["reinforce", "reinforce-baseline", *EXCLUSIVE, *WAKE, *PATHWISE])
def test_one_particle_is_enough_for_the_others(name: str) -> None:
    loss, _, _ = build(name, iw=1)(ParticleForm(problem_of(name)), observations(), backward=True)
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("name", [name for name in ALL if name not in (*PATHWISE, *WAKE)])
def test_relaxed_samples_are_refused_by_score_estimators(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs exact samples: tau must be 0, got 0\.5"):
        build(name, iw=3, tau=0.5)
    with pytest.raises(ValueError, match=r"needs exact samples: tau must be 0, got 0\.5"):
        build(name, iw=3)(ParticleForm(problem_of(name)), observations(), tau=0.5)


@pytest.mark.parametrize("name", WAKE)
def test_wake_sleep_has_no_temperature(name: str) -> None:
    with pytest.raises(TypeError, match="no setting 'tau'"):
        make(name, tau=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iw": 0}, "iw must be an integer of at least 1, got 0"),
        ({"mc": -1}, "mc must be an integer"),
        ({"iw": 2.5}, "iw must be an integer"),
        ({"mc": True}, "mc must be an integer"),
        ({"alpha": 1.0}, "alpha must be below 1"),
        ({"alpha": math.nan}, "alpha must be below 1"),
        ({"gamma": 1.5}, "gamma must lie in"),
        ({"tau": -0.5}, "tau must be"),
        ({"tau": math.nan}, "tau must be"),
        ({"beta": math.nan}, "beta must be"),
        ({"freebits": math.nan}, "freebits must be"),
    ],
)
def test_values_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("ovis-gamma1", **{"iw": 4, **settings})
    with pytest.raises(ValueError, match=message):
        make("ovis-gamma1", iw=4)(ParticleForm(TwoBernoulli()), observations(), **settings)


@pytest.mark.parametrize("settings", [{"auxiliary": 0}, {"auxiliary": -1}, {"auxiliary": math.nan}])
def test_counts_of_auxiliary_samples_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="auxiliary must be above 0"):
        make("ovis-S1-exclusive", iw=4, **settings)


# ------------------------------------------------------------------------------------------------- models it refuses


class Simple(Template):
    """One Normal latent; each variant below gets one thing wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = nn.Linear(1, 1, dtype=torch.float64)

    def distributions(self, x: Tensor, zgrads: bool) -> dict[str, Any]:
        q = Normal(self.inference_network(x), 1.0)
        z = q.rsample() if zgrads else q.sample()
        return {"px": Normal(z, 1.0), "z": [z], "qz": [q], "pz": [Normal(torch.zeros_like(z), 1.0)]}

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        return self.distributions(x, zgrads)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


class AlwaysReparameterized(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        return self.distributions(x, True)


class NeverReparameterized(Simple):
    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        return self.distributions(x, False)


class Lacking(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = self.distributions(x, zgrads)
        return {key: output[key] for key in ("px", "z")}


class Tuple(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        return tuple(self.distributions(x, zgrads).values())


class NoLists(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = self.distributions(x, zgrads)
        return {**output, "z": output["z"][0], "qz": output["qz"][0], "pz": output["pz"][0]}


class OneTooMany(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = self.distributions(x, zgrads)
        return {**output, "pz": output["pz"] * 2}


class SumOverRows(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = self.distributions(x, zgrads)
        return {**output, "pz": [Independent(output["pz"][0], 2)]}


class TooFewRows(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = self.distributions(x[: len(x) // 2], zgrads)
        return {**output, "px": Normal(torch.zeros_like(x), 1.0)}


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (AlwaysReparameterized, "reinforce", "exact samples without graph, and AlwaysReparameterized returned repar"),
        (AlwaysReparameterized, "tvo-part1", "exact samples without graph"),
        (AlwaysReparameterized, "wake-wake", "exact samples without graph"),
        (NeverReparameterized, "pathwise-iwae", "needs reparameterized samples, and NeverReparameterized returned z"),
        (NeverReparameterized, "dreg", "needs reparameterized samples"),
        (Lacking, "vimco", "Lacking.forward must return a dict with px, z, qz, pz; missing: pz, qz"),
        (Tuple, "vimco", "Tuple.forward must return a dict with px, z, qz, pz"),
        (NoLists, "vimco", "NoLists.forward must return lists z, qz, pz of one length"),
        (OneTooMany, "vimco", r"of one length, one entry a layer; got \{'z': 1, 'qz': 1, 'pz': 2\}"),
        (SumOverRows, "vimco", r"log_prob of Independent has shape \(\); it must start with \(4, 3\) or \[12\]"),
        (TooFewRows, "vimco", r"log_prob of Normal has shape \(6, 1\); it must start with"),
    ],
)
def test_models_that_are_refused(model: type[Simple], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, iw=3)(model(), torch.ones(4, 1, dtype=torch.float64))


@pytest.mark.parametrize("form", [ParticleForm, ReadmeForm])
@pytest.mark.parametrize("name", PATHWISE)
def test_discrete_models_are_refused_by_reparameterized_estimators(name: str, form: Any) -> None:
    with pytest.raises(ValueError, match="score-function estimator"):
        make(name, iw=3)(form(TwoBernoulli()), observations())


@pytest.mark.parametrize("name", PATHWISE)
def test_the_belief_network_is_refused_by_reparameterized_estimators(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"layer 0 \(BernoulliVector\) can't be reparameterized: use a score-function estimator"
    ):
        make(name, iw=3)(SigmoidBeliefNetwork((4,), N=3, depth=2), torch.rand(2, 4).round())


class Keyword(Simple):
    """The seed knows models that call it ``reparam``, and models that take neither keywords nor the temperature."""

    def forward(self, x: Tensor, reparam: bool = False) -> Any:
        return self.distributions(x, reparam)


def test_models_that_call_it_reparam() -> None:
    x = torch.ones(4, 1, dtype=torch.float64)
    for name in ("dreg", "vimco"):
        loss, _, output = make(name, iw=3)(Keyword(), x, backward=True)
        assert output["z"][0].requires_grad is (name == "dreg")
        assert loss.shape == (4,)


class Spy(Simple):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        self.seen = (x.shape, zgrads, kwargs)
        self.returned = {**self.distributions(x, zgrads), "more": "of the model's own"}
        return self.returned


def test_what_a_readme_model_is_given_and_gives() -> None:
    model, x = Spy(), torch.arange(4, dtype=torch.float64).unsqueeze(-1)
    _, _, output = make("pathwise-iwae", mc=2, iw=3, tau=0.7)(model, x)
    assert output is model.returned
    assert model.seen == ((24, 1), True, {"reparam": True, "tau": 0.7})
    make("vimco", mc=2, iw=3)(model, x)
    assert model.seen == ((24, 1), False, {"reparam": False, "tau": 0.0})


# --------------------------------------------------------------------------------------------------- two forms agree


@pytest.mark.parametrize("name", [name for name in ALL if name not in (*PATHWISE, *WAKE)])
def test_both_forms_of_a_model_have_the_same_expectations(name: str) -> None:
    problem = TwoBernoulli()
    estimator, extra = build(name, iw=3), EXCLUSIVE.get(name, 0)
    a, b = (expectation(estimator, form(problem), problem, 1.0, extra=extra) for form in (ParticleForm, ReadmeForm))
    assert a.phi.abs().max() > 0.01
    torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------------------------- the classes


@pytest.mark.parametrize("family", ESTIMATORS)
def test_classes_are_final_and_name_their_paper(family: str) -> None:
    Estimator = estimator_class(ESTIMATORS[family])
    for kind in Estimator.__mro__[: Estimator.__mro__.index(GradientEstimator)]:
        assert "forward" not in vars(kind)
        assert "_settings" not in vars(kind)
    classes = map(estimator_class, ESTIMATORS.values())
    assert not any(issubclass(other, Estimator) for other in classes if other is not Estimator)
    assert re.search(r"[A-Z][a-z]+.*(19|20)\d\d", Estimator.__doc__), "no paper"
    assert "nbiased" in Estimator.__doc__ or "iased" in Estimator.__doc__, "no word about bias"
    assert inspect.cleandoc(Estimator.__doc__).splitlines()[1:2] in ([], [""]), "the first line stands alone"


def test_the_base_class_alone_is_nothing() -> None:
    with pytest.raises(TypeError, match="abstract"):
        GradientEstimator(iw=3)


# ----------------------------------------------------------------------------------------------- the seed's own code


def test_the_seed_code_as_it_stands() -> None:
    """The README's model and its steps of training, for every estimator that such a model can support."""
    from torch import nn, zeros

    from ovis.models import Template

    class SimpleModel(Template):
        def __init__(self, xdim, zdim):
            super().__init__()
            self.inference_network = nn.Linear(xdim, zdim)
            self.generative_model = nn.Linear(zdim, xdim)
            self.register_buffer("prior", zeros((1, zdim)))

        def forward(self, x: Tensor, zgrads: bool = False, **kwargs):
            # q(z|x)
            qz = Bernoulli(logits=self.inference_network(x))
            # z ~ q(z | x)
            z = qz.rsample() if zgrads else qz.sample()
            # p(x)
            pz = Bernoulli(logits=self.prior)
            # p(x|z)
            px = Bernoulli(logits=self.generative_model(z))
            # store z, pz, qz as list for hierarchical models
            return {"px": px, "z": [z], "qz": [qz], "pz": [pz]}

        def sample_from_prior(self, bs: int, **kwargs):
            pz = Bernoulli(logits=self.prior.expand(bs, *self.prior.shape[1:]))
            z = pz.sample()
            px = Bernoulli(logits=self.generative_model(z))
            return {"px": px, "z": [z], "pz": [pz]}

    x = Bernoulli(logits=zeros((1, 10))).sample()
    model = SimpleModel(10, 10)
    assert set(model(x)) == {"px", "z", "qz", "pz"}
    assert set(model.sample_from_prior(1)) == {"px", "z", "pz"}

    loader = [Bernoulli(logits=zeros((8, 10))).sample() for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for name in ALL:
        if name in PATHWISE:
            Estimator, config = get_config(name)
            with pytest.raises(ValueError, match="reparameterized"):
                Estimator(mc=1, iw=16, **config)(model, loader[0], backward=False, **config)
            continue
        before = [item.detach().clone() for item in model.parameters()]
        Estimator, config = get_config(name)
        estimator = Estimator(mc=1, iw=16, **config)
        for x in loader:
            loss, diagnostics, output = estimator(model, x, backward=False, **config)
            loss.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert loss.shape == diagnostics["loss"]["L_k"].shape == (8,)
            assert output["z"][0].shape == (128, 10)
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)), name


def test_data_that_no_model_could_read_are_refused() -> None:
    model = ParticleForm(OneBernoulli())
    with pytest.raises(ValueError, match=r"B >= 1, got shape \(0, 1\)"):
        make("vimco", iw=2)(model, observations(4)[:0])


def test_an_id_is_a_string() -> None:
    with pytest.raises(TypeError, match="got None"):
        get_config(None)


@pytest.mark.slow
def test_a_compiled_model_still_encodes_once() -> None:
    problem = OneBernoulli()
    plain, compiled = ParticleForm(problem), torch.compile(ParticleForm(problem), backend="eager")
    rows = []
    plain_encode = ParticleForm.encode

    def encode(self: Any, x: Tensor) -> Tensor:
        rows.append(len(x))
        return plain_encode(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParticleForm, "encode", encode)
        for model in (plain, compiled):
            make("ovis-S2-exclusive", iw=8)(model, observations(4))
            make("wake-sleep", iw=2)(model, observations(4))
    assert rows == [4, 4, 8, 4, 4, 8]
