"""Every configuration of every experiment trains: one step and one evaluation of each, on small synthetic files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from slow_cases import slow_except

from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.training.build import build_run
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.step import TrainingStep

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
NAMES = (
    "gaussian-mixture-model",
    "sigmoid-belief-network",
    "gaussian-vae",
    "gaussian-toy",
    "budget-analysis",
    "budget-analysis-sbm",
    "mini-vae",
)

#: All that makes an evaluation long.
CHEAP = {
    **{"mini": True, "max_eval": 4, "iw_test": 5, "iw_valid": 5, "grad_bs": 2, "grad_samples": 2},
    **{"mc_au_analysis": 2, "npoints_au_analysis": 4, "N": 6, "hdim": 7, "bs": 4, "device": "cpu"},
}


def configurations(name):
    """The settings of an experiment that differ in more than size, seed and, for one estimator, the data."""
    result = {}
    for run in load_experiment(EXPERIMENTS / f"{name}.json").runs:
        settings = run.settings
        result.setdefault((settings.estimator, settings.id, settings.alpha), {})[settings.dataset] = settings
    first, *rest = result.values()
    return [*first.values(), *(next(iter(by_dataset.values())) for by_dataset in rest)]


@pytest.mark.parametrize("name", slow_except(["gaussian-mixture-model", "sigmoid-belief-network"], NAMES))
def test_every_configuration_trains(files, name):
    for settings in configurations(name):
        run = build_run(replace(settings, data_root=str(files["root"]), **CHEAP))
        before = [parameter.clone() for parameter in run.model.parameters()]
        (batch,) = run.batches(0, 1)
        assert math.isfinite(TrainingStep(run)(batch, 0))
        assert any(not old.equal(new) for old, new in zip(before, run.model.parameters(), strict=True))
        measure = Measurements(run)
        values = measure(1) | measure.measure_held_out(run.model)
        assert all(math.isfinite(values[f"{split}:loss/L_k"]) for split in ("train", "valid", "test")), settings
        assert math.isfinite(values["train:grads/snr"])


def test_the_experiments_of_the_paper_train_its_variational_autoencoders():
    """They get x itself, and their biases start as torch draws them; the sigmoid belief network starts at the mean."""
    files = sorted(EXPERIMENTS.glob("*.json"))
    runs = [run.settings for file in files for run in load_experiment(file).runs if hasattr(run.settings, "model")]
    models = {(settings.trained_model, settings.use_data_mean) for settings in runs}
    assert {pair for pair in models if "vae" in pair[0]} == {("vae", False), ("gaussian-vae", False)}


@pytest.mark.parametrize("name", NAMES)
def test_a_mini_is_its_experiment_in_small(name):
    full, mini = (load_experiment(EXPERIMENTS / f"{name}{suffix}.json").runs for suffix in ("", "-mini"))
    kinds = [
        {
            (s.estimator, s.id, s.alpha, bool(s.warmup), s.trained_model, s.prior, s.tau)
            for s in (r.settings for r in runs)
        }
        for runs in (full, mini)
    ]
    assert kinds[1] <= kinds[0]
    assert len(mini) <= 30
    assert {run.settings.dataset for run in mini} <= {run.settings.dataset for run in full}
    assert len({run.settings.iw for run in mini}) >= 2
