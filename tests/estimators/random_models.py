"""Random latent-variable models: hypothesis draws a :class:`Spec`, from which both forms of a model are built.

The layers are z_1, the one nearest to x, to z_L:  p(x|z_1) p(z_1|z_2) ... p(z_L)  and  q(z_1|x) q(z_2|z_1, x) ...
A conditional is an affine map of the values it depends on; its outputs, ``raw``, determine the parameters of a family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
)
from torch.nn.functional import one_hot, softplus

from ovis.models import Model, Template
from ovis.models.distributions import BernoulliVector, OneHotVector, has_rsample

CATEGORIES = 4
FEATURES = 3

#: support -> families of distributions on it
SUPPORTS = {
    "bits": ("bernoulli",),
    "one-hot": ("one-hot",),
    "category": ("category",),
    "real": ("normal", "mixture"),
    "positive": ("lognormal", "gamma"),
    "unit": ("beta",),
}
#: outputs of the network for each variable
RAW = {"bernoulli": 1, "one-hot": CATEGORIES, "category": CATEGORIES, "mixture": 6}
FAMILIES = tuple(family for families in SUPPORTS.values() for family in families)
REPARAMETERIZED = ("normal", "lognormal", "gamma")
#: those that torch can draw in bfloat16, and whose parameters it leaves as they are
HALF = ("bernoulli", "one-hot", "normal", "lognormal")
SHAPES = ((), (1,), (3,), (2, 2), (1, 2, 3))


@dataclass(frozen=True)
class Conditional:
    """A distribution of a variable: its family, how torch is given it, and its categories of probability 0."""

    family: str
    independent: bool = True  # one event, or as many as there are variables
    fast: bool = True  # the package's own class, where there is one
    narrow: bool = True  # left without the dimensions in which it does not vary
    impossible: tuple[int, ...] = ()

    @property
    def outputs(self) -> int:
        return RAW.get(self.family, 2)


@dataclass(frozen=True)
class Layer:
    """z_l, or x (whose q is not used)."""

    support: str
    shape: tuple[int, ...]
    q: Conditional
    p: Conditional

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one value."""
        return (*self.shape, CATEGORIES) if self.support == "one-hot" else self.shape

    @property
    def width(self) -> int:
        """Numbers that a network is given of one value."""
        return math.prod(self.shape) * (CATEGORIES if self.support in ("one-hot", "category") else 1)


@dataclass(frozen=True)
class Spec:
    """A model, its data, and the settings of the estimators."""

    form: str  # particles: a Model; repeated: a Template
    x: Layer
    layers: tuple[Layer, ...]
    dtype: torch.dtype
    batch: int
    mc: int
    iw: int
    alpha: float
    beta: float
    freebits: float | None
    size: int  # particles in a chunk
    seed: int


# ------------------------------------------------------------------------------------------------ what hypothesis draws


def supports_of(families: Sequence[str]) -> list[str]:
    return [name for name, on_it in SUPPORTS.items() if set(on_it) & set(families)]


@st.composite
def conditionals(draw: st.DrawFn, support: str, families: Sequence[str], impossible: bool) -> Conditional:
    masks = [(), (CATEGORIES - 1,), (0, 2)] if impossible and support in ("one-hot", "category") else [()]
    return Conditional(
        draw(st.sampled_from([name for name in SUPPORTS[support] if name in families])),
        independent=draw(st.booleans()),
        fast=draw(st.booleans()),
        narrow=draw(st.booleans()),
        impossible=draw(st.sampled_from(masks)),
    )


@st.composite
def layers(draw: st.DrawFn, q_families: Sequence[str], p_families: Sequence[str], particles: int) -> Layer:
    support = draw(st.sampled_from(supports_of(q_families)))
    q = draw(conditionals(support, q_families, impossible=True))
    # with p(z) = 0 where q draws, a log-weight is -inf: only where other particles are left
    p = draw(conditionals(support, p_families, impossible=bool(q.impossible) or particles >= 5))
    if particles < 5 and not set(p.impossible) <= set(q.impossible):
        p = replace(p, impossible=q.impossible)
    return Layer(support, draw(st.sampled_from(SHAPES[:4])), q, p)


