"""Small models with exact answers, float64: every expectation over K particles is a finite sum.

A :class:`Problem` knows its densities and all values ("states") of its latents; a Normal latent has the nodes of a
trapezoidal rule, which is exact to rounding for these densities. :func:`expectation` runs an estimator once on *all*
tuples of states, each as a datum of its own, and weights the losses by the probability of the tuple: no sampling noise.
:func:`exact_bound` is the same sum written down without any code of the package.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, OneHotCategorical

from ovis.models import Model, SigmoidBeliefNetwork, Template
from ovis.models.distributions import BernoulliVector


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def linear(weight: Any, bias: Any) -> nn.Linear:
    """A float64 nn.Linear with these weights [out, in] and biases [out]."""
    weight, bias = torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def parameter(value: Any) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------------------- problems


class Problem(nn.Module, ABC):
    """Densities of x [*, 1] and z_1..z_L (the one nearest to x first); phi are the parameters ``inference_network``."""

    depth = 1

    @abstractmethod
    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        """q(z_layer | the layers below, x)."""

    @abstractmethod
    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        """p(z_layer | the layers above)."""

    @abstractmethod
    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        """p(x | z)."""

    @abstractmethod
    def states(self) -> tuple[list[Tensor], Tensor]:
        """Every value of z, for each layer [n, *event], and the logarithm of its measure [n]."""

    def features(self, x: Tensor) -> Tensor:
        return x

    def log_densities(self, x: Tensor) -> LogDensities:
        """Of one datum x [1], in all states."""
        states, measure = self.states()
        count = len(measure)
        features = self.features(x.expand(count, 1))
        q = [self.posterior(i, features, states[:i]).log_prob(states[i]) for i in range(self.depth)]
        p = [self.prior(i, states).log_prob(states[i]) for i in range(self.depth)]
        px = self.likelihood(states).log_prob(x.expand(count, 1))
        flat = [item.expand(count, *item.shape[1:]).reshape(count, -1).sum(-1) for item in (px, *p, *q)]
        return LogDensities(
            flat[0], torch.stack(flat[1 : 1 + self.depth], -1), torch.stack(flat[1 + self.depth :], -1), measure
        )


class LogDensities(NamedTuple):
    px: Tensor  # [n]
    pz: Tensor  # [n, L]
    qz: Tensor  # [n, L]
    measure: Tensor  # [n]

    def log_w(self, beta: float = 1.0, freebits: float | None = None) -> Tensor:
        gaps = self.qz - self.pz
        gaps = gaps if freebits is None else gaps.clamp(min=freebits)
        return self.px - beta * gaps.sum(-1)

    @property
    def log_probability(self) -> Tensor:
        """Of each state under q: [n]."""
        return self.qz.sum(-1) + self.measure


def bits(count: int) -> tuple[list[Tensor], Tensor]:
    """All values of ``count`` binary layers, each [2^count, 1]."""
    values = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * count).view(-1, count)
    return [column.unsqueeze(-1) for column in values.unbind(-1)], torch.zeros(2**count, dtype=torch.float64)


class OneBernoulli(Problem):
    """One Bernoulli latent: at x = 1, q has the logit -0.4, p(x, z=0) = .1 and p(x, z=1) = .3."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = linear([[-0.7]], [0.3])
        self.generative_model = linear([[logit(0.5) - logit(0.25)]], [logit(0.25)])
        self.prior_logits = parameter([logit(0.6)])

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.inference_network(features))

    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.prior_logits)

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.generative_model(z[0]))

    def states(self) -> tuple[list[Tensor], Tensor]:
        return bits(1)


class TwoBernoulli(Problem):
    """A hierarchy: q(z_1|x) q(z_2|z_1), p(z_2) p(z_1|z_2) p(x|z_1)."""

    depth = 2

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = nn.ModuleList([linear([[0.9]], [-0.5]), linear([[-1.3]], [0.4])])
        self.generative_model = nn.ModuleList([linear([[2.0]], [-1.1]), linear([[-0.8]], [0.6])])
        self.prior_logits = parameter([0.35])

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.inference_network[layer](z[-1] if layer else features))

    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.prior_logits if layer else self.generative_model[1](z[1]))

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.generative_model[0](z[0]))

    def states(self) -> tuple[list[Tensor], Tensor]:
        return bits(2)


