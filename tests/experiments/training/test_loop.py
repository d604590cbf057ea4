"""A run from its first step to its last: what it writes, how it resumes, how it fails."""

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from slow_cases import slow_except
from train_run import train

from ovis.experiments.runs.context import RunContext
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import SettingsError, TrainSettings
from ovis.experiments.training import journal
from ovis.experiments.training.build import build_run
from ovis.experiments.training.journal import Diverged, MetricsWriter
from ovis.experiments.training.measurements import Measurements
from ovis.experiments.training.step import TrainingStep
from ovis.experiments.training.trainer import Trainer

TINY = {
    "dataset": "digits",
    "model": "sbm",
    "N": 8,
    "depth": 2,
    "nlayers": 0,
    "estimator": "ovis-gamma1",
    "iw": 4,
    "bs": 200,
    "epochs": 3,
    "eval_freq": 1,
    "lr": 1e-2,
    "max_eval": 40,
    "iw_valid": 5,
    "iw_test": 5,
    "grad_samples": 3,
    "mc_au_analysis": 20,
    "npoints_au_analysis": 30,
}


def settings(**changes):
    return TrainSettings(**{**TINY, **changes})


def run_in(folder, **changes):
    folder.mkdir(exist_ok=True)
    return build_run(settings(**changes)), RunPaths(folder)


def lines(paths):
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]


def test_a_run_writes_its_files(tmp_path):
    run, paths = run_in(tmp_path / "run")
    assert train(run, paths)
    written = lines(paths)
    assert [line["step"] for line in written] == [7, 14, 21]
    assert [line["epoch"] for line in written] == [1, 2, 3]
    names = {"train:loss/L_k", "valid:loss/L_k", "train:grads/snr", "train:active_units/au"}
    assert names | {"train:loss/ess", "train:loss/kl_q_p", "train:grads/variance"} <= written[0].keys()
    assert ["test:loss/L_k" in line for line in written] == [False, False, True]
    assert paths.best.exists()
    assert paths.checkpoint.exists()
    assert paths.samples.read_bytes().startswith(b"\x89PNG")
    assert paths.reconstructions.read_bytes().startswith(b"\x89PNG")
    assert list(paths.folder.glob("events*"))
    assert json.loads(paths.progress.read_text())["step"] == 21


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, paths = run_in(tmp_path / "run", epochs=1)
    train(run, paths)
    events = EventAccumulator(str(paths.folder)).Reload()
    for name, value in lines(paths)[0].items():
        if ":" in name:
            assert events.Scalars(name)[0].value == pytest.approx(value, rel=1e-6), name


def test_training_learns(tmp_path):
    """From the best independent model, where training starts, by far more than the noise of the evaluation."""
    run, paths = run_in(tmp_path / "run", bs=50, epochs=6, eval_freq=6, iw_valid=50, grad_samples=0, mc_au_analysis=0)
    start = Measurements(run)(0)["valid:loss/L_k"]
    train(run, paths)
    assert start < -25
    assert lines(paths)[-1]["valid:loss/L_k"] > -22


@pytest.mark.parametrize(("cut", "halvings"), slow_except([(12, 2)], [(5, 0), (7, 0), (12, 2)]))
def test_a_resumed_run_is_the_run_that_was_not_stopped(cut, halvings, tmp_path):
    """To the bit, on the CPU: parameters and all metrics but the time; after a halving of the learning rate, too."""
    whole, whole_paths = run_in(tmp_path / "whole", lr_reduce_steps=halvings)
    train(whole, whole_paths)
    looks = iter(range(1, 10**6))
    first, paths = run_in(tmp_path / "cut", lr_reduce_steps=halvings)
    assert not train(first, paths, stop=lambda: next(looks) == cut)
    second, _ = run_in(tmp_path / "cut", lr_reduce_steps=halvings)
    assert train(second, paths)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert [{**a, "time": 0} for a in lines(paths)] == [{**b, "time": 0} for b in lines(whole_paths)]


def test_evaluating_more_often_does_not_change_the_training(tmp_path):
    often, paths = run_in(tmp_path / "often")
    train(often, paths)
    once, paths = run_in(tmp_path / "once", eval_freq=3, grad_samples=0, mc_au_analysis=0)
    train(once, paths)
    assert torch.equal(often.model.prior_logits, once.model.prior_logits)


def test_seeds_differ_and_repeat(tmp_path):
    values = []
    for number, seed in enumerate([1, 1, 2]):
        run, paths = run_in(tmp_path / str(number), seed=seed, epochs=1)
        train(run, paths)
        values.append(lines(paths)[0]["train:loss/L_k"])
    assert values[0] == values[1] != values[2]


