"""Random functions, one by one: numbered by datum, of the right law, and refused where they are neither."""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from problems import OneBernoulli, ParticleForm, ReadmeForm, TwoBernoulli
from torch import Tensor, nn
from torch.distributions import Beta, Binomial, Cauchy, Dirichlet, Gamma, Geometric, LogNormal, Poisson, StudentT
from torch.nn import functional as F

import ovis
from ovis.analysis.foreign_generators import find_generators
from ovis.analysis.gradient_samples import ParameterGradientSampler
from ovis.analysis.gradients import compare_gradients, get_gradients_statistics
from ovis.analysis.oracle import check_estimator, exact_gradient, exact_moments
from ovis.analysis.random_inputs import RandomInputs, make_random_inputs, record_random_inputs
from ovis.estimators import GradientEstimator, get_config
from ovis.estimators.reinforce import ReinforceBaseline
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


class Sampled(ReadmeForm):
    """One Bernoulli latent, drawn by comparing its probability with numbers from anywhere."""

    def __init__(self, numbers: Callable[[torch.Size], Any]):
        super().__init__(OneBernoulli())
        self.numbers = numbers

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        q = self.problem.posterior(0, self.problem.features(x), [])
        z = (torch.as_tensor(self.numbers(q.probs.shape)) < q.probs.detach()).double()
        return {"px": self.problem.likelihood([z]), "z": [z], "qz": [q], "pz": [self.problem.prior(0, [z])]}


class Counter:
    """Numbers from a state that the model keeps to itself."""

    calls = 0

    def __call__(self, shape: torch.Size) -> Tensor:
        self.calls += 1
        return (torch.arange(shape.numel()) * 0.618 + self.calls * 0.31).view(shape) % 1


def of_python(shape: torch.Size) -> Tensor:
    return torch.tensor([random.random() for _ in range(shape.numel())]).view(shape)


def of_torch(shape: torch.Size, generator: torch.Generator = torch.Generator()) -> Tensor:  # noqa: B008
    return torch.randint(2**20, shape, generator=generator) / 2**20


def seeded(shape: torch.Size) -> Any:
    np.random.seed(0)  # noqa: NPY002
    return np.random.rand(*shape)  # noqa: NPY002


#: Sources of numbers, and what the refusal names.
FOREIGN: dict[str, tuple[Callable[[torch.Size], Any], str]] = {
    "numpy": (lambda shape: np.random.rand(*shape), r"numpy\.random draws"),  # noqa: NPY002
    "numpy, seeded at every call": (seeded, r"numpy\.random draws"),
    "python": (of_python, "random draws"),
    "a generator of numpy": (
        (lambda g: lambda shape: g.random(shape))(np.random.default_rng(0)),
        r"Sampled or its estimator, by a generator of its own \(PCG64\), draws random numbers",
    ),
    "a generator of torch": (of_torch, "randint draws"),
    "rare events": (
        (lambda g: lambda shape: np.where(g.random(shape) < 1e-6, 0.0, 1.0))(np.random.default_rng(0)),
        r"Sampled or its estimator, by a generator of its own \(PCG64\), draws random numbers",
    ),
    "a new generator at every call": (
        lambda shape: np.random.default_rng(0).random(shape),
        "Sampled draws no random numbers through torch",
    ),
    "a state": (Counter(), "Sampled or its estimator has other results for the same random numbers"),
}


@pytest.mark.parametrize("source", FOREIGN)
def test_numbers_of_other_generators_are_refused(source: str) -> None:
    """Every draw would be the same: a variance of 0, or the variance of something else."""
    numbers, name = FOREIGN[source]
    x, (estimator,) = torch.ones(20, 1, dtype=torch.float64), make("vimco", iw=4).values()
    message = rf"{name}.*draw through torch\.rand, randn, bernoulli, multinomial or a distribution of torch"
    for analyse in (
        lambda: get_gradients_statistics(estimator, Sampled(numbers), x, 10),
        lambda: get_gradients_statistics(estimator, Sampled(numbers), x, 10, key_filter="tensor:qlogits"),
        lambda: compare_gradients(
            make("vimco", iw=4) | make("rws", iw=4), Sampled(numbers), x, 10, samples_per_batch=4
        ),
        lambda: check_estimator(estimator, Sampled(numbers), x, 10),
        lambda: get_gradients_statistics(ovis.estimator("vimco+iwae", iw=4), Sampled(numbers), x, 10),
    ):
        with pytest.raises(ValueError, match=message) as refusal:
            analyse()
        assert "\n" not in str(refusal.value)


