"""Networks in half precision: what is drawn and scored is in float32."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from estimator_cases import ALL, PATHWISE, make
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from ovis.analysis.evaluate import evaluate
from ovis.estimators.chunked import ChunkedTerm, chunked_loss
from ovis.estimators.forward_context import ForwardContext
from ovis.estimators.sampling import draw, encode
from ovis.functional import (
    doubly_reparameterized_loss,
    iw_bound,
    learning_signal,
    multisample_loss,
    normalized_weights,
)
from ovis.models import VAE, GaussianMixture, GaussianToyVAE, SigmoidBeliefNetwork, Template
from ovis.models.distributions import BernoulliVector, OneHotVector, log_density

HALF = [torch.bfloat16, torch.float16]
RUNS = [(torch.bfloat16, "model"), (torch.float16, "model"), (torch.bfloat16, "autocast"), (torch.float16, "autocast")]


@contextlib.contextmanager
def precision(model: nn.Module, x: Tensor, dtype: torch.dtype, how: str) -> Iterator[tuple[nn.Module, Tensor]]:
    if how == "model":
        yield model.to(dtype), x.to(dtype)
    else:
        with torch.autocast("cpu", dtype):
            yield model, x


# ---------------------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize(("dtype", "how"), RUNS)
def test_the_bound_of_a_belief_network_is_below_the_exact_likelihood(dtype: torch.dtype, how: str) -> None:
    """200 variables, logits -7 in q and -6 in the prior, and x independent of them: log p(x) is known."""
    torch.manual_seed(0)
    model, x = SigmoidBeliefNetwork((16,), N=200, depth=1), torch.rand(4, 16).round()
    with torch.no_grad():
        for network, bias in ((model.inference_network[0][0], -7.0), (model.generative_model[0][0], 0.5)):
            network.weight.zero_()
            network.bias.fill_(bias)
        model.prior_logits.fill_(-6.0)
    exact = float(Bernoulli(logits=torch.tensor(0.5)).log_prob(x).sum(-1).mean())
    with precision(model, x, dtype, how) as (model, x):
        found = evaluate(model, x, 5000, 4).L_k.mean
    # the variance of a weight is 0.71: that of each of 4 bounds is 0.71/5000, and their bias -0.71/10000
    assert abs(found - exact) < 5 * math.sqrt(0.71 / 20_000)


@pytest.mark.parametrize(("dtype", "how"), RUNS)
def test_normal_log_weights_are_those_of_double_precision(dtype: torch.dtype, how: str) -> None:
    torch.manual_seed(0)
    model, x = VAE((12,), "normal", True, N=200, hdim=16, nlayers=1), torch.rand(3, 12).round()
    with precision(model, x, dtype, how) as (model, x):
        particles = draw(model, x, 50, encoded=encode(model, x))
    (z,), (q,), (p,) = (particles.output[key] for key in ("z", "qz", "pz"))
    exact = [Normal(d.base_dist.loc.double(), d.base_dist.scale.double()).log_prob(z.double()).sum(-1) for d in (q, p)]
    assert (exact[0] - exact[1]).std() > 0.1
    assert (particles.gap - (exact[0] - exact[1])).abs().max() < 1e-3
    assert z.dtype == particles.log_px.dtype == particles.gap.dtype == torch.float32


class Users(Template):
    """Torch's own distributions, in the precision of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network, self.decoder = nn.Linear(6, 100), nn.Linear(50, 6)

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        loc, log_scale = self.inference_network(x).chunk(2, -1)
        q = Normal(loc, log_scale.exp())
        z = q.rsample() if zgrads else q.sample()
        prior = Independent(Normal(torch.zeros_like(loc), torch.ones_like(loc)), 1)
        return {"px": Bernoulli(logits=self.decoder(z), validate_args=False), "z": [z], "qz": [q], "pz": [prior]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


class CastingItself(Users):
    """Autocast in the forward alone, as a decorator does it."""

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x, zgrads)


