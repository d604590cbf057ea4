"""The log-densities of every model against plain torch.distributions, written out from the parameters."""

from __future__ import annotations

import pytest
import torch
from model_cases import build, log_densities, observations
from torch.distributions import Bernoulli, Categorical, Independent, Normal, RelaxedBernoulli, RelaxedOneHotCategorical
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ovis.models.distributions import OneHotVector

B, P = 3, 4


def drawn(case, **kwargs):
    torch.manual_seed(2)
    model = build(case)
    x = observations(model, B)
    output = model(x, particles=P, **kwargs)
    return model, x, output["z"], log_densities(output, x.unsqueeze(1)).unbind(-1)


def linear(weights, name, value):
    return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])


def perceptron(weights, name, layers, value):
    """Linear layers 0, 2, .. with tanh between them."""
    for layer in range(layers):
        value = torch.tanh(linear(weights, f"{name}.{2 * layer}", value))
    return linear(weights, f"{name}.{2 * layers}" if layers else f"{name}.0", value)


def pixels(logits, x):
    return Bernoulli(logits=logits).log_prob(x.flatten(1).unsqueeze(1).expand_as(logits)).sum(-1)


def test_sigmoid_belief_network():
    model, x, z, got = drawn("sbm")
    w = model.state_dict()
    z1, z2, z3 = z
    first = linear(w, "inference_network.0.0", (x.flatten(1) - w["mean"] + 1) / 2).unsqueeze(1).expand_as(z1)
    logits = {
        "px": linear(w, "generative_model.0.0", 2 * z1 - 1),
        "p1": linear(w, "generative_model.1.0", 2 * z2 - 1),
        "p2": linear(w, "generative_model.2.0", 2 * z3 - 1),
        "p3": w["prior_logits"].expand_as(z3),
        "q1": first,
        "q2": linear(w, "inference_network.1.0", 2 * z1 - 1),
        "q3": linear(w, "inference_network.2.0", 2 * z2 - 1),
    }
    want = [pixels(logits["px"], x)]
    for name, value in zip(("p1", "p2", "p3", "q1", "q2", "q3"), (z1, z2, z3) * 2, strict=True):
        want.append(Bernoulli(logits=logits[name]).log_prob(value).sum(-1))
    assert len(got) == len(want)
    for g, w_ in zip(got, want, strict=True):
        torch.testing.assert_close(g, w_)


def test_gaussian_vae():
    model, x, (z,), got = drawn("gaussian-vae")
    w = model.state_dict()
    features = perceptron(w, "inference_network", 2, ((x - w["mean"] + 1) / 2).flatten(1)).unsqueeze(1)
    logits = perceptron(w, "generative_model", 2, z)
    want = (
        pixels(logits, x),
        Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1),
        Normal(features[..., :4], features[..., 4:].exp()).log_prob(z).sum(-1),
    )
    for g, w_ in zip(got, want, strict=True):
        torch.testing.assert_close(g, w_)


def vae_parameters(model, x, layers):
    w = model.state_dict()
    centred = ((x - w["mean"] + 1) / 2 if "mean" in w else x).flatten(1)
    return w, perceptron(w, "inference_network", layers, centred).unsqueeze(1)


