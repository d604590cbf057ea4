"""``ovis.check_model``: what is right passes, and each mistake is reported with its place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import DISCRETE, FORMS, BernoulliNormal, MaskedCategorical
from slow_cases import slow_except
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal
from torch.utils.data import DataLoader

import ovis
from ovis.estimators.config import estimator
from ovis.models import VAE, Masked, Model, SigmoidBeliefNetwork, Template

X = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1.0], [0, 1, 0, 1]])


class Good(Model):
    """A model of four binary variables with three binary latents; subclasses spoil one part."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network, self.decoder = nn.Linear(4, 3), nn.Linear(3, 4)
        self.prior = nn.Parameter(torch.zeros(3))

    def encode(self, x: Any) -> Any:
        return self.inference_network(x)

    def q(self, h: Any) -> Any:
        return Bernoulli(logits=h)

    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z)), Bernoulli(logits=self.prior)


def lines_of(report: Any, kind: str) -> list[str]:
    return [line.split(None, 1)[1] for line in str(report).splitlines()[1:] if line.split(None, 1)[0] == kind]


def test_a_good_model_passes() -> None:
    report = ovis.check_model(Good(), X)
    assert report.passed
    assert report.problems == report.notes == []
    assert report.facts == {
        "x": "5 data: x [5, 4] float32",
        "encoding": "h [5, 3] float32, once per datum",
        "p(x|z)": "Bernoulli of [5, 4]",
        "q(z|x)": "layer 0 Bernoulli, samples [3] float32, exact samples only",
        "p(z)": "layer 0 Bernoulli; no sample_from_prior",
        "gradients": "log p(x|z) trains decoder; log p(z) trains prior; log q(z|x) trains inference_network",
        "dependence": "q depends on x; p depends on z",
        "sums": "over the 8 values of z: q(z|x) 1, p(z) 1; over the 16 values of x: p(x|z) 1",
        "batch": "a datum's result does not depend on the other data",
    }
    assert "ovis-gamma0" in lines_of(report, "fitting")[0].split(", ")
    assert lines_of(report, "verdict") == ["no problem found"]


def test_the_estimators_give_their_own_reasons() -> None:
    """A fitting one runs, another one raises the error that is reported."""
    for model in (Good(), VAE((4,), N=2, nlayers=1, hdim=4), SigmoidBeliefNetwork((4,), N=2, depth=2)):
        report = ovis.check_model(model, X)
        assert {"vimco", "iwae", "vae", "rws", "wake-sleep", "dreg", "vimco+iwae"} < report.estimators.keys()
        for name, reason in report.estimators.items():
            if not reason:
                estimator(name, iw=4)(model, X)
                continue
            with pytest.raises((ValueError, NotImplementedError)) as raised:
                estimator(name, iw=4)(model, X)
            assert str(raised.value) == reason
    (line,) = [
        line for line in lines_of(ovis.check_model(Good(), X), "not") if "Good: layer 0 (Bernoulli) can't" in line
    ]
    assert {"iwae", "vae", "stl", "dreg"} <= set(re.findall(r"[\w+.-]+", line.split(":")[0]))


class IgnoresZ(Good):
    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(torch.zeros_like(z))), Bernoulli(logits=self.prior)


class IgnoresX(Good):
    def encode(self, x: Any) -> Any:
        return self.inference_network(torch.zeros_like(x))


class UnnormalizedPrior(Good):
    class Law(Bernoulli):
        def log_prob(self, value: Tensor) -> Tensor:
            return -nn.functional.binary_cross_entropy_with_logits(self.logits.expand_as(value), value) + value

    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z)), self.Law(logits=self.prior, validate_args=False)


class UnnormalizedLikelihood(Good):
    class Law(Distribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, logits: Tensor):
            self.logits = logits
            super().__init__(logits.shape, validate_args=False)

        def log_prob(self, value: Tensor) -> Tensor:
            return self.logits * value  # without its logarithm of 1 + exp(logits)

    def p(self, z: Any, h: Any) -> Any:
        return self.Law(self.decoder(z)), Bernoulli(logits=self.prior)


class Normalized(Good):
    def __init__(self) -> None:
        super().__init__()
        self.inference_network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


class MeanOverTheBatch(Good):
    def encode(self, x: Any) -> Any:
        return self.inference_network(x - x.mean(0))


class SoftmaxOverParticles(Good):
    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z - z.mean(1, keepdim=True))), Bernoulli(logits=self.prior)