GLOBAL = np.random.default_rng(0)
OF_A_MODULE = types.ModuleType("helpers")
OF_A_MODULE.numbers = random.Random(0)  # type: ignore[attr-defined]


def uniform() -> float:
    return (lambda: [GLOBAL.random() for _ in range(1)])()[0]


class Owner:
    """Generators in attributes, as a user's model may keep them."""

    slow = random.Random(0)

    def __init__(self) -> None:
        self.parts = {
            "noise": [np.random.RandomState(0), partial(np.random.Generator(np.random.MT19937(0)).normal, 1.0)]
        }

    def of_a_container(self) -> Any:
        return self.parts["noise"][0].rand()  # type: ignore[attr-defined]

    def of_a_partial(self) -> Any:
        return self.parts["noise"][1]()  # type: ignore[operator]

    def of_the_class(self) -> float:
        return self.slow.gauss(0, 1)


#: Calls that draw one number, and the kind of the generator that holds the state.
HIDDEN: dict[str, tuple[Callable[[], Any], str]] = {
    "closure": ((lambda g: lambda: g.random())(np.random.Generator(np.random.Philox(0))), "Philox"),
    "default": (lambda g=np.random.Generator(np.random.SFC64(0)): g.random(), "SFC64"),  # type: ignore[misc]  # noqa: B008
    "global of a function that is called": (uniform, "PCG64"),
    "module": (lambda: OF_A_MODULE.numbers.random(), "Random"),
    "container": (Owner().of_a_container, "MT19937"),
    "partial": (Owner().of_a_partial, "MT19937"),
    "class": (Owner().of_the_class, "Random"),
}


@pytest.mark.parametrize("place", HIDDEN)
@pytest.mark.parametrize("key_filter", ["inference_network", "tensor:qlogits"])
def test_rare_events_beside_random_numbers_of_torch_are_refused(place: str, key_filter: str) -> None:
    """They change no result of the few passes that are compared."""
    rare, kind = HIDDEN[place]

    def numbers(shape: torch.Size) -> Tensor:
        return torch.rand(shape, dtype=torch.float64) * (0.0 if rare() > 10 else 1.0)

    x, (estimator,) = torch.ones(3, 1, dtype=torch.float64), make("vimco", iw=4).values()
    message = rf"^Sampled or its estimator, by a generator of its own \({kind}\), draws .*: draw through torch\.rand.*$"
    with pytest.raises(ValueError, match=message):
        get_gradients_statistics(estimator, Sampled(numbers), x, 10, key_filter=key_filter)


def test_a_generator_that_a_pass_does_not_use_is_no_obstacle() -> None:
    """Such as that of sample_from_prior, or of the operating system, which has no state."""
    idle, system = np.random.default_rng(0), random.SystemRandom()

    def numbers(shape: torch.Size) -> Tensor:
        if len(shape) > 99:
            idle.random(), system.random()
        return torch.rand(shape, dtype=torch.float64)

    x, (estimator,) = torch.ones(3, 1, dtype=torch.float64), make("vimco", iw=4).values()
    assert find_generators(numbers) == [idle.bit_generator]
    before = idle.bit_generator.state
    stats, _ = get_gradients_statistics(estimator, Sampled(numbers), x, 10, seed=1)
    assert stats["grads"]["variance"] > 0
    assert idle.bit_generator.state == before


def test_the_refusal_of_a_changing_state_names_both_causes() -> None:
    """A counter that anneals a temperature can't be told from a generator."""
    x, (estimator,) = torch.ones(20, 1, dtype=torch.float64), make("vimco", iw=4).values()
    with pytest.raises(ValueError, match=r"a generator of its own .*, or .* a counter .*\(leave the state as it is"):
        get_gradients_statistics(estimator, Sampled(Counter()), x, 10)