def test_vae_normal():
    model, x, (z,), got = drawn("vae-normal")
    w, q = vae_parameters(model, x, 1)
    want = (
        pixels(perceptron(w, "generative_model.1", 1, z), x),
        Normal(w["prior"][:4], w["prior"][4:].exp()).log_prob(z).sum(-1),
        Normal(q[..., :4], q[..., 4:].exp()).log_prob(z).sum(-1),
    )
    for g, w_ in zip(got, want, strict=True):
        torch.testing.assert_close(g, w_)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_vae_bernoulli(tau):
    """Relaxed: z is the logit of RelaxedBernoulli, whose density differs by the same Jacobian for q and p."""
    model, x, (z,), got = drawn("vae-bernoulli", zgrads=tau > 0, tau=tau)
    w, q = vae_parameters(model, x, 1)
    value = z.sigmoid() if tau else z
    torch.testing.assert_close(got[0], pixels(perceptron(w, "generative_model.1", 1, 2 * value - 1), x))

    def log_prob(logits):
        if not tau:
            return Bernoulli(logits=logits).log_prob(z).sum(-1)
        jacobian = value.log() + (1 - value).log()
        relaxed = RelaxedBernoulli(torch.tensor(tau, dtype=z.dtype), logits=logits)
        return (relaxed.log_prob(value) + jacobian).sum(-1)

    torch.testing.assert_close(got[1], log_prob(w["prior"].expand_as(z)))
    torch.testing.assert_close(got[2], log_prob(q.expand_as(z)))


@pytest.mark.parametrize(("case", "layers"), [("vae-categorical", 0), ("vae-embedding", 1)])
@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_vae_categorical(case, layers, tau):
    """Relaxed: z is the logarithm of RelaxedOneHotCategorical, likewise."""
    model, x, (z,), got = drawn(case, zgrads=tau > 0, tau=tau)
    w, q = vae_parameters(model, x, layers)
    value = z.exp() if tau else z
    assert z.shape == (B, P, 3, 4)
    torch.testing.assert_close(value.sum(-1), torch.ones(B, P, 3, dtype=torch.float64))
    code = value @ w["generative_model.0.0.weight"].T if case == "vae-embedding" else value
    torch.testing.assert_close(got[0], pixels(perceptron(w, "generative_model.1", layers, code.flatten(2)), x))

    def log_prob(parameters):
        logits = parameters.expand(B, P, 12).reshape(B, P, 3, 4)
        if not tau:
            return Categorical(logits=logits).log_prob(z.argmax(-1)).sum(-1)
        relaxed = RelaxedOneHotCategorical(torch.tensor(tau, dtype=z.dtype), logits=logits)
        return (relaxed.log_prob(value) + z.sum(-1)).sum(-1)

    torch.testing.assert_close(got[1], log_prob(w["prior"]))
    torch.testing.assert_close(got[2], log_prob(q))


@pytest.mark.parametrize("case", ["conv-vae", "conv-vae-28", "conv-vae-odd"])
def test_conv_vae_scores_its_own_logits(case):
    """p(x|z) is the Bernoulli density at the decoder's logits, of x's shape, row by row."""
    model, x, (z,), got = drawn(case)
    values = 2 * z - 1 if case == "conv-vae-28" else z
    for i in range(B):
        for j in range(P):
            logits = model.generative_model(values[i, j].unsqueeze(0))[0]
            assert logits.shape == x.shape[1:]
            torch.testing.assert_close(got[0][i, j], Bernoulli(logits=logits).log_prob(x[i]).sum())


def test_gaussian_toy():
    model, x, (z,), got = drawn("gaussian-toy")
    w = model.state_dict()
    want = (
        Normal(z, 1.0).log_prob(x.unsqueeze(1)).sum(-1),
        Normal(w["mu"], 1.0).log_prob(z).sum(-1),
        Normal((x @ w["A"].T + w["b"]).unsqueeze(1), 2 / 3).log_prob(z).sum(-1),
    )
    for g, w_ in zip(got, want, strict=True):
        torch.testing.assert_close(g, w_)


def test_gaussian_mixture():
    model, x, (z,), got = drawn("gmm")
    w = model.state_dict()
    want = (
        Normal(10 * z, 5.0).log_prob(x),  # x [B, 1] is its one dimension, against all particles
        w["theta"].log_softmax(-1)[z.long()],
        perceptron(w, "phi", 1, x).log_softmax(-1).gather(1, z.long()),
    )
    for g, w_ in zip(got, want, strict=True):
        torch.testing.assert_close(g, w_)