def test_divergence_names_the_step_and_the_parameter_and_keeps_the_checkpoint(tmp_path):
    run, paths = run_in(tmp_path / "run", epochs=1)
    train(run, paths)
    good = paths.checkpoint.read_bytes()
    again, _ = run_in(tmp_path / "run", epochs=2)

    def poison():
        again.model.prior_logits.data.fill_(math.nan)
        return False

    with pytest.raises(Diverged, match=r"step \d+: the loss is nan and parameter [\w.]+ is not finite"):
        train(again, paths, stop=poison)
    assert paths.checkpoint.read_bytes() == good


def lose(parameter, after, monkeypatch):
    """Make the first number of a parameter infinite right after a step."""
    take = TrainingStep.__call__

    def step(self, x, at):
        loss = take(self, x, at)
        if at == after:
            parameter.data.view(-1)[0] = math.inf
        return loss

    monkeypatch.setattr(TrainingStep, "__call__", step)


@pytest.mark.parametrize("cut", [3, 6], ids=["at a stop", "at an evaluation"])
def test_non_finite_parameters_are_not_saved_even_if_the_loss_was_finite(cut, tmp_path, monkeypatch):
    """The last step can lose them: its loss was computed before."""
    run, paths = run_in(tmp_path / "run", epochs=1)
    train(run, paths)
    good, metrics = paths.checkpoint.read_bytes(), paths.metrics.read_bytes()
    again, _ = run_in(tmp_path / "run", epochs=2)
    lose(again.model.prior_logits, 7 + cut, monkeypatch)
    looks = iter(range(10**6))
    with pytest.raises(Diverged, match=r"step \d+: the loss is -?[\d.]+ and parameter prior_logits is not finite"):
        train(again, paths, stop=lambda: cut == 3 and next(looks) == 3)
    assert paths.checkpoint.read_bytes() == good
    assert paths.metrics.read_bytes() == metrics


@pytest.mark.parametrize("cut", [3, 6], ids=["at a stop", "at an evaluation"])
def test_a_diverged_baseline_is_reported_before_it_affects_the_model(cut, tmp_path, monkeypatch):
    run, paths = run_in(tmp_path / "run", epochs=1, estimator="reinforce-baseline")
    train(run, paths)
    good, metrics = paths.checkpoint.read_bytes(), paths.metrics.read_bytes()
    again, _ = run_in(tmp_path / "run", epochs=2, estimator="reinforce-baseline")
    lose(next(again.estimator.parameters()), 7 + cut, monkeypatch)
    looks = iter(range(10**6))
    with pytest.raises(Diverged, match=r"parameter baseline\.[\w.]+ is not finite; a smaller --baseline_lr may help"):
        train(again, paths, stop=lambda: cut == 3 and next(looks) == 3)
    assert paths.checkpoint.read_bytes() == good
    assert paths.metrics.read_bytes() == metrics


def test_an_infinite_optimizer_state_is_divergence(tmp_path, monkeypatch):
    """One huge gradient: Adam's second moment is infinite, every later update of that parameter is 0."""
    run, paths = run_in(tmp_path / "run")
    monkeypatch.setattr(run.optimizer, "step", _after_a_huge_gradient(run, run.optimizer.step))
    with pytest.raises(Diverged, match=r"the optimizer's exp_avg_sq of parameter prior_logits is not finite"):
        train(run, paths)
    assert not paths.checkpoint.exists()