@st.composite
def specs(
    draw: st.DrawFn,
    depths: Sequence[int] = (1, 2, 3),
    q_families: Sequence[str] = FAMILIES,
    p_families: Sequence[str] = FAMILIES,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
) -> Spec:
    """Models with K = 1, 2 or 5 particles, 1 or 2 bounds and 1 to 3 data."""
    mc, iw = draw(st.sampled_from((1, 2))), draw(st.sampled_from((1, 2, 5)))
    form = draw(st.sampled_from(("particles", "repeated")))
    support = draw(st.sampled_from(supports_of(p_families)))
    observed = draw(conditionals(support, p_families, impossible=False))
    return Spec(
        form=form,
        x=Layer(support, draw(st.sampled_from(SHAPES)), observed, observed),
        layers=tuple(draw(layers(q_families, p_families, iw)) for _ in range(draw(st.sampled_from(depths)))),
        dtype=draw(st.sampled_from(dtypes)),
        batch=draw(st.sampled_from((1, 2, 3))),
        mc=mc,
        iw=iw,
        alpha=draw(st.sampled_from((0.0, 0.3, 0.9))),
        beta=draw(st.sampled_from((1.0, 0.6, 1.7))),
        freebits=draw(st.sampled_from((None, None, 0.1))),
        size=draw(st.integers(1, max(1, mc * iw - 1))),
        seed=draw(st.integers(0, 2**31 - 1)),
    )


# ------------------------------------------------------------------------------------------- networks and distributions

Weights = Mapping[str, Tensor]


def affine(weights: Weights, name: str, inputs: Tensor) -> Tensor:
    """[..., n] -> [..., m], without a matrix product, which would round differently for another number of rows."""
    weight = weights[f"{name}_weight"]
    return (weight * inputs.to(weight.dtype).unsqueeze(-2)).sum(-1) + weights[f"{name}_bias"]


def embed(layer: Layer, z: Tensor) -> Tensor:
    """What a network is given of values [*lead, *event]: [*lead, width]."""
    lead = z.shape[: z.dim() - len(layer.event)]
    if layer.support == "category":
        z = one_hot(z.long(), CATEGORIES)
    elif layer.support not in ("bits", "one-hot"):
        z = z.tanh()
    return z.reshape(*lead, layer.width)


def raw_of_q(spec: Spec, weights: Weights, index: int, features: Tensor, z: Sequence[Tensor]) -> Tensor:
    """[*lead, *shape, outputs] of q(z_index | z below, x)."""
    layer = spec.layers[index]
    inputs = features
    if index:
        below = embed(spec.layers[index - 1], z[index - 1])
        inputs = torch.cat([features.expand(*below.shape[:-1], -1), below.to(features.dtype)], -1)
    raw = affine(weights, f"inference_network_{index}", inputs)
    return raw.reshape(*raw.shape[:-1], *layer.shape, layer.q.outputs)


def raw_of_p(spec: Spec, weights: Weights, index: int, z: Sequence[Tensor]) -> Tensor:
    """[*lead, *shape, outputs] of p(z_index | z above), without lead at the top; index -1: p(x | z_0)."""
    layer = spec.layers[index] if index >= 0 else spec.x
    if index + 1 == len(spec.layers):
        return weights["prior"]
    raw = affine(weights, f"generative_model_{index + 1}", embed(spec.layers[index + 1], z[index + 1]))
    return raw.reshape(*raw.shape[:-1], *layer.shape, layer.p.outputs)


def features_of(spec: Spec, weights: Weights, x: Tensor) -> Tensor:
    """[*lead, *event] -> [*lead, FEATURES]."""
    return affine(weights, "inference_network_x", embed(spec.x, x)).tanh()


class Parameters(NamedTuple):
    """Of a family; ``second`` and ``logits`` where it has them."""

    first: Tensor
    second: Tensor
    logits: Tensor