@pytest.mark.parametrize(("dtype", "how"), [*RUNS, (torch.bfloat16, "itself")])
def test_a_users_densities_are_those_of_double_precision(dtype: torch.dtype, how: str) -> None:
    torch.manual_seed(0)
    model, x = CastingItself() if how == "itself" else Users(), torch.rand(3, 6).round()
    context = contextlib.nullcontext((model, x)) if how == "itself" else precision(model, x, dtype, how)
    with context as (model, x):
        particles = draw(model, x, 20)
    (z,), (q,), px = particles.output["z"], particles.output["qz"], particles.output["px"]
    assert q.loc.dtype == px.logits.dtype == dtype
    value = z.double()
    log_q = Normal(q.loc.double(), q.scale.double()).log_prob(value).sum(-1).view(3, 20)
    log_p = Normal(0.0, 1.0).log_prob(value).sum(-1).view(3, 20)
    rows = x.double().repeat_interleave(20, 0)
    log_px = Bernoulli(logits=px.logits.double()).log_prob(rows).sum(-1).view(3, 20)
    for found, exact in ((particles.log_qz, log_q), (particles.log_pz, log_p), (particles.log_px, log_px)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.reshape(3, 20).double(), exact, rtol=1e-6, atol=1e-4)


#: of real numbers, positive ones, and probabilities, [7, 3] each
FAMILIES: dict[str, Callable[[Tensor, Tensor, Tensor], td.Distribution]] = {
    "normal": lambda a, b, c: Normal(a, b),
    "independent": lambda a, b, c: Independent(Normal(a, b), 1),
    "bernoulli": lambda a, b, c: Bernoulli(logits=a),
    "bernoulli-probs": lambda a, b, c: Bernoulli(probs=c),
    "bernoulli-vector": lambda a, b, c: BernoulliVector(a),
    "one-hot-vector": lambda a, b, c: OneHotVector(a),
    "transformed": lambda a, b, c: td.TransformedDistribution(Normal(a, b), [td.SigmoidTransform(cache_size=1)]),
    "affine": lambda a, b, c: td.TransformedDistribution(Normal(a, b), [td.AffineTransform(a, b)]),
    "gamma": lambda a, b, c: td.Gamma(b, b),
    "laplace": lambda a, b, c: td.Laplace(a, b),
    "geometric": lambda a, b, c: td.Geometric(logits=a),
    "geometric-probs": lambda a, b, c: td.Geometric(probs=c),
    "student": lambda a, b, c: td.StudentT(b, a, b),
    "multivariate": lambda a, b, c: td.MultivariateNormal(a, scale_tril=torch.diag_embed(b), validate_args=False),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_density_of_any_distribution_is_that_of_double_precision(
    family: str, dtype: torch.dtype, autocast: bool
) -> None:
    """At the parameters and the value in half precision, which are exact numbers; with the gradients of parameters."""
    torch.manual_seed(0)
    a = torch.randn(7, 3)
    parameters = [tensor.to(dtype).requires_grad_() for tensor in (a, torch.rand(7, 3) + 0.5, a.sigmoid())]
    exact = [parameter.detach().double().requires_grad_() for parameter in parameters]
    reference = FAMILIES[family](*exact)
    value = reference.sample().to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = log_density(FAMILIES[family](*parameters), value)
    assert found.dtype == torch.float32
    want = reference.log_prob(value.double())
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=2e-5)
    gradients = torch.autograd.grad(found.sum(), parameters, allow_unused=True)
    for gradient, right in zip(gradients, torch.autograd.grad(want.sum(), exact, allow_unused=True), strict=True):
        assert (gradient is None) == (right is None)
        if gradient is not None:
            assert gradient.dtype == dtype
            tolerance = 8 * torch.finfo(dtype).eps  # several contributions of a parameter, each rounded
            torch.testing.assert_close(gradient.double(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("probs", [False, True])
def test_categories_have_probabilities_that_sum_to_one(probs: bool, dtype: torch.dtype) -> None:
    """Torch normalizes the logits in their own precision, by which the sum misses 1 by a percent."""
    torch.manual_seed(0)
    parameter = torch.randn(4, 50).softmax(-1).to(dtype) if probs else torch.randn(4, 50).to(dtype)
    given = {"probs" if probs else "logits": parameter}
    classes, vectors = Categorical(**given), td.OneHotCategorical(**given)
    numbers, ones = (
        torch.arange(50).unsqueeze(-1).expand(50, 4),
        torch.eye(50, dtype=dtype).unsqueeze(1).expand(-1, 4, -1),
    )
    assert (classes.log_prob(numbers).double().exp().sum(0) - 1).abs().max() > 1e-3 or dtype == torch.float16
    same = Normal(torch.ones(4, 50, dtype=dtype), torch.ones(4, 50, dtype=dtype))
    mixture = td.MixtureSameFamily(classes, same)
    torch.testing.assert_close(
        log_density(mixture, torch.ones(4, dtype=dtype)), torch.full((4,), -math.log(2 * math.pi) / 2)
    )
    for found in (
        log_density(classes, numbers),
        log_density(vectors, ones),
        log_density(Independent(classes, 0), numbers),
    ):
        torch.testing.assert_close(found.exp().sum(0), torch.ones(4))
        torch.testing.assert_close(
            found,
            parameter.float().T.log_softmax(0) if not probs else parameter.float().log().T.log_softmax(0),
            rtol=0,
            atol=0.03,
        )


#: of [7, 3] real numbers and positive ones
SIMPLEXES: dict[str, Callable[[Tensor, Tensor], td.Distribution]] = {
    "logistic-normal": lambda a, b: td.LogisticNormal(a, b),
    "unchecked": lambda a, b: td.LogisticNormal(a, b, validate_args=False),
    "independent": lambda a, b: Independent(td.LogisticNormal(a, b), 1),
    "sticks": lambda a, b: td.TransformedDistribution(Normal(a, b), [td.StickBreakingTransform()]),
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", SIMPLEXES)
def test_a_simplex_sample_is_scored_in_single_precision_or_refused(family: str, dtype: torch.dtype) -> None:
    """The rounded sample has another log-density: 800 nats off in the worst of 2,000 with a scale of 2."""
    torch.manual_seed(0)
    parameters = [torch.randn(7, 3).to(dtype), (torch.rand(7, 3) + 0.5).to(dtype)]
    distribution, single = SIMPLEXES[family](*parameters), SIMPLEXES[family](*(p.float() for p in parameters))
    name = type(distribution).__name__
    message = (
        rf"^{name} cannot score a sample in {dtype}: .*, as in LogisticNormal\(loc\.float\(\), scale\.float\(\)\)$"
    )
    for each, z in ((distribution, distribution.rsample()), (distribution, single.sample().to(dtype))):
        with pytest.raises(ValueError, match=message):
            log_density(each, z)
    with pytest.raises(ValueError, match=message):
        log_density(single, single.sample().to(dtype))
    z = single.sample()
    want = SIMPLEXES[family](*(p.double() for p in parameters)).log_prob(z.double() / z.double().sum(-1, keepdim=True))
    for each in (distribution, single):
        found = log_density(each, z)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
def test_a_rounded_value_of_a_distribution_in_single_precision(dtype: torch.dtype) -> None:
    """Torch refuses it, as numbers in half precision do not sum to 1 up to 1e-6."""
    torch.manual_seed(0)
    concentration = torch.rand(7, 3) + 1.0
    z = td.Dirichlet(concentration).sample().to(dtype)
    found = log_density(td.Dirichlet(concentration), z)
    a, value = concentration.double(), z.double()
    want = ((a - 1) * value.log() - a.lgamma()).sum(-1) + a.sum(-1).lgamma()
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-5)


class Step(td.Transform, nn.Module):
    """A flow step with a network, whose inverse is known for the last sample alone: from its cache."""

    domain = codomain = td.constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        nn.Module.__init__(self)
        td.Transform.__init__(self, cache_size=1)
        self.network = nn.Linear(3, 3)

    def __hash__(self) -> int:
        return id(self)

    def _call(self, x: Tensor) -> Tensor:
        return x * self.network(x.new_ones(3)).exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.network(x.new_ones(3)).sum(-1).expand(x.shape[:-1])


def test_a_flow_is_scored_in_single_precision_from_its_cache() -> None:
    torch.manual_seed(0)
    flow = Step().bfloat16()
    base = Independent(Normal(torch.zeros(5, 3, dtype=torch.bfloat16), torch.ones(5, 3, dtype=torch.bfloat16)), 1)
    distribution = td.TransformedDistribution(base, [flow])
    z = distribution.rsample()
    found = log_density(distribution, z)
    log_scale = flow.network.weight.double().sum(1) + flow.network.bias.double()
    (noise, kept) = flow._cached_x_y
    assert kept is z
    want = Normal(0.0, 1.0).log_prob(noise.double()).sum(-1) - log_scale.sum()
    torch.testing.assert_close(found.double(), want, rtol=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), flow.network.bias, retain_graph=True)
    assert gradient.abs().min() > 0
    assert all(parameter.dtype == torch.bfloat16 for parameter in flow.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_stay(dtype: torch.dtype) -> None:
    q = Normal(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype))
    seen = []
    q.log_prob = lambda value: seen.append(value) or value  # type: ignore[method-assign, func-returns-value]
    z = torch.zeros(3, dtype=dtype)
    assert log_density(q, z) is z
    assert seen == [z]
    model, x = SigmoidBeliefNetwork((6,), N=4, depth=2).to(dtype), torch.rand(3, 6).round().to(dtype)
    loss, diagnostics, output = make("vimco", iw=3)(model, x)
    assert loss.dtype == diagnostics["loss"]["ess"].dtype == output["z"][0].dtype == dtype
    for distribution in (BernoulliVector(torch.zeros(2, dtype=dtype)), OneHotVector(torch.zeros(2, dtype=dtype))):
        assert distribution.sample().dtype == distribution.expand((3,)).sample().dtype == dtype


# ------------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("dtype", HALF)
def test_rare_ones_are_drawn_with_their_probability(dtype: torch.dtype) -> None:
    """p = 1e-4, of which bfloat16 noise makes 2e-3."""
    torch.manual_seed(0)
    logits = torch.full((2,), math.log(1e-4)).to(dtype)
    probability = float(logits[0].double().sigmoid())
    for distribution in (BernoulliVector(logits), BernoulliVector(logits).expand(())):
        z = distribution.sample((1_000_000,))
        assert z.dtype == dtype
        error = abs(z.double().mean() - probability)
        assert error < 4.5 * math.sqrt(probability / 2_000_000)


@pytest.mark.parametrize("dtype", HALF)
def test_rare_categories_are_drawn_with_their_probability(dtype: torch.dtype) -> None:
    """A last category of probability 9e-4, which bfloat16 never draws."""
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.4991, 9e-4]).log().to(dtype)
    probabilities = logits.double().softmax(-1)
    for distribution in (OneHotVector(logits), OneHotVector(logits).expand(())):
        z = distribution.sample((1_000_000,))
        assert z.dtype == dtype
        error = (z.double().mean(0) - probabilities).abs()
        assert bool((error < 4.5 * (probabilities / 1_000_000).sqrt()).all())