def _after_a_huge_gradient(run, step):
    def wrapped(*args, **kwargs):
        run.model.prior_logits.grad[0] = 1e25
        return step(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("bound", [math.nan, -math.inf, -2e31])
def test_a_bound_that_is_not_finite_ends_the_run(bound, tmp_path, monkeypatch):
    call = Measurements.__call__
    run, paths = run_in(tmp_path / "run")
    monkeypatch.setattr(Measurements, "__call__", lambda self, step: call(self, step) | {"train:loss/L_k": bound})
    with pytest.raises(Diverged, match=r"noticed at step 7: the bound of the training set is (nan|-inf|-2e\+31) nats"):
        train(run, paths)
    assert not paths.metrics.exists()
    assert not paths.checkpoint.exists()


def test_alpha_is_recorded_where_it_changes(tmp_path):
    run, paths = run_in(tmp_path / "run", warmup=20, alpha_init=0.8, warmup_mode="linear")
    train(run, paths)
    assert [line["train:schedule/alpha"] for line in lines(paths)] == pytest.approx([0.52, 0.24, 0.0])


def test_a_broken_checkpoint_is_named(tmp_path):
    run, paths = run_in(tmp_path / "run", epochs=1)
    paths.checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt"):
        train(run, paths)


def test_an_incomplete_last_line_of_metrics_is_removed(tmp_path):
    run, paths = run_in(tmp_path / "run", epochs=1)
    train(run, paths)
    with paths.metrics.open("a") as file:
        file.write('{"step": 9, "train:lo')
    again, _ = run_in(tmp_path / "run", epochs=2)
    train(again, paths)
    assert [line["step"] for line in lines(paths)] == [7, 14]


def test_the_learning_rate_is_halved_at_equal_distances(tmp_path):
    run, paths = run_in(tmp_path / "run", epochs=4, lr_reduce_steps=1, grad_samples=0)
    train(run, paths)
    assert [line["train:schedule/lr"] for line in lines(paths)] == [0.01, 0.01, 0.005, 0.005]


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "gmm", "N": 20, "hdim": 16, "grad_key": "phi", "epochs": -1, "nsteps": 3},
        pytest.param(
            {"dataset": "gaussian-toy", "N": 3, "grad_key": "A,b", "estimator": "iwae"}, marks=pytest.mark.slow
        ),
        {"dataset": "shapes", "mini": True, "model": "vae", "prior": "categorical", "tau": 0.5, "estimator": "iwae"},
        {"model": "conv-vae", "estimator": "dreg"},
        pytest.param({"model": "gaussian-vae", "estimator": "stl", "alpha": 0.7}, marks=pytest.mark.slow),
        {"estimator": "reinforce-baseline"},
        pytest.param({"estimator": "wake-sleep"}, marks=pytest.mark.slow),
        pytest.param({"estimator": "tvo-part2-config1"}, marks=pytest.mark.slow),
        pytest.param({"estimator": "ovis-S0.5"}, marks=pytest.mark.slow),
        {"estimator": "ovis-S2-exclusive", "warmup": 5, "alpha_init": 0.9},
        {"only_train_set": True, "optimizer": "rmsprop", "freebits": 0.1, "beta": 0.5, "mc": 2},
    ],
    ids=lambda changes: " ".join(f"{key}={value}" for key, value in changes.items()),
)
def test_every_kind_of_run_trains(changes, tmp_path):
    run, paths = run_in(tmp_path / "run", **{"epochs": 1, "mc_au_analysis": 0, **changes})
    before = [p.detach().clone() for p in run.model.parameters()]
    assert train(run, paths)
    values = lines(paths)[-1]
    assert all(math.isfinite(value) for value in values.values())
    moved = [not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True)]
    assert any(moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "vae", "alpha": 0.5}, "--alpha"),
        ({"estimator": "tvo-part2-config1", "warmup": 10}, "--warmup"),
        ({"estimator": "rws", "beta": 0.5}, "--beta"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "toaster"}, "toaster"),
    ],
)
def test_incompatible_settings_are_rejected(changes, message):
    with pytest.raises(SettingsError, match=message):
        build_run(settings(**changes))


def test_the_baseline_has_its_own_learning_rate():
    run = build_run(settings(estimator="reinforce-baseline", baseline_lr=0.5))
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.01, 0.5]
    assert len(run.optimizer.param_groups[1]["params"]) == len(list(run.estimator.parameters())) > 0


def words(tmp_path, **changes):
    options = {**TINY, "root": tmp_path, **changes}
    return [
        sys.executable,
        "-m",
        "ovis.experiments.cli.train",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_the_next_start_goes_on(tmp_path):
    long = words(tmp_path, epochs=100_000, eval_freq=10_000, grad_samples=0)
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    progress = None
    for _ in range(600):
        time.sleep(0.1)
        if progress := next(tmp_path.glob("sandbox/*/progress.json"), None):
            break
    assert progress is not None, process.communicate(timeout=1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    paths = RunPaths(progress.parent)
    assert json.loads(paths.outcome.read_text())["status"] == "aborted"
    state = torch.load(paths.checkpoint, weights_only=True)
    assert state["position"]["step"] > 0


@pytest.mark.parametrize("seeds", [[1], [1, 2]], ids=["alone", "ensemble"])
def test_a_long_evaluation_renews_the_progress_after_each_batch(seeds, tmp_path, monkeypatch):
    """Else it would look as if the run stood still. Here each batch of data takes longer than the pulse."""
    monkeypatch.setattr(journal, "PULSE", -1.0)
    written = []
    monkeypatch.setattr(MetricsWriter, "progress", lambda self, *values: written.append(values))
    options = {"dataset": "gmm", "N": 4, "hdim": 4, "mini": True, "bs": 10, "nsteps": 1, "grad_samples": 0, "iw": 2}
    sizes = {"max_eval": 40, "test_bs": 10, "valid_bs": 20, "iw_test": 3, "iw_valid": 3, "device": "cpu"}
    paths = [RunPaths(tmp_path / str(seed)) for seed in seeds]
    for path in paths:
        path.folder.mkdir()
    settings = [TrainSettings(**options, **sizes, seed=seed) for seed in seeds]
    assert all(result.complete for result in Trainer(settings, [RunContext(path) for path in paths]).run())
    assert len(written) == len(seeds) * (1 + 4 + 2 + 4)  # the loss; training, validation and test set
    assert {values[:2] for values in written} == {(1, 1)}
    assert len({values[2] for values in written}) == len(seeds)  # always the last loss