class Broadcasts(Good):
    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z).unsqueeze(2)), Bernoulli(logits=self.prior)


class SeesX(Good):
    def encode(self, x: Any) -> Any:
        return {"x": x, "q": self.inference_network(x)}

    def q(self, h: Any) -> Any:
        return Bernoulli(logits=h["q"])

    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z) + 4 * h["x"] - 2), Bernoulli(logits=self.prior)


class PriorSeesX(SeesX):
    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z)), Bernoulli(logits=self.prior + h["q"])


class Unused(Good):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


class Fails(Good):
    def encode(self, x: Any) -> Any:
        return self.inference_network(x.flatten())


class WrongPrior(Good):
    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        z = Bernoulli(logits=self.prior.expand(bs, -1)).sample()
        return {"px": Bernoulli(logits=self.decoder(z[:1])), "z": [z], "pz": [Bernoulli(logits=self.prior)]}


class NaN(Good):
    def q(self, h: Any) -> Any:
        return Bernoulli(logits=h)

    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z).sub(100).sqrt(), validate_args=False), Bernoulli(logits=self.prior)


MISTAKES: dict[type[Good], str] = {
    IgnoresZ: r"^p ignores layer 0 \(Bernoulli\): p\(x\|z\) is the same for other samples; use the sample in p$",
    IgnoresX: r"^q\(z\|x\) ignores x: it is the same for other data; use the encoding in q$",
    UnnormalizedPrior: r"^p\(z\) sums to [\d.]+ over all 8 values of z, not 1: its log_prob is not normalized",
    UnnormalizedLikelihood: r"^p\(x\|z\) sums to [\d.]+ over all binary x, not 1: its log_prob is not normalized$",
    Normalized: r"^log q\(z\|x\) of a datum depends on the other data of the batch: batch normalization in training "
    r"mode \(inference_network.1\): use layernorm, or model.eval\(\)$",
    MeanOverTheBatch: r"^log q\(z\|x\) of a datum depends on the other data of the batch: look for an operation over "
    "dimension 0",
    SoftmaxOverParticles: r"^log p\(x\|z\) of a particle depends on the other particles of its datum: look for",
    Broadcasts: r"^the model can't be run: px: log_prob of Bernoulli has shape .*: they were broadcast",
    SeesX: r"^p\(x\|z\) depends on the x that it scores, through h, and sums to [\d.]+ over all x: give p",
    PriorSeesX: r"^p\(z\) depends on the x that p\(x\|z\) scores, so p\(x, z\) is no density: give it the condition",
    Unused: r"^no gradient for head: neither p nor q uses it, or it was detached; use it, or call",
    Fails: r"^the model can't be run: RuntimeError in encode \(test_check_model.py:\d+\): mat1 and mat2 shapes",
    WrongPrior: r"^sample_from_prior\(bs\): px has shape \(1, 4\) for bs = 3, and must have \(3, 4\)$",
    NaN: r"^log p\(x\|z\) is NaN: look for",
}