def test_classes_of_a_mixture_are_exact_numbers() -> None:
    """bfloat16 has no 257."""
    model = GaussianMixture(N=400).bfloat16()
    (z,) = model(torch.full((5, 1), 9.0, dtype=torch.bfloat16), particles=2000)["z"]
    assert len(z.unique()) > 390
    (z,) = model.sample_from_prior(10_000)["z"]
    assert len(z.unique()) > 390


# ---------------------------------------------------------------------------------------------------------- estimators


@pytest.mark.parametrize("how", ["model", "autocast"])
@pytest.mark.parametrize("name", ALL)
def test_every_estimator_has_a_loss_and_diagnostics_in_single_precision(name: str, how: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 6).round()
    model: Any = VAE((6,), "normal", True, N=4) if name in PATHWISE else SigmoidBeliefNetwork((6,), N=4, depth=1)
    estimator = make(name, iw=4)
    with precision(model, x, torch.bfloat16, how) as (model, x):
        losses = [estimator(model, x, particles_per_pass=size) for size in (None, 2)]
    for loss, diagnostics, _ in losses:
        assert loss.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in diagnostics["loss"].values())
        gradients = torch.autograd.grad(loss.mean(), list(model.parameters()), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("build", "shape", "tau"),
    [
        (lambda: VAE((6,), "normal", N=4), (6,), 0.0),
        (lambda: VAE((6,), "bernoulli", N=4), (6,), 0.5),
        (lambda: VAE((6,), "categorical", True, N=4, K=3, kdim=2), (6,), 0.5),
        (lambda: GaussianToyVAE(D=6), (6,), 0.0),
    ],
)
@pytest.mark.parametrize(("dtype", "how"), RUNS)
def test_reparameterized_samples_are_in_single_precision(
    build: Any, shape: Any, tau: float, dtype: torch.dtype, how: str
) -> None:
    torch.manual_seed(0)
    with precision(build(), torch.rand(3, *shape).round(), dtype, how) as (model, x):
        particles = draw(model, x, 5, encoded=encode(model, x), reparameterize=True, tau=tau)
        loss, _, _ = make("pathwise-iwae", iw=5, tau=tau)(model, x, backward=True)
    assert particles.z[0].dtype == particles.log_px.dtype == particles.log_qz.dtype == loss.dtype == torch.float32
    assert loss.isfinite().all()