class RareCategorical(Problem):
    """p(z) = (.95, .01 x 5); the data are likely only in one of the rare states."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = linear([[0.4], [0.1], [-0.3], [0.2], [0.5], [0.0]], [1.5, -0.2, 0.3, -0.5, 0.1, 0.0])
        self.prior_logits = parameter([math.log(0.95)] + [math.log(0.01)] * 5)
        self.generative_model = parameter([-2.0, 1.5, -0.5, 0.3, -1.0, 3.0])

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        return Categorical(logits=self.inference_network(features))

    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        return Categorical(logits=self.prior_logits)

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.generative_model[z[0]].unsqueeze(-1))

    def states(self) -> tuple[list[Tensor], Tensor]:
        return [torch.arange(6)], torch.zeros(6, dtype=torch.float64)


class MaskedCategorical(Problem):
    """Three categories, of which q and p exclude the last: its logits are -inf, and it is none of the states."""

    allowed = (True, True, False)

    def __init__(self, law: type[Categorical | OneHotCategorical] = Categorical, masked_q: bool = True) -> None:
        super().__init__()
        self.law, self.masked_q = law, masked_q
        self.inference_network = linear([[0.4], [0.1], [-0.3]], [0.5, -0.2, 0.3])
        self.prior_logits = parameter([0.2, -0.7, 0.4])
        self.generative_model = parameter([-1.0, 1.5, -0.5])

    def masked(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(~torch.tensor(self.allowed), -math.inf)

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        logits = self.inference_network(features)
        return self.law(logits=self.masked(logits) if self.masked_q else logits)

    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        return self.law(logits=self.masked(self.prior_logits))

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        logits = self.generative_model[z[0]] if self.law is Categorical else z[0] @ self.generative_model
        return Bernoulli(logits=logits.unsqueeze(-1))

    def states(self) -> tuple[list[Tensor], Tensor]:
        index = torch.arange(3)[torch.tensor(self.allowed)]
        z = index if self.law is Categorical else torch.eye(3, dtype=torch.float64)[index]
        return [z], torch.zeros(len(index), dtype=torch.float64)


class BernoulliNormal(Problem):
    """Mixed: q(z_1|x) Bernoulli and q(z_2|z_1) Normal; p(z_2) Normal, p(z_1|z_2) Bernoulli, p(x|z_1)."""

    depth = 2
    nodes, reach = 56, 9.0

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = nn.ModuleDict(
            {
                "lower": linear([[0.6]], [-0.2]),
                "upper": linear([[0.9]], [-0.3]),
                "scale": nn.ParameterList([parameter(-0.1)]),
            }
        )
        self.generative_model = nn.ModuleList([linear([[1.2]], [-0.4]), linear([[0.7]], [0.1])])
        self.prior_mean = parameter([0.2])

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        if layer == 0:
            return Bernoulli(logits=self.inference_network["lower"](features))
        return Normal(self.inference_network["upper"](z[0]), self.inference_network["scale"][0].exp())

    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        return Normal(self.prior_mean, 1.0) if layer else Bernoulli(logits=self.generative_model[1](z[1]))

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        return Bernoulli(logits=self.generative_model[0](z[0]))

    def states(self) -> tuple[list[Tensor], Tensor]:
        grid, measure = trapezoid(self.nodes, self.reach)
        lower = torch.arange(2.0, dtype=torch.float64).repeat_interleave(self.nodes).unsqueeze(-1)
        return [lower, grid.repeat(2).unsqueeze(-1)], measure.repeat(2)


class OneNormal(Problem):
    """z ~ N(mu, 1), x|z ~ N(z, 1), q = N(a x + b, s): a scale other than 1, which is a parameter of q."""

    nodes, reach = 72, 11.0

    def __init__(self, a: float = 0.8, b: float = -0.3, scale: float = 0.6, mu: float = 0.2) -> None:
        super().__init__()
        self.inference_network = nn.ModuleDict(
            {"mean": linear([[a]], [b]), "scale": nn.ParameterList([parameter(math.log(scale))])}
        )
        self.prior_mean = parameter([mu])

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        return Normal(self.inference_network["mean"](features), self.inference_network["scale"][0].exp())

    def prior(self, layer: int, z: Sequence[Tensor]) -> Distribution:
        return Normal(self.prior_mean, 1.0)

    def likelihood(self, z: Sequence[Tensor]) -> Distribution:
        return Normal(z[0], 1.0)

    def states(self) -> tuple[list[Tensor], Tensor]:
        grid, measure = trapezoid(self.nodes, self.reach)
        return [grid.unsqueeze(-1)], measure


def trapezoid(nodes: int, reach: float) -> tuple[Tensor, Tensor]:
    """Nodes on [-reach, reach] and their log measure: exact to rounding for what falls off like a Normal density."""
    grid = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
    return grid, torch.full_like(grid, math.log(2 * reach / (nodes - 1)))


DISCRETE: dict[str, Callable[[], Problem]] = {
    "one-bernoulli": OneBernoulli,
    "two-bernoulli": TwoBernoulli,
    "rare-categorical": RareCategorical,
}


# ----------------------------------------------------------------------------------------- two forms of the problems


class ParticleForm(Model):
    """A problem as a model of the package's own kind; counts the data that were encoded."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem = problem
        self.encoded_rows: list[int] = []

    def encode(self, x: Tensor) -> Tensor:
        self.encoded_rows.append(len(x))
        return self.problem.features(x)

    def q(self, h: Tensor) -> Generator[Distribution, Tensor, None]:
        z: list[Tensor] = []
        for layer in range(self.problem.depth):
            z.append((yield self.problem.posterior(layer, h, z)))

    def p(self, z: Tensor | list[Tensor], h: Tensor) -> tuple[Distribution, list[Distribution]]:
        layers = [z] if isinstance(z, Tensor) else z
        priors = [self.problem.prior(layer, layers) for layer in range(self.problem.depth)]
        return self.problem.likelihood(layers), priors

    def sample_from_prior(self, bs: int, **kwargs: Any) -> dict[str, Any]:
        return dream(self.problem, bs)