class Noise(TorchFunctionMode):
    """torch.rand returns this number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        return made.fill_(self.number) if func is torch.rand else made


def masked(count, mask, generator):
    logits = 3 * torch.randn(count, generator=generator)
    positions = {
        "first": [0], "last": [-1], "last two": [-2, -1], "ends": [0, -1], "all but one": range(1, count), "none": []
    }.get(mask)  # fmt: skip
    if positions is None:
        positions = (torch.rand(count - 1, generator=generator) < 0.7).nonzero().flatten().tolist()
    logits[list(positions)] = -torch.inf
    return logits


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mask", ["first", "last", "last two", "ends", "all but one", "most", "none"])
@pytest.mark.parametrize("count", [3, 7, 200, 20_000])
def test_no_impossible_category_is_drawn_at_the_ends_of_the_noise(count, mask, dtype, wide):
    """The sum of 20,000 probabilities misses 1 by rounding errors, on either side: what is left over belongs to none.

    Noise of 0, the least number above it, and the greatest below 1; and at the bounds of categories.
    """
    generator = torch.Generator().manual_seed(count)
    logits = torch.stack([masked(count, mask, generator) for _ in range(4)]).to(dtype)
    possible = logits > -torch.inf
    q = OneHotVector(logits)
    q = q.expand((2, 4)) if wide else q
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    least = torch.finfo(precision).eps / 2
    bounds = logits.to(precision).softmax(-1)[0].cumsum(-1)
    for number in (0.0, least, 1 - least, *bounds[:: max(1, count // 10)].clamp(max=1 - least).tolist()):
        with Noise(number):
            z = q.sample()
        assert z.dtype == dtype
        assert (z.sum(-1) == 1).all()
        assert (z * ~possible).sum() == 0


@pytest.mark.parametrize("build", [lambda q: q, lambda q: q.expand((3,)), lambda q: Independent(q, 0)])
def test_a_sum_that_is_not_monotone_gives_no_impossible_category(build, monkeypatch):
    """As a parallel sum on a GPU may be: the same probabilities, added in another order."""
    logits = torch.tensor([0.25, 0.0, 0.25, 0.5, 0.0]).log()
    plain = torch.Tensor.cumsum

    def cumsum(self, dim):
        return plain(self, dim) + torch.tensor([0.0, 6e-8, -3e-8, -6e-8, 6e-8])

    monkeypatch.setattr(torch.Tensor, "cumsum", cumsum)
    q = build(OneHotVector(logits))
    for number in (0.0, 0.25, 0.25 + 3e-8, 0.5, 1 - 2**-24):
        with Noise(number):
            z = q.sample()
        assert (z.sum(-1) == 1).all()
        assert z[..., [1, 4]].sum() == 0


@pytest.mark.parametrize("particles", [1, 50])
def test_no_impossible_class_of_a_mixture_is_drawn(particles):
    model = build("gmm")
    with torch.no_grad():
        model.phi[-1].bias[[0, 5]] = -torch.inf
        model.theta[[0, 5]] = -torch.inf
    (z,) = model(observations(model, 2000), particles=particles)["z"]
    (prior,) = model.sample_from_prior(50_000)["z"]
    for samples in (z, prior):
        assert set(samples.unique().tolist()) == {1.0, 2.0, 3.0, 4.0}


def test_one_hot_samples_have_their_probabilities() -> None:
    """200,000 draws in each of 4 categories; one of them is impossible, another one has nearly all."""
    torch.manual_seed(0)
    probs = torch.tensor([[0.1, 0.0, 0.65, 0.25], [1e-6, 1 - 3e-6, 1e-6, 1e-6]])
    z = OneHotVector(probs.log()).sample((200_000,))
    assert z.shape == (200_000, 2, 4)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert bool((z.sum(-1) == 1).all())
    error = (z.mean(0) - probs).abs()
    assert bool((error <= 5 * (probs * (1 - probs) / 200_000).sqrt() + 1e-5).all())
    assert z[:, 0, 1].sum() == 0