@pytest.mark.parametrize(
    "build", [lambda: SigmoidBeliefNetwork((6,), N=4, depth=2), lambda: GaussianToyVAE(D=6), lambda: GaussianMixture()]
)
@pytest.mark.parametrize("name", ["wake-sleep", "rws"])
@pytest.mark.parametrize(("dtype", "how"), RUNS)
def test_dreams_in_half_precision(name: str, build: Any, dtype: torch.dtype, how: str) -> None:
    torch.manual_seed(0)
    model: Any = build()
    with precision(model, torch.rand(3, 1 if isinstance(model, GaussianMixture) else 6).round(), dtype, how) as run:
        loss, _, _ = make(name, iw=5)(*run, backward=True)
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in run[0].parameters())


class Autoregressive(td.Distribution):
    """A user's px, whose log_prob runs a network."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Callable[[Tensor], Tensor]):
        super().__init__(validate_args=False)
        self.logits = logits

    def log_prob(self, value: Tensor) -> Tensor:
        return Bernoulli(logits=self.logits(value), validate_args=False).log_prob(value)


class WithNetworkInPx(Users):
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = super().forward(x, zgrads)
        logits = output["px"].logits
        return {**output, "px": Autoregressive(lambda value: logits + self.inference_network(value)[:, :6])}


@pytest.mark.parametrize(("dtype", "how"), RUNS)
def test_a_users_density_runs_its_network_in_the_networks_precision(dtype: torch.dtype, how: str) -> None:
    torch.manual_seed(0)
    model, x = WithNetworkInPx(), torch.rand(3, 6).round()
    with precision(model, x, dtype, how) as (run, data):
        particles = draw(run, data, 20)
        each = particles.output["px"].log_prob(data.repeat_interleave(20, 0))
        loss, _, _ = make("vimco", iw=5)(run, data, backward=True)
    assert particles.log_px.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(particles.log_px, each.float().sum(-1).view(3, 20))


SIMPLEX: dict[str, Callable[[Tensor], td.Distribution]] = {
    "relaxed": lambda a: td.RelaxedOneHotCategorical(a.new_ones(()), logits=a),
    "dirichlet": td.Dirichlet,
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", SIMPLEX)
def test_probability_vectors_in_half_precision_have_a_density(kind: str, dtype: torch.dtype) -> None:
    """They sum to 1 up to rounding in half precision, more than torch's check allows."""
    torch.manual_seed(0)
    parameter = (torch.rand(50, 4) + 0.5).to(dtype)
    single, double = SIMPLEX[kind](parameter.float()), SIMPLEX[kind](parameter.double())
    value = single.sample().clamp(0.01, 0.99).to(dtype)
    assert (value.float().sum(-1) - 1).abs().max() > 1e-6
    double._validate_args = False
    found = log_density(SIMPLEX[kind](parameter), value).double()
    # (torch normalizes logits in half precision)
    tolerance = 8 * torch.finfo(dtype).eps if kind == "relaxed" else 1e-4
    torch.testing.assert_close(found, double.log_prob(value.double()), rtol=1e-4, atol=tolerance)
    single._validate_args = True  # torch.compile in another test turns the default off
    with pytest.raises(ValueError, match="support"):
        single.log_prob(2 * value.float())