class ReadmeForm(Template):
    """A problem as the seed's README writes models: x comes repeated, one sample for each row."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> dict[str, Any]:
        z: list[Tensor] = []
        qz = []
        for layer in range(self.problem.depth):
            q = self.problem.posterior(layer, self.problem.features(x), z)
            z.append(q.rsample() if zgrads else q.sample())
            qz.append(q)
        pz = [self.problem.prior(layer, z) for layer in range(self.problem.depth)]
        return {"px": self.problem.likelihood(z), "z": z, "qz": qz, "pz": pz}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> dict[str, Any]:
        return dream(self.problem, bs)


class ReadmeFormGivenZ(ReadmeForm):
    """The same, and it scores given samples: what the sleep phase needs."""

    def forward(self, x: Tensor, zgrads: bool = False, z: Sequence[Tensor] | None = None, **kwargs: Any) -> Any:
        if z is None:
            return super().forward(x, zgrads, **kwargs)
        qz = [self.problem.posterior(i, self.problem.features(x), z[:i]) for i in range(self.problem.depth)]
        pz = [self.problem.prior(i, z) for i in range(self.problem.depth)]
        return {"px": self.problem.likelihood(z), "z": list(z), "qz": qz, "pz": pz}


def dream(problem: Problem, count: int) -> dict[str, Any]:
    """Ancestral samples, from the top layer down."""
    z: list[Tensor] = []
    pz: list[Distribution] = []
    for layer in reversed(range(problem.depth)):
        above = [torch.empty(0)] * (layer + 1) + z
        p = problem.prior(layer, above)
        if p.batch_shape[:1] != (count,):
            p = p.expand(torch.Size((count,)) + p.batch_shape)
        pz.insert(0, p)
        z.insert(0, p.sample())
    return {"px": problem.likelihood(z), "z": z, "pz": pz}


FORMS: dict[str, Callable[[Problem], Template]] = {"particles": ParticleForm, "readme": ReadmeFormGivenZ}


class SmallBeliefNetwork(Problem):
    """The package's own sigmoid belief network, with one unit in each of two layers: give ``.model`` to estimators."""

    depth = 2

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.model = SigmoidBeliefNetwork((1,), N=1, depth=2).double()
            for item in self.model.parameters():
                nn.init.normal_(item, std=0.8)

    def log_densities(self, x: Tensor) -> LogDensities:
        states, measure = self.states()
        # Bernoulli log-probabilities by hand: the network is only asked for its weights
        q1, q2 = self.model.inference_network
        p1, p2 = self.model.generative_model
        z1, z2 = states

        def log_bernoulli(value: Tensor, logits: Tensor) -> Tensor:
            return (value * torch.log(torch.sigmoid(logits)) + (1 - value) * torch.log(torch.sigmoid(-logits))).sum(-1)

        inputs = (x - self.model.mean + 1) / 2
        qz = [log_bernoulli(z1, q1(inputs)), log_bernoulli(z2, q2(2 * z1 - 1))]
        pz = [log_bernoulli(z1, p2(2 * z2 - 1)), log_bernoulli(z2, self.model.prior_logits)]
        px = log_bernoulli(x, p1(2 * z1 - 1))
        return LogDensities(px, torch.stack(pz, -1), torch.stack(qz, -1), measure)

    def states(self) -> tuple[list[Tensor], Tensor]:
        return bits(2)

    def posterior(self, layer: int, features: Tensor, z: Sequence[Tensor]) -> Distribution:
        raise NotImplementedError

    prior = likelihood = posterior  # type: ignore[assignment]


