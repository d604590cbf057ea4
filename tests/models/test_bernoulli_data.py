"""Models of Bernoulli variables reject data outside [0, 1] in their first batch, and data sets of them when loaded."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from model_cases import IMAGE
from slow_cases import slow_except
from torch import nn
from torch.distributions import Bernoulli, Independent

import ovis
from ovis.analysis.enumeration import exact_gradient
from ovis.analysis.evaluate import evaluate
from ovis.analysis.gradients import get_gradients_statistics
from ovis.estimators.config import get_config
from ovis.experiments.datasets import DATASETS, DatasetEntry
from ovis.experiments.datasets.splits import FreshData, Splits, StoredData
from ovis.experiments.models import build_model
from ovis.experiments.settings import SettingsError, TrainSettings
from ovis.experiments.training.build import build_run
from ovis.models import GaussianToyVAE, Masked, Model, Template
from ovis.models.bernoulli_data import check_unit_interval
from ovis.models.distributions import BernoulliVector

BERNOULLI = ["sbm", "gaussian-vae", "vae", "conv-vae"]
ONES = torch.ones(4, *IMAGE)


def small(name: str) -> Model:
    settings = TrainSettings(model=name, dataset="digits", N=3, hdim=4, nlayers=1, depth=2)
    return build_model(name, IMAGE, torch.full(IMAGE, 0.5), **settings.model_options)


def with_value(value: float) -> torch.Tensor:
    """A batch of zeros and ones, and another value in the first row, which alone a gradient analysis reads eagerly."""
    x = torch.rand(4, *IMAGE).round()
    x[0, 0, 3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (2 * with_value(0.0) - 1, r"x has values from -1 to 1, .*\[0, 1\]: use \(x \+ 1\)/2 for \{-1, 1\}, x/255"),
        (255 * with_value(0.0), "x has values from 0 to 255, "),
        (with_value(-1e-3), "from -0.001 to 1,"),
        (with_value(math.inf), "from 0 to inf,"),
        (with_value(-math.inf), "from -inf to 1,"),
        (with_value(math.nan), r"x contains NaN, .*: replace missing values"),
    ],
)
@pytest.mark.parametrize("name", BERNOULLI)
def test_data_outside_the_unit_interval_are_refused(name: str, x: torch.Tensor, message: str) -> None:
    Estimator, config = get_config("vimco")
    estimator = Estimator(iw=3, **config)
    calls = {
        "estimator": lambda model: estimator(model, x, backward=True),
        "chunks": lambda model: estimator(model, x, particles_per_pass=2),
        "model": lambda model: model(x),
        "evaluate": lambda model: evaluate(model, x, iw=3, batch_size=3),
        "analysis": lambda model: get_gradients_statistics(estimator, model, x, mc_samples=2),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=message) as caught:
            call(small(name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BERNOULLI)
def test_grey_levels_and_whole_numbers_are_accepted(name: str) -> None:
    for x in (torch.rand(4, *IMAGE), torch.zeros(4, *IMAGE), ONES.double(), ONES.int(), ONES.bool()):
        check_unit_interval(x)
    assert small(name)(torch.rand(4, *IMAGE))["px"].log_prob(ONES).isfinite().all()


def test_only_the_first_accepted_batch_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at values synchronizes with the device."""
    looked: list[torch.Tensor] = []
    monkeypatch.setattr("ovis.models.bernoulli_data.check_unit_interval", looked.append)
    Estimator, config = get_config("ovis-gamma1")
    estimator, model = Estimator(iw=3, **config), small("sbm")
    for x in (ONES, 0 * ONES, ONES):
        estimator(model, x)
    assert len(looked) == 1
    assert looked[0] is ONES
    estimator(copy.deepcopy(model), ONES)  # another model
    assert len(looked) == 2