@pytest.mark.parametrize("spoiled", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_mistake_is_the_one_problem(spoiled: type[Good]) -> None:
    report = ovis.check_model(spoiled(), X)
    (problem, *others) = report.problems
    assert not others, report
    assert re.search(MISTAKES[spoiled], problem), problem
    assert not report.passed
    assert "\n" not in problem
    assert lines_of(report, "PROBLEM") == [problem]
    assert lines_of(report, "verdict") == ["1 problem"]


def test_batch_statistics_do_not_count_in_evaluation_mode() -> None:
    assert ovis.check_model(Normalized().eval(), X).passed


def test_an_autoregressive_decoder_may_see_x() -> None:
    """p(x|z) of each variable depends on the one before it: over all x it sums to 1."""

    class Autoregressive(SeesX):
        def p(self, z: Any, h: Any) -> Any:
            before = nn.functional.pad(h["x"][..., :-1], (1, 0))
            return Bernoulli(logits=self.decoder(z) + 2 * before), Bernoulli(logits=self.prior)

    report = ovis.check_model(Autoregressive(), X)
    assert report.passed
    assert report.facts["sums"].endswith("over the 16 values of x: p(x|z) 1")
    (note,) = ovis.check_model(wide(Autoregressive()), torch.rand(4, 20).round()).notes
    assert note.startswith("p(x|z) depends on the x that it scores, through h: right only if it is autoregressive")


def wide(model: Good) -> Good:
    model.inference_network, model.decoder = nn.Linear(20, 3), nn.Linear(3, 20)
    return model


class Conditional(Good):
    """p(x|z, c), with a prior that depends on c, too."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = nn.Linear(2, 3)

    def target(self, x: Any) -> Tensor:
        target: Tensor = x["x"]
        return target

    def encode(self, x: Any) -> Any:
        return {"q": self.inference_network(x["x"]), "c": self.condition(x["c"])}

    def q(self, h: Any) -> Any:
        return Bernoulli(logits=h["q"] + h["c"])

    def p(self, z: Any, h: Any) -> Any:
        return Bernoulli(logits=self.decoder(z + h["c"])), Bernoulli(logits=self.prior + h["c"])


def test_a_condition_is_no_mistake() -> None:
    report = ovis.check_model(Conditional(), {"x": X, "c": torch.randn(5, 2)})
    assert report.problems == report.notes == []
    assert report.facts["x"] == "5 data: x['x'] [5, 4] float32, x['c'] [5, 2] float32"
    assert "condition" in report.facts["gradients"]


def test_a_mask_is_no_mistake() -> None:
    class Padded(Conditional):
        def encode(self, x: Any) -> Any:
            return {"q": self.inference_network(x["x"]), "mask": x["mask"]}

        def q(self, h: Any) -> Any:
            return Bernoulli(logits=h["q"])

        def p(self, z: Any, h: Any) -> Any:
            return Masked(Bernoulli(logits=self.decoder(z)), h["mask"]), Bernoulli(logits=self.prior)

    model = Padded()
    del model.condition
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4])[:, None]
    report = ovis.check_model(model, {"x": X, "mask": mask})
    assert report.problems == report.notes == []


PROBLEMS = {**DISCRETE, "masked-categorical": MaskedCategorical, "bernoulli-normal": BernoulliNormal}


@pytest.mark.parametrize(
    ("name", "form"),
    slow_except(
        [("masked-categorical", "particles"), ("bernoulli-normal", "readme")], itertools.product(PROBLEMS, FORMS)
    ),
)
def test_the_models_of_the_tests_pass(name: str, form: str) -> None:
    report = ovis.check_model(FORMS[form](PROBLEMS[name]()), torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64))
    assert report.problems == [], report
    assert not any("could be checked" in note for note in report.notes), report


class Plain(Template):
    """The README's model, with parts that can be spoiled."""

    def __init__(self, decoder_input: float = 1.0, q_input: float = 1.0, graph: bool = False, norm: bool = False):
        super().__init__()
        self.inference_network, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)
        self.norm = nn.BatchNorm1d(2) if norm else nn.Identity()
        self.scales, self.graph = (decoder_input, q_input), graph

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        qz = Normal(self.norm(self.inference_network(self.scales[1] * x)), 1.0)
        z = qz.rsample() if zgrads or self.graph else qz.sample()
        px = Independent(Bernoulli(logits=self.decoder(self.scales[0] * z)), 1)
        return {"px": px, "z": [z], "qz": [qz], "pz": [Normal(torch.zeros(2), 1.0)]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        z = torch.randn(bs, 2)
        return {"px": Bernoulli(logits=self.decoder(z)), "z": [z], "pz": [Normal(torch.zeros(2), 1.0)]}


def test_a_template_passes_or_has_the_same_problems() -> None:
    report = ovis.check_model(Plain(), X)
    assert report.passed, report
    assert "p(x|z) 1" in report.facts["sums"]
    assert not any(report.estimators.values())
    spoiled = {
        "p ignores z: ": Plain(decoder_input=0.0),
        "q(z|x) ignores x: ": Plain(q_input=0.0),
        "layer 0 (Normal): samples carry a graph though zgrads is False: ": Plain(graph=True),
        "log q(z|x) of a datum depends on the other data of the batch: batch normalization in training mode (norm)": (
            Plain(norm=True)
        ),
    }
    for beginning, model in spoiled.items():
        (problem,) = ovis.check_model(model, X).problems
        assert problem.startswith(beginning), problem


def test_the_sums_of_a_template_with_one_layer() -> None:
    class Discrete(Template):
        law: type[Bernoulli] = Bernoulli

        def __init__(self) -> None:
            super().__init__()
            self.inference_network, self.decoder = nn.Linear(4, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
            qz = Bernoulli(logits=self.inference_network(x))
            z = qz.sample()
            pz = self.law(logits=torch.zeros(1, 3), validate_args=False)
            return {"px": Bernoulli(logits=self.decoder(z)), "z": [z], "qz": [qz], "pz": [pz]}

        def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
            raise NotImplementedError

    class Unnormalized(Discrete):
        law = UnnormalizedPrior.Law

    report = ovis.check_model(Discrete(), X)
    assert report.passed, report
    assert report.facts["sums"] == "over the 8 values of z: q(z|x) 1, p(z) 1; over the 16 values of x: p(x|z) 1"
    (problem,) = ovis.check_model(Unnormalized(), X).problems
    total = ((1 + torch.e) / 2) ** 3  # each variable has the probabilities 1/2 and e/2
    assert problem.startswith(f"p(z) sums to {total:.4g} over all 8 values of z, not 1")


def test_a_layer_that_p_ignores_is_named() -> None:
    class TwoLayers(Good):
        def q(self, h: Any) -> Generator[Any, Tensor, None]:
            z = yield Bernoulli(logits=h)
            yield Categorical(logits=z)

        def p(self, z: Any, h: Any) -> Any:
            return Bernoulli(logits=self.decoder(z[0])), [Bernoulli(logits=self.prior), Categorical(torch.ones(3))]

    (problem,) = ovis.check_model(TwoLayers(), X).problems
    assert problem.startswith("p ignores layer 1 (Categorical): p(x|z) is the same for other samples, and so is p of")


def test_zero_weights_are_a_note_only() -> None:
    model = Good()
    for layer in (model.inference_network, model.decoder):
        nn.init.zeros_(layer.weight)
    report = ovis.check_model(model, X)
    assert report.passed
    assert [note.split(" at the present")[0] for note in report.notes if "at the present parameters" in note] == [
        "q(z|x) is the same for all x",
        "p is the same for all samples of layer 0 (Bernoulli)",
    ]
    assert not model.inference_network.weight.any()


def test_dropout_is_named_where_it_hides_the_rest() -> None:
    model = SigmoidBeliefNetwork((4,), N=3, depth=1, nlayers=1, hdim=8, dropout=0.5)
    report = ovis.check_model(model, X)
    assert report.passed, report
    assert any("random for given x and z, as with dropout in training mode" in note for note in report.notes)
    assert "sums" not in report.facts
    assert ovis.check_model(model.eval(), X).facts["sums"].count("1, ") == 1


def test_what_cannot_be_run_has_one_line() -> None:
    for x, reason in {
        DataLoader(X): "x is no tensor, but DataLoader: give a tensor with a row for each datum",
        torch.ones(0, 4): "x must be a batch [B, *event] with B >= 1, got shape (0, 4)",
        X + 1: "x has values from 1 to 2, but Bernoulli variables must be in [0, 1]: use (x + 1)/2 for {-1, 1}, x/255 "
        "for grey levels from 0 to 255",
    }.items():
        report = ovis.check_model(Good(), x)
        line = f"the model can't be run: {reason}"
        assert report.problems == [line]
        assert str(report).splitlines() == ["Good", f"  PROBLEM         {line}", "  verdict         1 problem"]


def test_everything_is_left_as_it_was() -> None:
    model = Normalized().train()
    model(X)["px"].log_prob(X).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [p.grad for p in model.parameters()]
    copies = [None if g is None else g.clone() for g in grads]
    state = torch.get_rng_state()
    first = ovis.check_model(model, X)
    assert str(first) == str(ovis.check_model(model, X))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert all(g is None or torch.equal(g, c) for g, c in zip(grads, copies, strict=True))
    assert model.training


def test_one_datum_and_equal_data() -> None:
    """They can be changed to see what q depends on; what needs two of them is left out."""
    report = ovis.check_model(Good(), X[:1])
    assert report.passed
    assert report.notes == ["one datum: whether it depends on others can't be checked"]
    assert ovis.check_model(Good(), torch.ones(4, 4)).facts["dependence"] == "q depends on x; p depends on z"
    assert ovis.check_model(IgnoresX(), torch.ones(4, 4)).problems


def test_the_report_in_the_documentation_is_the_actual_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert "print(ovis.check_model(SigmoidBeliefNetwork((3,), N=2, depth=1), torch.eye(3)))" in text
    lines = str(ovis.check_model(SigmoidBeliefNetwork((3,), N=2, depth=1), torch.eye(3))).splitlines()
    shown = text[text.index("```\nSigmoidBeliefNetwork") :].split("```\n")[1].splitlines()
    assert len(shown) == len(lines) == 13
    for expected, actual in zip(shown, lines, strict=True):  # ids of estimators are cut
        start, _, end = expected.partition("...")
        assert actual.startswith(start)
        assert actual.endswith(end)
