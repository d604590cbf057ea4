"""x as a nest of tensors, and the contract of ``ovis.Model``."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal
from torch.func import functional_call, grad, stack_module_state, vmap

import ovis
from ovis.analysis.enumeration import exact_gradient, exact_moments
from ovis.analysis.gradients import compare_gradients, get_gradients_statistics
from ovis.analysis.importance_weights import weight_diagnostics
from ovis.analysis.oracle import check_estimator
from ovis.estimators.ids import example_ids
from ovis.estimators.sampling import draw, encode
from ovis.models import Masked, SigmoidBeliefNetwork, Template
from ovis.models.distributions import BernoulliVector

B, X, Z = 4, 3, 2
SCORED = [name for name in example_ids() if name not in ("wake-sleep", "wake-mix0.5", "ovis-S10") and "+" not in name]
PATHWISE = ("ciwae-beta0.05", "iwae", "vae", "stl", "dreg", "pathwise-iwae", "pathwise-vae")


class Tiny(ovis.Model):
    """The model of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inference_network, self.decoder = nn.Linear(X, Z).double(), nn.Linear(Z, X).double()
        self.encoded = 0

    def encode(self, x: Any) -> Any:
        self.encoded += len(self.target(x))
        return self.inference_network(self.target(x))

    def q(self, h: Any) -> Any:
        return Bernoulli(logits=h)

    def p(self, z: Tensor, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z)), Bernoulli(logits=z.new_zeros(Z))


class TinyNormal(Tiny):
    def q(self, h: Any) -> Any:
        return Normal(h, 0.7)

    def p(self, z: Tensor, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z)), Normal(z.new_zeros(Z), 1.0)


class Part:
    """The same model of one part of a dict."""

    def target(self, x: Any) -> Tensor:
        target: Tensor = x["image"]
        return target


class TinyOfDict(Part, Tiny):
    pass


class TinyNormalOfDict(Part, TinyNormal):
    pass


class Repeated(Template):
    """The same model, which is given x repeated."""

    def __init__(self, model: Tiny) -> None:
        super().__init__()
        self.model = model

    def target(self, x: Any) -> Tensor:
        return self.model.target(x)

    def forward(self, x: Any, zgrads: bool = False, **kwargs: Any) -> Any:
        return self.model(x, zgrads)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


def bits() -> Tensor:
    return (torch.arange(B * X).view(B, X) % 3 == 0).double()


def nest() -> dict[str, Any]:
    return {"label": torch.arange(B), "image": bits(), "more": (torch.ones(B, 1, dtype=torch.bool), [torch.zeros(B)])}