class Unsteady(nn.Module):
    """A baseline with noise from a generator of its own: the loss's value does not show it, but its gradient does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.generator = nn.Linear(1, 1).double(), np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        noise: Tensor = torch.as_tensor(self.generator.normal(size=len(x)))
        return self.layer(x).squeeze(-1) + noise


@pytest.mark.parametrize("key_filter", ["inference_network", "tensor:qlogits"])
def test_a_baseline_with_a_generator_of_its_own_is_refused(key_filter: str) -> None:
    model, x = ParticleForm(OneBernoulli()), torch.ones(3, 1, dtype=torch.float64)
    estimator = ReinforceBaseline(baseline=Unsteady(), mc=1, iw=3)
    with pytest.raises(ValueError, match=r"ParticleForm or its estimator, by a generator of its own \(PCG64\),"):
        get_gradients_statistics(estimator, model, x, 10, key_filter)


def test_the_same_model_with_numbers_of_torch_is_analysed() -> None:
    """The variance of VIMCO with two particles, by enumeration (tests/analysis/test_oracle.py), for ten equal data."""
    x, (estimator,) = torch.ones(10, 1, dtype=torch.float64), make("vimco", iw=2).values()
    model, key = Sampled(lambda shape: torch.rand(shape, dtype=torch.float64)), "inference_network.bias"
    stats, _ = get_gradients_statistics(estimator, model, x, 1000, key, seed=1)
    assert stats["grads"]["variance"].item() == pytest.approx(0.13252962 / 10, rel=0.2)


@pytest.mark.parametrize(("numbers", "name"), [FOREIGN["numpy"], FOREIGN["a generator of numpy"]])
def test_noise_of_other_generators_is_not_enumerated(numbers: Callable[[torch.Size], Any], name: str) -> None:
    class Noisy(ParticleForm):
        def generate(self, z: Any, h: Any, tau: float) -> Any:
            noisy = z[0] * torch.as_tensor(numbers(z[0].shape))
            return self.problem.likelihood([noisy, z[1]]), [self.problem.prior(i, z) for i in range(2)]

    x, (estimator,), model = torch.ones(1, 1, dtype=torch.float64), make("vimco", iw=2).values(), Noisy(TwoBernoulli())
    name = name.replace("Sampled", "Noisy")
    for analyse in (
        lambda: exact_gradient(model, x, 2),
        lambda: exact_moments(estimator, model, x),
        lambda: check_estimator(estimator, model, x),
    ):
        with pytest.raises(ValueError, match=name):
            analyse()


def test_a_model_may_write_into_its_random_numbers() -> None:
    """The numbers are supplied again to the next estimator."""

    def numbers(shape: torch.Size) -> Tensor:
        return torch.rand(shape, dtype=torch.float64).mul_(3).sub_(1)

    x, estimators = torch.ones(3, 1, dtype=torch.float64), make("vimco", iw=4) | make("rws", iw=4)
    together = compare_gradients(estimators, Sampled(numbers), x, 10, seed=1)
    for name, estimator in estimators.items():
        alone, _ = get_gradients_statistics(estimator, Sampled(numbers), x, 10, seed=1)
        assert together[name][0]["grads"]["variance"].item() == pytest.approx(alone["grads"]["variance"].item())
    given = torch.rand(2, 3)
    kept = given.clone()
    with RandomInputs([given]):
        torch.rand(2, 3).zero_()
    assert torch.equal(given, kept)


def test_a_state_in_buffers_and_batch_statistics_are_no_other_numbers() -> None:
    """Every draw begins with the same buffers."""
    torch.manual_seed(3)
    layer = nn.Sequential(nn.utils.spectral_norm(nn.Linear(1, 1)), nn.BatchNorm1d(1)).double().train()
    layer.append(nn.Softplus())
    model, x = Drawn(layer), torch.ones(5, 1, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.named_buffers()}
    stats, _ = get_gradients_statistics(*make("vimco", iw=4).values(), model, x, 10, seed=1)
    assert stats["grads"]["variance"] > 0
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_category_of_probability_zero_is_not_drawn(dtype: torch.dtype) -> None:
    """Not even by the largest uniform number, whose product with the sum of the probabilities may round to the sum."""
    probs = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0], dtype=dtype).expand(4, -1)
    noise = torch.tensor([[0.0], [0.25], [0.5], [1.0]])
    with RandomInputs([noise]):
        drawn = torch.multinomial(probs, 1)
    assert drawn.flatten().tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("function", ["bernoulli", "multinomial", "dropout"])
def test_rare_events_in_half_precision_are_as_rare_as_they_should_be(function: str) -> None:
    """Noise in bfloat16 has 256 values: 1e-3 would be 1/256 or never."""
    p, count = 1e-3, 400_000
    x = torch.full((1, count), p, dtype=torch.bfloat16)
    run = {
        "bernoulli": lambda: torch.bernoulli(x).sum(),
        "multinomial": lambda: torch.multinomial(torch.stack([1 - x[0], x[0]], -1), 1).sum(),
        "dropout": lambda: (F.dropout(torch.ones_like(x), p) == 0).sum(),
    }[function]
    requests, _ = record_random_inputs(run)
    with RandomInputs(make_random_inputs(requests, range(1), torch.device("cpu"), 3, 0)):
        found = run().item()
    exact = count * (p if function == "dropout" else x[0, 0].item())
    assert found == pytest.approx(exact, abs=4 * exact**0.5)
