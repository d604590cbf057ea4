"""What every model must do: encode once, draw particles, score given samples, sample from its prior."""

from __future__ import annotations

import pytest
import torch
from model_cases import CASES, REPARAMETERIZABLE, build, log_densities, observations
from slow_cases import slow_except

import ovis

B, P = 3, 5


@pytest.fixture(params=CASES)
def model(request):
    return build(request.param)


def test_particles_are_repeated_data(model):
    """[B, P] particles of x score as the rows of x repeated P times, which draw one sample each."""
    x = observations(model, B)
    many = model(x, particles=P)
    got = log_densities(many, x.unsqueeze(1))
    assert got.shape == (B, P, 1 + 2 * len(many["z"]))
    rows = x.repeat_interleave(P, 0)
    single = model(rows, z=[z.flatten(0, 1) for z in many["z"]])
    want = log_densities(single, rows)
    torch.testing.assert_close(got.flatten(0, 1), want)
    assert all(len(z.unique()) > 1 for z in many["z"])


def test_one_sample_has_no_particle_dimension(model):
    x = observations(model, B)
    output = model(x)
    assert log_densities(output, x).shape == (B, 1 + 2 * len(output["z"]))
    for z, one in zip(output["z"], model(x, particles=1)["z"], strict=True):
        assert z.shape == one.squeeze(1).shape


def test_given_samples_are_scored(model):
    """Passing back what sampling returned gives the same samples and exactly the same densities."""
    x = observations(model, B)
    drawn = model(x, particles=P)
    scored = model(x, particles=P, z=drawn["z"])
    assert all(torch.equal(a, b) for a, b in zip(drawn["z"], scored["z"], strict=True))
    assert torch.equal(log_densities(drawn, x.unsqueeze(1)), log_densities(scored, x.unsqueeze(1)))


def test_encoding_can_be_reused(model):
    x = observations(model, B)
    drawn = model(x, particles=P)
    scored = model(x, particles=P, z=drawn["z"], encoded=model.encode(x))
    assert torch.equal(log_densities(drawn, x.unsqueeze(1)), log_densities(scored, x.unsqueeze(1)))


def test_samples_are_exact_and_without_graph(model):
    for z in model(observations(model, B), particles=P)["z"]:
        assert not z.requires_grad
        assert z.grad_fn is None


def test_gradients_reach_every_parameter(model):
    x = observations(model, B)
    log_densities(model(x, particles=P), x.unsqueeze(1)).sum(-1).square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_encoder_and_decoder_are_named(model):
    """log p touches no parameter of the encoder, log q none of the decoder; the names tell which is which."""
    x = observations(model, B)
    output = model(x, particles=P)
    encoders = ("inference_network.", "phi.", "A", "b")
    names, parameters = zip(*model.named_parameters(), strict=True)
    log_q = sum(q.log_prob(z).sum() for q, z in zip(output["qz"], output["z"], strict=True))
    for name, grad in zip(names, torch.autograd.grad(log_q, parameters, allow_unused=True), strict=True):
        assert (grad is not None) == name.startswith(encoders), name
    log_p = output["px"].log_prob(x.unsqueeze(1)).sum()
    log_p = log_p + sum(p.log_prob(z).sum() for p, z in zip(output["pz"], output["z"], strict=True))
    for name, grad in zip(names, torch.autograd.grad(log_p, parameters, allow_unused=True), strict=True):
        assert (grad is None) == name.startswith(encoders), name


def test_prior_samples_are_scored_by_forward(model):
    """Wake-sleep: x and z drawn from the model itself are what the encoder scores."""
    torch.manual_seed(1)
    dream = model.sample_from_prior(B)
    x = dream["px"].sample()
    assert x.shape == observations(model, B).shape
    output = model(x, z=dream["z"])
    got = log_densities(output, x)
    want = log_densities(dream, x, output["qz"])
    torch.testing.assert_close(got, want)


def test_state_dict_round_trip(model, request):
    case = request.node.callspec.params["model"]
    other = CASES[case]().double()
    x = observations(model, B)
    z = model(x)["z"]
    before = log_densities(other(x, z=z), x)
    other.load_state_dict(model.state_dict())
    want = log_densities(model(x, z=z), x)
    assert torch.equal(log_densities(other(x, z=z), x), want)
    assert not torch.allclose(before, want)


@pytest.mark.parametrize("case", sorted(REPARAMETERIZABLE))
def test_reparameterized_samples_carry_gradients(case):
    model = build(case)
    x = observations(model, B)
    (z,) = model(x, True, particles=P, tau=REPARAMETERIZABLE[case])["z"]
    encoder = [p for n, p in model.named_parameters() if n.startswith(("inference_network.", "A", "b"))]
    grads = torch.autograd.grad(z.square().sum(), encoder)
    assert all(grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("case", sorted(REPARAMETERIZABLE))
def test_reparameterized_samples_are_scored_alike(case):
    model, tau = build(case), REPARAMETERIZABLE[case]
    x = observations(model, B)
    drawn = model(x, True, particles=P, tau=tau)
    rows = x.repeat_interleave(P, 0)
    scored = model(rows, True, tau=tau, z=[drawn["z"][0].flatten(0, 1)])
    torch.testing.assert_close(log_densities(drawn, x.unsqueeze(1)).flatten(0, 1), log_densities(scored, rows))


@pytest.mark.parametrize("case", ["gmm", "sbm", "vae-bernoulli", "vae-categorical", "conv-vae-28"])
def test_discrete_samples_cannot_be_reparameterized(case):
    model = build(case)
    remedy = "tau > 0" if "vae" in case else "score-function"
    with pytest.raises(ValueError, match=remedy):
        model(observations(model, B), True)


@pytest.mark.parametrize("case", slow_except(["gmm", "sbm", "vae-normal"], CASES))
def test_check_model_finds_no_problem(case):
    model = build(case)
    report = ovis.check_model(model, observations(model, 4))
    assert report.problems == [], report
    assert not any("could be checked" in note for note in report.notes), report
