"""The parts of a run follow its options: length, optimizers, the estimator's settings, the baseline's rate."""

import dataclasses
import json

import pytest
import torch
from train_run import train

from ovis.estimators.ids import parse_estimator
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import OPTIMIZERS, build_run
from ovis.experiments.training.step import TrainingStep

TINY = {
    **{"dataset": "digits", "model": "sbm", "N": 4, "depth": 1, "nlayers": 0, "estimator": "vimco", "iw": 3},
    **{"bs": 200, "max_eval": 10, "iw_valid": 2, "iw_test": 2, "grad_samples": 0, "eval_freq": 1},
}


def make(**changes):
    return build_run(TrainSettings(**{**TINY, **changes}))


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"epochs": 2}, [7, 14]),  # 1,437 digits: seven batches of 200
        ({"epochs": 3, "eval_freq": 2}, [14, 21]),
        ({"epochs": 1, "nsteps": 3}, [7]),  # epochs, where they are given
        ({"nsteps": 9}, [7, 9]),
        ({"nsteps": 3}, [3]),
    ],
    ids=str,
)
def test_a_run_has_the_length_of_its_options_and_evaluates_at_its_end(length, steps, tmp_path):
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        take = TrainingStep.__call__
        patch.setattr(TrainingStep, "__call__", lambda self, x, step: taken.append(step) or take(self, x, step))
        assert train(make(**length), RunPaths(tmp_path))
    assert taken == list(range(steps[-1]))
    lines = [json.loads(line) for line in RunPaths(tmp_path).metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == steps
    assert [line["epoch"] for line in lines] == [round(step / 7, 4) for step in steps]


#: The first step along a gradient g, at a learning rate of one, by the papers' formulas: the moments start at 0.
FIRST_STEP = {
    "adam": lambda g: g / (g.abs() + 1e-8),
    "adamax": lambda g: g / (g.abs() + 1e-8),
    "sgd": lambda g: g,
    "rmsprop": lambda g: g / ((0.01 * g.square()).sqrt() + 1e-8),
}


@pytest.mark.parametrize("name", FIRST_STEP)
def test_an_optimizer_takes_its_step(name):
    run = make(optimizer=name, lr=0.01)
    assert type(run.optimizer) is OPTIMIZERS[name]
    parameters = list(run.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    gradients = [parameter.grad.clone() for parameter in parameters]
    run.optimizer.step()
    for old, new, gradient in zip(before, parameters, gradients, strict=True):
        assert torch.allclose(new, old - 0.01 * FIRST_STEP[name](gradient), atol=1e-6)


def test_the_optimizers_are_those_of_the_settings():
    (choices,) = (f.metadata["choices"] for f in dataclasses.fields(TrainSettings) if f.name == "optimizer")
    assert set(choices) == set(OPTIMIZERS) == set(FIRST_STEP)


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("vimco", {"mc": 2, "beta": 0.5, "freebits": 0.25, "alpha": 0.3}),
        ("ovis-gamma1", {"mc": 2, "beta": 0.5, "freebits": 0.25, "alpha": 0.3}),
        ("iwae", {"mc": 2, "beta": 0.5, "freebits": 0.25, "alpha": 0.3, "tau": 0.7}),
        ("vae", {"mc": 2, "beta": 0.5, "freebits": 0.25, "tau": 0.7}),
        ("dreg", {"mc": 2, "beta": 0.5, "alpha": 0.3, "tau": 0.7}),
        ("tvo-part2-config1", {"mc": 2, "beta": 0.5, "freebits": 0.25}),
        ("rws", {"mc": 2, "alpha": 0.3}),
    ],
)
def test_the_estimator_has_the_options_of_the_run(estimator, options):
    model = {"model": "vae", "prior": "bernoulli"} if "tau" in options else {}
    run = make(estimator=estimator, **options, **model)
    result = dataclasses.asdict(run.estimator.settings)
    assert {name: result[name] for name in options} == options
    assert result["iw"] == 3
    fixed = parse_estimator(estimator).config
    assert {name: result[name] for name in fixed} == fixed


def test_alpha_of_every_step_is_that_of_the_warm_up():
    run = make(estimator="ovis-gamma1", warmup=4, warmup_offset=2, warmup_mode="linear", alpha_init=0.8, alpha=0.2)
    seen, configured = [], run.estimator.configured
    run.estimator.configured = lambda **overrides: seen.append(overrides) or configured(**overrides)
    take, x = TrainingStep(run), run.splits.train.points(5)
    for step in range(9):
        take(x, step)
    wanted = [0.8, 0.8, 0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2]
    assert [config["alpha"] for config in seen] == pytest.approx(wanted)


def test_without_a_warm_up_alpha_is_that_of_the_estimator():
    run = make(estimator="ovis-gamma1", alpha=0.3)
    seen, configured = [], run.estimator.configured
    run.estimator.configured = lambda **overrides: seen.append(overrides) or configured(**overrides)
    TrainingStep(run)(run.splits.train.points(5), 0)
    assert seen == [{}]
    assert run.estimator.settings.alpha == 0.3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_baseline_is_trained_at_its_own_rate(optimizer):
    """At a rate of zero one of the two stands still and the other one moves; both rates are halved."""
    for still, rates in (("model", {"lr": 0.0}), ("baseline", {"baseline_lr": 0.0})):
        run = make(estimator="reinforce-baseline", optimizer=optimizer, nsteps=4, lr_reduce_steps=1, **rates)
        parts = {"model": list(run.model.parameters()), "baseline": list(run.estimator.parameters())}
        before = {name: [p.detach().clone() for p in part] for name, part in parts.items()}
        take = TrainingStep(run)
        for step in range(3):
            take(run.splits.train.points(20), step)
        for name, part in parts.items():
            moved = [not torch.equal(old, new) for old, new in zip(before[name], part, strict=True)]
            assert any(moved) is (name != still), (still, name)
        wanted = [rates.get("lr", 2e-3) / 2, rates.get("baseline_lr", 5e-3) / 2]
        assert [group["lr"] for group in run.optimizer.param_groups] == wanted


def test_ess_is_that_of_the_particles_of_training(tmp_path):
    """Of 50 particles it would be above 3 here: the model is fresh, its weights are nearly alike."""
    values = []
    for iw in (3, 50):
        folder = tmp_path / str(iw)
        folder.mkdir()
        run = make(iw=iw, iw_test=50, iw_valid=50, nsteps=1, lr=0.0)
        train(run, RunPaths(folder))
        values.append(json.loads(RunPaths(folder).metrics.read_text()))
    for split in ("train", "valid", "test"):
        assert 1 <= values[0][f"{split}:loss/ess"] <= 3 < values[1][f"{split}:loss/ess"] <= 50
        assert values[0][f"{split}:loss/L_k"] == values[1][f"{split}:loss/L_k"]  # of 50 either way