def test_a_refused_batch_is_refused_again() -> None:
    model = small("vae")
    for _ in range(2):
        with pytest.raises(ValueError, match="from -1 to -1"):
            model(-ONES)
    model(ONES)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.0, 1 + 1e-6], r"from 0 to 1.00000095, but .*: use x.clamp\(0, 1\)$"),
        ([-1e-8, 1.0], r"from -9.99\d*e-09 to 1, but .*: use x.clamp\(0, 1\)$"),
        ([-1.0, 1.0], r"from -1 to 1, but .*: use \(x \+ 1\)/2"),
        ([0.0, 255.0], r"from 0 to 255, but .*: use \(x \+ 1\)/2 .* x/255"),
    ],
)
def test_the_remedy_fits_the_range(x: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_unit_interval(torch.tensor(x))


@pytest.mark.parametrize("events", [0, 1])
def test_torchs_own_bernoulli_is_checked_too(events: int) -> None:
    class Torchs(Plain):
        def forward(self, x, **kwargs):  # type: ignore[no-untyped-def]
            px = Bernoulli(logits=torch.zeros(x.shape), validate_args=False)
            return {**super().forward(x), "px": Independent(px, events) if events else px}

    Estimator, config = get_config("vimco")
    for x in (-ONES, 255 * ONES):
        with pytest.raises(ValueError, match=r"^x has values from .* but Bernoulli variables must be in \[0, 1\]"):
            Estimator(iw=3, **config)(Torchs(), x)
    assert Estimator(iw=3, **config)(Torchs(), ONES)[0].isfinite().all()


class OfDict(Model):
    """A user's model of one part of a dict, whose px is made from its logits."""

    def __init__(self, px):  # type: ignore[no-untyped-def]
        super().__init__()
        self.inference_network, self.decoder, self.px = nn.Linear(6, 3), nn.Linear(3, 6), px

    def encode(self, x):  # type: ignore[no-untyped-def]
        return self.inference_network(x["image"].nan_to_num())

    def target(self, x):  # type: ignore[no-untyped-def]
        return x["image"]

    def q(self, h):  # type: ignore[no-untyped-def]
        return Bernoulli(logits=h)

    def p(self, z, h):  # type: ignore[no-untyped-def]
        return self.px(self.decoder(z)), Bernoulli(logits=torch.zeros(3))


LAST = torch.arange(6) < 5  # of which the last one is ignored

PX = {
    "bernoulli": lambda logits: Bernoulli(logits=logits, validate_args=False),
    "vector": BernoulliVector,
    "masked": lambda logits: Masked(Bernoulli(logits=logits, validate_args=False), LAST),
    "masked, then one event": lambda logits: Independent(
        Masked(Bernoulli(logits=logits, validate_args=False), LAST), 1, validate_args=False
    ),
    "masked vectors": lambda logits: Masked(BernoulliVector(logits), torch.ones(logits.shape[:-1], dtype=torch.bool)),
}


@pytest.mark.parametrize("px", PX)
def test_a_part_of_a_dict_is_checked_wherever_its_bernoulli_distribution_stands(px: str) -> None:
    """By all estimators, also in enumeration, which looks at each datum."""
    bits = torch.rand(4, 6).round()
    later = bits.clone()
    later[3, 2] = 255
    for x, values in ((2 * bits - 1, "-1 to 1"), (255 * bits, "0 to 255"), (later, "0 to 255")):
        data = {"label": torch.arange(4) - 50, "image": x}
        for name in ("vimco", "vimco+iwae", "rloo"):
            with pytest.raises(ValueError, match=f"^x has values from {values}, but Bernoulli"):
                ovis.estimator(name, iw=3)(OfDict(PX[px]), data)
    with pytest.raises(ValueError, match=r"^x has values from 0 to 255, but Bernoulli"):
        exact_gradient(OfDict(PX[px]), {"image": later}, 1)
    good = {"label": torch.arange(4) - 50, "image": bits}
    assert ovis.estimator("vimco", iw=3)(OfDict(PX[px]), good)[0].isfinite().all()


@pytest.mark.parametrize("value", [-1.0, 255.0, math.nan])
def test_what_stands_in_masked_places_is_not_checked(value: float) -> None:
    model, x = OfDict(PX["masked"]), torch.rand(4, 6).round()
    x[:, 5] = value
    assert ovis.estimator("vimco", iw=3)(model, {"image": x})[0].isfinite().all()
    assert exact_gradient(model, {"image": x}, 1).isfinite().all()


class Plain(Template):
    """A model that takes x repeated, once for each particle."""

    def __init__(self) -> None:
        super().__init__()
        self.inference_network = nn.Linear(64, 3)

    def forward(self, x, **kwargs):  # type: ignore[no-untyped-def]
        q, p = BernoulliVector(self.inference_network(x.flatten(1))), BernoulliVector(torch.zeros(len(x), 3))
        return {"px": BernoulliVector(torch.zeros(x.shape), 3), "z": [q.sample()], "qz": [q], "pz": [p]}

    def sample_from_prior(self, bs, **kwargs):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def test_a_model_that_takes_x_repeated_is_checked() -> None:
    Estimator, config = get_config("vimco")
    estimator, model = Estimator(iw=3, **config), Plain()
    with pytest.raises(ValueError, match="from -1 to -1"):
        estimator(model, -ONES)
    estimator(model, ONES)


def test_other_models_take_any_number() -> None:
    GaussianToyVAE(3)(torch.tensor([[-7.0, 300.0, 0.5]]))


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("part", slow_except(["model"], ["model", "estimator"]))
def test_compiled_code_checks_the_batch_that_it_is_compiled_for(part: str, fullgraph: bool) -> None:
    """In one graph, as ``fullgraph`` verifies. Without it, the error is the same as that of the code as it is."""
    Estimator, config = get_config("vimco")
    estimator = Estimator(iw=3, **config)

    def make():  # type: ignore[no-untyped-def]
        torch._dynamo.reset()
        model = small("sbm")
        whole = torch.compile(
            model if part == "model" else lambda x: estimator(model, x)[0], fullgraph=fullgraph, backend="eager"
        )
        return whole if part == "estimator" else lambda x: estimator(whole, x)[0]

    with pytest.raises(ValueError, match=r"^x has values from -1 to -1, ") as plain:
        estimator(small("sbm"), -ONES)
    for _ in range(2):
        with pytest.raises(
            torch._dynamo.exc.Unsupported if fullgraph else ValueError, match="x has values from -1 to -1, "
        ) as caught:
            make()(-ONES)
        assert str(plain.value) in str(caught.value)
        assert fullgraph or str(plain.value) == str(caught.value)
    compiled = make()
    assert compiled(ONES).isfinite().all()
    assert compiled(0 * ONES).isfinite().all()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_that_takes_x_repeated_is_checked_when_compiled(compiled: bool) -> None:
    torch._dynamo.reset()
    Estimator, config = get_config("vimco")
    estimator, model = Estimator(iw=3, **config), Plain()
    whole = torch.compile(model, backend="eager") if compiled else model
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^x has values from -1 to -1, but Bernoulli variables .*$"):
            estimator(whole, -ONES)
    assert estimator(whole, ONES)[0].isfinite().all()


def test_torch_func_checks_nothing_and_works() -> None:
    model = small("gaussian-vae")
    values = dict(model.named_parameters())

    def bound(values, x):  # type: ignore[no-untyped-def]
        output = torch.func.functional_call(model, values, (x,))
        return output["px"].log_prob(x).sum()

    x = torch.rand(2, 3, *IMAGE)
    gradients = torch.func.vmap(torch.func.grad(bound), (None, 0), randomness="different")(values, x)
    assert all(value.isfinite().all() for value in gradients.values())


def splits_with(train: torch.Tensor, valid: torch.Tensor, test: torch.Tensor, fresh: bool = False) -> Splits:
    source = FreshData(lambda n, generator: train[:n], len(train)) if fresh else StoredData(train)
    return Splits(source, valid, test, mean=torch.full(IMAGE, 0.5))


#: More than one chunk of the check; the last row is that of a partial one.
MANY = torch.zeros(1001, *IMAGE, dtype=torch.uint8)


@pytest.mark.parametrize("part", ["training", "validation", "test"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_data_set_outside_the_unit_interval_is_refused_when_loaded(
    part: str, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {"training": MANY.clone(), "validation": MANY.clone(), "test": MANY.clone()}
    sets[part][0 if fresh else -1, 0, 5, 2] = 255
    monkeypatch.setattr(f"{__name__}.load_bad", lambda: splits_with(*sets.values(), fresh))
    monkeypatch.setitem(DATASETS, "bad", DatasetEntry(f"{__name__}:load_bad"))
    message = rf"--dataset: the {part} set of 'bad' has values from 0 to 255, .*x/255 for grey levels"
    for model in ("vae", "sbm"):
        with pytest.raises(SettingsError, match=message):
            build_run(TrainSettings(dataset="bad", model=model))


def load_bad() -> Splits:
    raise AssertionError


def test_the_data_of_a_run_are_checked_without_random_numbers() -> None:
    """The check changes no random state: the initial parameters depend on the seed alone."""
    settings = TrainSettings(dataset="digits", model="sbm", N=3)
    run = build_run(settings)
    again = build_run(settings, run.splits)
    for one, other in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