def test_gradients_of_many_chunks_are_added_in_single_precision() -> None:
    """400 chunks of gradient 1: in bfloat16 the sum would stop at 256, as it has no 257."""
    model, x = nn.Linear(1, 1).bfloat16(), torch.ones(1, 1, dtype=torch.bfloat16)
    context = ForwardContext(model, x.device)
    term = ChunkedTerm(context, 400, 1, lambda chunk, x, encoded: (model.weight * x).sum(1))
    chunked_loss(torch.zeros(1), [term], model, x, None).backward()
    assert model.weight.grad.dtype == torch.bfloat16
    assert float(model.weight.grad) == 400


# ------------------------------------------------------------------------------------------- weights, signals and DReG


def test_log_weights_of_a_users_model_in_bfloat16_are_those_of_double_precision() -> None:
    """Of 20 particles: as many log-weights, the same best one for every datum, and signals that agree."""
    torch.manual_seed(0)
    model, x = Users().bfloat16(), torch.rand(60, 6).round().bfloat16()
    particles = draw(model, x, 20)
    (z,), (q,), px = particles.output["z"], particles.output["qz"], particles.output["px"]
    value, rows = z.double(), x.double().repeat_interleave(20, 0)
    densities = [
        Bernoulli(logits=px.logits.double()).log_prob(rows).sum(-1).view(60, 20),
        Normal(0.0, 1.0).log_prob(value).sum(-1).view(60, 20),
        -Normal(q.loc.double(), q.scale.double()).log_prob(value).sum(-1).view(60, 20),
    ]
    exact = torch.stack(densities).sum(0)
    log_w = particles.log_w()
    assert log_w.dtype == torch.float32
    assert all(len(row.unique()) == 20 for row in log_w)
    assert torch.equal(log_w.argmax(-1), exact.argmax(-1))
    rounded = torch.stack([item.bfloat16() for item in densities]).sum(0)
    assert not torch.equal(rounded.argmax(-1), exact.argmax(-1)), "bfloat16 must lose something here"
    for method in ("vimco", "ovis-gamma1"):
        signal, expected = learning_signal(log_w, method).double(), learning_signal(exact, method)
        assert (signal - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize(("dtype", "how"), RUNS)
def test_dreg_of_a_users_model_in_half_precision(dtype: torch.dtype, how: str, size: int | None) -> None:
    """Its factor is a hook on samples in half precision."""
    torch.manual_seed(0)
    with precision(Users(), torch.rand(3, 6).round(), dtype, how) as (model, x):
        loss, _, output = make("dreg", iw=5)(model, x, particles_per_pass=size)
        loss.mean().backward()
    assert loss.dtype == torch.float32
    assert size is not None or output["z"][0].dtype == dtype
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "method", ["iwae", "vimco", "vimco-geometric", "ovis-gamma1", "rws", "tvo-part2-config1", "vae"]
)
def test_losses_from_log_densities_in_half_precision_are_weighted_in_single_precision(
    method: str, dtype: torch.dtype
) -> None:
    """Against double precision at the same numbers; the gradient of a tensor in half precision is rounded to it."""
    torch.manual_seed(0)
    pair = [(torch.randn(50, 20) * 3 - 90).to(dtype), (torch.randn(50, 20) * 2 - 10).to(dtype)]
    half, double = ([item.to(kind).requires_grad_() for item in pair] for kind in (dtype, torch.float64))
    loss, exact = multisample_loss(*half, method), multisample_loss(*double, method)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-5)
    for found, expected in zip(
        torch.autograd.grad(loss.sum(), half), torch.autograd.grad(exact.sum(), double), strict=True
    ):
        assert found.dtype == dtype
        assert (found.double() - expected).norm() < torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("dtype", HALF)