# ------------------------------------------------------------------------------------------------- scripted sampling


@contextmanager
def scripted(draws: Sequence[Tensor]) -> Iterator[None]:
    """Whatever is sampled inside takes these values, in this order; all must be used up.

    Normal ``rsample`` takes them as its standard normal noise. Any model can be enumerated so, unchanged.
    """
    queue = list(draws)

    def take(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        assert queue, "more samples were drawn than expected"
        value = queue.pop(0)
        assert value.numel() == math.prod(shape), f"expected {tuple(value.shape)}, the model drew {tuple(shape)}"
        return value.reshape(shape).to(dtype)

    def sample(self: Distribution, sample_shape: Any = ()) -> Tensor:
        dtype = torch.long if isinstance(self, Categorical) else torch.float64
        return take(self._extended_shape(torch.Size(sample_shape)), dtype)

    def noise(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        return take(torch.Size(shape), dtype)

    with ExitStack() as stack:
        for kind in (Bernoulli, Categorical, Normal, BernoulliVector):
            stack.enter_context(mock.patch.object(kind, "sample", sample))
        stack.enter_context(mock.patch("torch.distributions.normal._standard_normal", noise))
        yield
    assert not queue, f"{len(queue)} samples were never drawn"


def all_tuples(values: int, length: int) -> Tensor:
    """Every tuple of indices, [values ** length, length]."""
    return torch.cartesian_prod(*[torch.arange(values)] * length).view(-1, length)


class Expectation(NamedTuple):
    value: float  # of the loss
    phi: Tensor  # gradient of the loss, all parameters of q in one vector
    theta: Tensor


def phi_of(model: nn.Module) -> list[nn.Parameter]:
    return [item for name, item in model.named_parameters() if "inference_network" in name]


def theta_of(model: nn.Module) -> list[nn.Parameter]:
    return [item for name, item in model.named_parameters() if "inference_network" not in name]


def gradient(value: Tensor, parameters: Sequence[nn.Parameter], retain: bool = True) -> Tensor:
    """One vector; zeros for parameters that do not matter."""
    grads = torch.autograd.grad(value, list(parameters), retain_graph=retain, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, grads, strict=True)]
    )