def parameters(conditional: Conditional, raw: Tensor) -> Parameters:
    """Bernoulli: logits. Categories: logits. Normal and LogNormal: location, scale; of each component in a mixture.

    Gamma: concentration, rate. Beta: both concentrations.
    """
    family = conditional.family
    if family in ("one-hot", "category"):
        mask = torch.zeros(CATEGORIES, dtype=torch.bool)
        mask[list(conditional.impossible)] = True
        return Parameters(raw, raw, raw.masked_fill(mask, -math.inf))
    if family == "bernoulli":
        return Parameters(raw[..., 0], raw[..., 0], raw[..., 0])
    if family == "mixture":
        return Parameters(raw[..., 0:2], (raw[..., 2:4].tanh() / 2).exp(), raw[..., 4:6])
    first, second = raw[..., 0], (raw[..., 1].tanh() / 2).exp()
    if family in ("gamma", "beta"):
        first = 1 + softplus(first)
    return Parameters(first, second, first)


def distribution(layer: Layer, conditional: Conditional, raw: Tensor) -> Distribution:
    """The distribution that a model returns."""
    first, second, logits = parameters(conditional, raw)
    dims = len(layer.shape)
    if conditional.family == "bernoulli" and conditional.fast and conditional.independent and dims:
        return BernoulliVector(logits, dims)
    if conditional.family == "one-hot" and (conditional.fast or logits.dtype == torch.bfloat16):
        made: Distribution = OneHotVector(logits)
    elif conditional.family == "mixture":
        made = MixtureSameFamily(Categorical(logits=logits), Normal(first, second))
    else:
        made = {
            "bernoulli": lambda: Bernoulli(logits=logits),
            "one-hot": lambda: OneHotCategorical(logits=logits),
            "category": lambda: Categorical(logits=logits),
            "normal": lambda: Normal(first, second),
            "lognormal": lambda: LogNormal(first, second),
            "gamma": lambda: Gamma(first, second),
            "beta": lambda: Beta(first, second),
        }[conditional.family]()
    return Independent(made, dims) if conditional.independent and dims else made


def random_data(spec: Spec) -> Tensor:
    """Values of x, [B, *event]."""
    shape = (spec.batch, *spec.x.shape)
    category = torch.randint(CATEGORIES, shape)
    if spec.x.support == "category":  # a Model takes no integers
        return category if spec.form == "repeated" else category.to(spec.dtype)
    if spec.x.support == "one-hot":
        return one_hot(category, CATEGORIES).to(spec.dtype)
    normal = torch.randn(shape, dtype=torch.float64)
    by_support = {"bits": normal > 0, "real": normal, "positive": normal.exp(), "unit": normal.sigmoid()}
    return by_support[spec.x.support].to(spec.dtype)


# ------------------------------------------------------------------------------------------------ the model's two forms


class Draw(NamedTuple):
    """The values of one call of a model, detached; R rows, those of one datum next to each other."""

    x: Tensor  # [B or R, *event]
    z: list[Tensor]  # [R, *event] each
    given: bool  # scored, not drawn