def gradients(estimator: Any, model: nn.Module, x: Any, **settings: Any) -> list[Tensor]:
    torch.manual_seed(1)
    loss, _, _ = estimator(model, x, **settings)
    parameters = list(model.parameters())
    return [loss.detach(), *torch.autograd.grad(loss.mean(), parameters)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.mark.parametrize("name", SCORED)
def test_a_dict_is_trained_on_as_its_part_is(name: str) -> None:
    kinds = (TinyNormal, TinyNormalOfDict) if name in PATHWISE else (Tiny, TinyOfDict)
    model, other = kinds[0](), kinds[1]()
    extra = {"particles_per_pass": 2}
    for settings in ({}, extra):
        results = []
        for x, each in ((bits(), model), (nest(), other)):
            torch.manual_seed(0)
            estimator = ovis.estimator(name, iw=4)
            if name == "reinforce-baseline":
                estimator(each, x)  # lazy parameters
            results.append(gradients(estimator, each, x, **settings))
        assert same(*results)
    if name != "reinforce-baseline":
        pairs = ((Repeated(model), bits()), (Repeated(other), nest()))
        assert same(*(gradients(ovis.estimator(name, iw=4), each, x) for each, x in pairs))


def test_it_is_encoded_once_for_a_datum() -> None:
    model = TinyOfDict()
    ovis.estimator("ovis-S3-exclusive", iw=5)(model, nest())
    assert model.encoded == B


def test_the_analysis_of_a_dict_is_that_of_its_part() -> None:
    estimator = ovis.estimator("vimco", iw=2)
    stats = [
        get_gradients_statistics(estimator, model, x, 20, seed=3)[1].mean
        for model, x in ((Tiny(), bits()), (TinyOfDict(), nest()))
    ]
    assert torch.equal(*stats)
    compared = [
        compare_gradients({"vimco": estimator, "rws": ovis.estimator("rws", iw=2)}, model, x, 20, seed=3)["rws"][1].mean
        for model, x in ((Tiny(), bits()), (TinyOfDict(), nest()))
    ]
    assert torch.equal(*compared)
    exact = [exact_gradient(model, x, 2) for model, x in ((Tiny(), bits()), (TinyOfDict(), nest()))]
    assert torch.equal(*exact)
    assert torch.allclose(exact_moments(estimator, TinyOfDict(), nest()).mean, exact[0], rtol=1e-10)
    assert check_estimator(estimator, TinyOfDict(), nest()).verdict == "unbiased"
    torch.manual_seed(0)
    assert weight_diagnostics(TinyOfDict(), nest(), 10)["weights"]["ess"].shape == (B,)


@pytest.mark.slow
def test_a_compiled_model_of_a_dict() -> None:
    estimator = ovis.estimator("vimco", iw=4)
    model = TinyOfDict()
    compiled = torch.compile(model, backend="eager")
    assert same(gradients(estimator, compiled, nest()), gradients(estimator, model, nest()))
    assert same(gradients(estimator, model, nest()), gradients(estimator, Tiny(), bits()))


def test_several_models_of_a_dict_at_once() -> None:
    """As an ensemble computes them: vmap over stacked parameters, with its random numbers shared."""

    class Vectors(TinyOfDict):  # torch.bernoulli can't be batched with shared random numbers
        def q(self, h: Any) -> Any:
            return BernoulliVector(super().q(h).logits)

    models, estimator = [Vectors(), Vectors()], ovis.estimator("vimco", iw=4)
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(0.5)
    parameters, _ = stack_module_state(models)

    def loss_of(parameters: dict[str, Tensor]) -> Tensor:
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        loss: Tensor = functional_call(Loss(models[0], estimator), named, (nest(),))
        return loss

    torch.manual_seed(1)
    together = vmap(grad(loss_of), randomness="same")(parameters)
    for i, model in enumerate(models):
        torch.manual_seed(1)
        loss, _, _ = estimator(model, nest(), return_diagnostics=False)
        alone = torch.autograd.grad(loss.mean(), list(model.parameters()))
        for name, gradient in zip(dict(model.named_parameters()), alone, strict=True):
            torch.testing.assert_close(together[name][i], gradient)


class Loss(nn.Module):
    """The mean loss of an estimator, as a function of the model's parameters."""

    def __init__(self, model: nn.Module, estimator: nn.Module) -> None:
        super().__init__()
        self.model, self.estimator = model, estimator

    def forward(self, x: Any) -> Tensor:
        loss: Tensor = self.estimator(self.model, x, return_diagnostics=False)[0]
        return loss.mean()


class Pair(NamedTuple):
    image: Tensor
    condition: Tensor


class Conditional(ovis.Model):
    """p(x, z | c): the condition reaches the decoder through the encoding, a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inference_network, self.decoder = nn.Linear(X + 1, Z).double(), nn.Linear(Z + 1, X).double()

    def encode(self, x: Pair) -> Pair:
        return Pair(self.inference_network(torch.cat([x.image, x.condition], -1)), x.condition)

    def target(self, x: Pair) -> Tensor:
        return x.image

    def q(self, h: Pair) -> Any:
        return Bernoulli(logits=h.image)

    def p(self, z: Tensor, h: Pair) -> Any:
        inputs = torch.cat([z, h.condition.expand(*z.shape[:-1], 1)], -1)
        return Bernoulli(logits=self.decoder(inputs)), Bernoulli(logits=z.new_zeros(Z))


def test_a_conditional_model_is_unbiased() -> None:
    x = Pair(bits(), torch.linspace(-1, 1, B, dtype=torch.float64).unsqueeze(-1))
    model = Conditional()
    for name in ("reinforce", "vimco", "ovis-gamma0"):
        exact = exact_gradient(model, x, 2, key_filter="inference_network,decoder")
        moments = exact_moments(ovis.estimator(name, iw=2), model, x, key_filter="inference_network,decoder")
        assert torch.allclose(moments.mean, exact, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="wake-sleep draws x from the model"):
        ovis.estimator("wake-sleep", iw=2)(model, x)


def test_what_is_no_tensor_is_named() -> None:
    estimator = ovis.estimator("vimco", iw=2)
    with pytest.raises(ValueError, match=r"x\['n'\]\[1\] is no tensor, but int"):
        estimator(TinyOfDict(), {"image": bits(), "n": [bits(), 3]})
    with pytest.raises(ValueError, match=r"one row for each datum.*x\['label'\] \(3,\)"):
        estimator(TinyOfDict(), {"image": bits(), "label": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"target\(x\) must return the tensor that px scores, one of 'image'"):
        estimator(Repeated(Tiny()), {"image": bits()})
    with pytest.raises(ValueError, match=r"got \{\} without any"):
        estimator(TinyOfDict(), {})


def test_a_q_or_p_that_can_t_be_used_is_one_line() -> None:
    class Wrong(Tiny):
        def __init__(self, q: Any, p: Any = None) -> None:
            super().__init__()
            self.made = q, p

        def q(self, h: Any) -> Any:
            return self.made[0](h)

        def p(self, z: Tensor, h: Any) -> Any:
            return self.made[1](z) if self.made[1] else super().p(z, h)

    estimator = ovis.estimator("vimco", iw=3)
    for q, message in (
        (
            lambda h: Bernoulli(logits=h[:, 0]),
            r"layer 0 \(Bernoulli\) has batch shape \(4, 2\); it must start with \(4, 1\)",
        ),
        (lambda h: h, "Wrong.q must give distributions .* got Tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator(Wrong(q), bits())
    one = Bernoulli(logits=torch.zeros(2))
    for returned, given in ((one, "Bernoulli"), ((one, one, one), "a tuple of 3")):
        with pytest.raises(ValueError, match=rf"Wrong.p must return the pair \(px, pz\), with pz a list .*got {given}"):
            estimator(Wrong(lambda h: Bernoulli(logits=h), lambda z, made=returned: made), bits())
    with pytest.raises(NotImplementedError, match=r"Model must define q\(h\)"):
        estimator(ovis.Model(), bits())


def test_a_prior_that_can_t_score_a_layer_names_it() -> None:
    class Exchanged(ovis.Model):
        def q(self, h: Tensor) -> Any:
            yield Bernoulli(logits=torch.zeros(B, 1, 3))
            yield Bernoulli(logits=torch.zeros(B, 1, 2))

        def p(self, z: list[Tensor], h: Tensor) -> Any:
            return Bernoulli(logits=torch.zeros(B, 3, X)), [Bernoulli(logits=torch.zeros(n)) for n in (2, 3)]

    with pytest.raises(ValueError, match=r"pz\[0\]: Bernoulli of batch shape \(2,\).* of shape \(4, 3, 3\)"):
        ovis.estimator("vimco", iw=3)(Exchanged(), bits())
    with pytest.raises(NotImplementedError, match=r"Tiny has no sample_from_prior\(bs\)"):
        Tiny().sample_from_prior(1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_and_booleans_are_binary_data(dtype: torch.dtype) -> None:
    model, estimator = SigmoidBeliefNetwork((X,), N=2, depth=2).double(), ovis.estimator("vimco", iw=3)
    assert same(gradients(estimator, model, bits()), gradients(estimator, model, bits().to(dtype)))


# ------------------------------------------------------------------------------------------------- sequences


class Sequences(ovis.Model):
    """Padded sequences of classes with one Bernoulli latent for each step, which padding must not change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inference_network = nn.Embedding(5, 3).double(), nn.Linear(3, 1).double()
        self.decoder = nn.Linear(1, 4).double()

    def encode(self, x: Any) -> Any:
        mask = torch.arange(x["tokens"].shape[1]) < x["lengths"].unsqueeze(1)
        return {"logits": self.inference_network(self.embed(x["tokens"].clamp(min=0))).squeeze(-1), "mask": mask}

    def target(self, x: Any) -> Tensor:
        tokens: Tensor = x["tokens"]
        return tokens

    def q(self, h: Any) -> Any:
        return Masked(Bernoulli(logits=h["logits"]), h["mask"])

    def p(self, z: Tensor, h: Any) -> Any:
        px = Masked(Categorical(logits=self.decoder(z.unsqueeze(-1))), h["mask"])
        return px, Masked(Bernoulli(logits=torch.zeros_like(z)), h["mask"])


def test_padding_does_not_count() -> None:
    tokens = torch.tensor([[1, 3, -1, -1], [2, -1, -1, -1]])
    lengths = torch.tensor([2, 1])
    model = Sequences()
    batch = {"tokens": tokens, "lengths": lengths}
    z = [torch.ones(2, 3, 4, dtype=torch.float64)]
    losses = []
    for x, samples in ((batch, z), ({"tokens": tokens[:1, :2], "lengths": lengths[:1]}, [z[0][:1, :, :2]])):
        output = model(x, particles=3, z=samples)
        joint = output["px"].log_prob(model.target(x).unsqueeze(1)) + output["pz"][0].log_prob(samples[0])
        losses.append((joint - output["qz"][0].log_prob(samples[0])).sum(-1)[0])
    assert torch.allclose(*losses, rtol=1e-12)
    particles = draw(model, batch, 3, encoded=encode(model, batch))
    assert particles.log_px.shape == (2, 3)
    loss, _, _ = ovis.estimator("vimco", iw=3)(model, batch)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (lambda p: Normal(p, 1.0), torch.nan),
        (lambda p: torch.distributions.Gamma(p.exp(), 1.0), -1.0),
        (lambda p: torch.distributions.LogNormal(p, 1.0), 0.0),
        (lambda p: torch.distributions.Beta(p.exp(), p.exp()), 7.0),
        (lambda p: torch.distributions.Poisson(p.exp()), -1.0),
    ],
)
def test_what_is_masked_has_no_gradient(distribution: Any, value: float) -> None:
    p = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False])
    x = torch.tensor([0.5, value], dtype=torch.float64)
    if distribution(p).support is torch.distributions.constraints.nonnegative_integer:
        x[0] = 2.0
    masked = Masked(distribution(p), mask).log_prob(x)
    assert masked[1] == 0
    assert masked[0] == distribution(p).log_prob(x[0])[0]
    (grad,) = torch.autograd.grad(masked.sum(), p)
    assert grad[1] == 0
    assert grad[0].isfinite()
    assert grad[0] != 0


def test_masks_of_whole_events_and_their_errors() -> None:
    base = Independent(Normal(torch.zeros(2, 3, 4), 1.0), 1)
    masked = Masked(base, torch.tensor([[True, True, False], [True, False, False]]))
    value = torch.randn(2, 3, 4)
    assert torch.equal(masked.log_prob(value) == 0, ~masked.mask)
    assert masked.sample().shape == (2, 3, 4)
    assert (masked.rsample()[~masked.mask] == 0).all()
    assert masked.expand((5, 2, 3)).sample().shape == (5, 2, 3, 4)
    with pytest.raises(TypeError, match="mask must be boolean"):
        Masked(base, torch.ones(2, 3))
    with pytest.raises(ValueError, match="shapes that broadcast"):
        Masked(base, torch.ones(2, 2, dtype=torch.bool))