def expectation(
    estimator: nn.Module, model: nn.Module, problem: Problem, x: float, *, extra: int = 0, **overrides: Any
) -> Expectation:
    """Exact expectation of an estimator's loss and gradients, over all particles and auxiliary ones.

    Args:
        estimator: its settings say how many particles are drawn.
        model: either form of the problem.
        x: the datum.
        extra: S, of an estimator that draws S samples on top for each bound.
        overrides: passed on at the call.
    """
    settings = estimator._settings(estimator.settings, overrides)
    drawn, auxiliary = settings.mc * settings.iw, settings.mc * extra
    datum = torch.tensor([x], dtype=torch.float64)
    states, _ = problem.states()
    log_probability = problem.log_densities(datum).log_probability.detach()
    index = all_tuples(len(log_probability), drawn + auxiliary)
    weights = log_probability[index].sum(-1).exp()
    draws = [layer[part] for part in index.split([drawn, auxiliary], -1) if part.shape[-1] for layer in states]
    with scripted(draws):
        loss, _, _ = estimator(model, datum.expand(len(index), 1), **overrides)
    assert loss.shape == (len(index),)
    total = (weights * loss).sum()
    return Expectation(total.item(), gradient(total, phi_of(model)), gradient(total, theta_of(model), retain=False))


def expectation_reparameterized(
    estimator: nn.Module, model: nn.Module, x: float, *, nodes: int = 40, reach: float = 8.0, **overrides: Any
) -> Expectation:
    """The same for a Normal q that is reparameterized: a sum over the noise instead of the samples."""
    settings = estimator._settings(estimator.settings, overrides)
    grid, measure = trapezoid(nodes, reach)
    log_probability = measure - grid.square() / 2 - math.log(2 * math.pi) / 2
    index = all_tuples(nodes, settings.mc * settings.iw)
    weights = log_probability[index].sum(-1).exp()
    with scripted([grid[index]]):
        loss, _, _ = estimator(model, torch.full((len(index), 1), x, dtype=torch.float64), **overrides)
    total = (weights * loss).sum()
    return Expectation(total.item(), gradient(total, phi_of(model)), gradient(total, theta_of(model), retain=False))


# ----------------------------------------------------------------------------------------------------- exact answers


class Exact(NamedTuple):
    bound: float
    phi: Tensor  # gradient of the bound
    theta: Tensor
    wake_phi: Tensor  # E sum_k v_k grad log q(z_k|x)


def exact_bound(
    problem: Problem, x: float, particles: int, alpha: float = 0.0, beta: float = 1.0, freebits: float | None = None
) -> Exact:
    """L_K^alpha = sum over all tuples of prod_k q(z_k) 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha), differentiated."""
    densities = problem.log_densities(torch.tensor([x], dtype=torch.float64))
    index = all_tuples(len(densities.measure), particles)
    log_w = densities.log_w(beta, freebits)[index] * (1 - alpha)
    probability = densities.log_probability[index].sum(-1).exp()
    bound = (probability * (log_w.logsumexp(-1) - math.log(particles)) / (1 - alpha)).sum()
    weights = log_w.softmax(-1).detach() * probability.detach().unsqueeze(-1)
    wake = (weights * densities.qz.sum(-1)[index]).sum()
    phi, theta = phi_of(problem), theta_of(problem)
    return Exact(bound.item(), gradient(bound, phi), gradient(bound, theta), gradient(wake, phi))


def exact_evidence(problem: Problem, x: float) -> float:
    """log p(x)."""
    densities = problem.log_densities(torch.tensor([x], dtype=torch.float64))
    return (densities.px + densities.pz.sum(-1) + densities.measure).logsumexp(0).item()