class Network(nn.Module):
    """The weights of a model, and what both forms compute. Phi are the parameters named inference_network."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.draws: list[Draw] = []
        self.broadcast = ("", 0)  # px, pz or qz, and its layer: a distribution with one dimension too many
        generator = torch.Generator().manual_seed(spec.seed)
        self.weights = nn.ParameterDict()

        def add(name: str, *shape: int) -> None:
            value = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.8
            self.weights[name] = nn.Parameter(value.to(spec.dtype))

        def add_affine(name: str, inputs: int, layer: Layer, outputs: int) -> None:
            add(f"{name}_weight", math.prod(layer.shape) * outputs, inputs)
            add(f"{name}_bias", math.prod(layer.shape) * outputs)

        add("inference_network_x_weight", FEATURES, spec.x.width)
        add("inference_network_x_bias", FEATURES)
        below = [0, *(layer.width for layer in spec.layers)]
        for i, layer in enumerate(spec.layers):
            add_affine(f"inference_network_{i}", FEATURES + below[i], layer, layer.q.outputs)
        for i, layer in enumerate((spec.x, *spec.layers[:-1])):
            add_affine(f"generative_model_{i}", spec.layers[i].width, layer, layer.p.outputs)
        top = spec.layers[-1]
        add("prior", *top.shape, top.p.outputs)

    def made(self, name: str, index: int, raw: Tensor, lead: Sequence[int]) -> Distribution:
        """A distribution of the output: px, or pz or qz of a layer."""
        layer = self.spec.x if name == "px" else self.spec.layers[index]
        conditional = layer.q if name == "qz" else layer.p
        wide = raw.expand(*lead, *layer.shape, conditional.outputs)
        if self.broadcast == (name, index):
            return distribution(layer, conditional, wide.unsqueeze(len(lead)))
        return distribution(layer, conditional, raw if conditional.narrow else wide)

    def posterior(
        self, features: Tensor, lead: tuple[int, ...], zgrads: bool, given: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        z: list[Tensor] = []
        qz: list[Distribution] = []
        for i, layer in enumerate(self.spec.layers):
            raw = raw_of_q(self.spec, self.weights, i, features, z)
            if given is not None:
                z.append(given[i])
            else:
                q = distribution(layer, layer.q, raw.expand(*lead, *layer.shape, layer.q.outputs))
                z.append(q.rsample() if zgrads and has_rsample(q) else q.sample())
            qz.append(self.made("qz", i, raw, lead))
        return z, qz

    def joint(self, z: Sequence[Tensor]) -> tuple[Distribution, list[Distribution]]:
        first = self.spec.layers[0]
        lead = z[0].shape[: z[0].dim() - len(first.event)]
        pz = [self.made("pz", i, raw_of_p(self.spec, self.weights, i, z), lead) for i in range(len(z))]
        return self.made("px", 0, raw_of_p(self.spec, self.weights, -1, z), lead), pz

    def dream(self, count: int) -> dict[str, Any]:
        """Ancestral samples, from the top layer down."""
        z = [torch.empty(0)] * len(self.spec.layers)
        for i in reversed(range(len(z))):
            layer = self.spec.layers[i]
            raw = raw_of_p(self.spec, self.weights, i, z).expand(count, *layer.shape, layer.p.outputs)
            z[i] = distribution(layer, layer.p, raw).sample()
        px, pz = self.joint(z)
        return {"px": px, "z": z, "pz": pz}

    def record(self, x: Tensor, z: Sequence[Tensor], given: bool) -> None:
        samples = [sample.detach().clone() for sample in z]
        layers = zip(samples, self.spec.layers, strict=True)
        self.draws.append(Draw(x.detach(), [item.reshape(-1, *layer.event) for item, layer in layers], given))


class Particles(Model):
    """A model that draws particles from the encoding of each datum."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.network = Network(spec)

    def encode(self, x: Tensor) -> Tensor:
        self.x = x
        return features_of(self.network.spec, self.network.weights, x)

    def infer(
        self, features: Tensor, lead: tuple[int, ...], zgrads: bool, tau: float, given: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        z, qz = self.network.posterior(features, lead, zgrads, given)
        self.network.record(self.x, z, given is not None)
        return z, qz

    def generate(self, z: Sequence[Tensor], h: Tensor, tau: float) -> tuple[Distribution, list[Distribution]]:
        return self.network.joint(z)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        return self.network.dream(bs)


class Repeated(Template):
    """A model that is given every datum once for each particle."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.network = Network(spec)

    def forward(self, x: Tensor, zgrads: bool = False, z: Sequence[Tensor] | None = None, **kwargs: Any) -> Any:
        features = features_of(self.network.spec, self.network.weights, x)
        samples, qz = self.network.posterior(features, (len(x),), zgrads, z)
        self.network.record(x, samples, z is not None)
        px, pz = self.network.joint(samples)
        return {"px": px, "z": samples, "qz": qz, "pz": pz}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        return self.network.dream(bs)


def build(spec: Spec) -> Particles | Repeated:
    """The model of a spec."""
    return Particles(spec) if spec.form == "particles" else Repeated(spec)