def test_weights_and_bounds_in_half_precision_are_in_single_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    log_w = (torch.randn(50, 300) * 3 - 80).to(dtype)
    exact = log_w.double()
    for function in (iw_bound, normalized_weights, lambda w: learning_signal(w, "ovis-gamma0", 0.3)):
        found = function(log_w)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), function(exact), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_doubly_reparameterized_gradients_from_half_precision(dtype: torch.dtype) -> None:
    """Log-densities and samples in half precision, against double precision at the same numbers."""
    torch.manual_seed(0)
    z = torch.randn(4, 20, 3).to(dtype)
    results = []
    for leaf in (z.clone().requires_grad_(), z.double().requires_grad_()):
        single = leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        log_p, log_q = -single.square().sum(-1), -0.5 * (single - 1).square().sum(-1)
        loss = doubly_reparameterized_loss(log_p, log_q, leaf)
        results.append(torch.autograd.grad(loss.sum(), leaf)[0])
    weights = normalized_weights((log_p - log_q).detach()).unsqueeze(-1)
    terms = weights.square() * (2 * z.double().abs() + (z.double() - 1).abs())  # what is added up in half precision
    assert results[0].dtype == dtype
    assert ((results[0].double() - results[1]).abs() <= 2 * torch.finfo(dtype).eps * terms + 1e-6).all()
    rounded = [item.to(dtype).requires_grad_() for item in (torch.randn(4, 20), torch.randn(4, 20))]
    samples = torch.zeros(4, 20, dtype=dtype, requires_grad=True)
    assert doubly_reparameterized_loss(*rounded, samples).dtype == torch.float32
