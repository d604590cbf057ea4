"""The runs of an ensemble equal those trained alone, to rounding, and leave the same files."""

import json
import logging

import pytest
import torch
from ensemble_cases import ESTIMATORS, GMM, SBM, SEEDS, after, alone, check_same, double, ensemble, left
from slow_cases import slow_except

from ovis.experiments.runs.fencing import Superseded
from ovis.experiments.training.ensemble import vmapped_step
from ovis.experiments.training.journal import Diverged

CASES = {
    **{f"gmm-{name}": {**GMM, "estimator": name} for name in ESTIMATORS},
    "gmm-baseline": {**GMM, "estimator": "reinforce-baseline", "optimizer": "adamax"},
    "sbm-ovis-gamma1": {**SBM, "estimator": "ovis-gamma1"},
    "sbm-auxiliary": {**SBM, "estimator": "ovis-S2-exclusive", "optimizer": "rmsprop", "warmup": 0},
    "sbm-wake-sleep": {**SBM, "estimator": "wake-sleep", "optimizer": "sgd", "grad_samples": 0},
}


def test_the_cases_include_all_estimators_of_the_paper():
    assert len(ESTIMATORS) == 10


def files_of(paths):
    """The names of a run's files, without host and time."""
    return sorted(path.name.split(".vm.")[0].split(".tfevents")[0] for path in paths.folder.iterdir())


@pytest.mark.parametrize("case", slow_except(("gmm-ovis-gamma1", "sbm-wake-sleep"), CASES))
def test_three_runs_at_once_equal_three_runs_alone(case, tmp_path, caplog):
    """In float64 they differ by rounding only. No warning was logged, so they were trained at once."""
    with double():
        members = ensemble(tmp_path, CASES[case])
        assert [member.error for member in members] == [None] * 3
        assert all(member.complete for member in members)
        for seed, member in zip(SEEDS, members, strict=True):
            by_itself = alone(tmp_path, CASES[case], seed)
            check_same(by_itself, member.paths, rtol=1e-10, atol=1e-10)
            assert files_of(member.paths) == files_of(by_itself)
            assert member.paths.samples.exists() is case.startswith("sbm")
    assert "one after the other" not in caplog.text
    first, second = (left(member.paths) for member in members[:2])
    assert any(first[name] != second[name] for name in first if name.endswith("train:loss/L_k"))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["gmm-ovis-gamma1", "gmm-ovis-S10-exclusive", "sbm-ovis-gamma1"])
def test_in_single_precision_they_agree_to_its_rounding(case, tmp_path):
    """In these cases no discrete sample depends on the last bit of a probability."""
    for seed, member in zip(SEEDS, ensemble(tmp_path, CASES[case]), strict=True):
        check_same(alone(tmp_path, CASES[case], seed), member.paths, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["alone", "ensemble"])
def test_a_run_can_resume_alone_or_in_an_ensemble(first, tmp_path):
    settings = CASES["gmm-ovis-S10-exclusive"]
    with double():
        begun = []
        if first == "alone":
            begun = [alone(tmp_path, settings, seed, after(5)) for seed in SEEDS]
            ensemble(tmp_path, settings, name="alone")
        else:
            members = ensemble(tmp_path, settings, stop=after(7), name="alone")
            assert not any(member.complete for member in members)
            assert [member.step for member in members] == [8] * 3
            begun = [alone(tmp_path, settings, seed) for seed in SEEDS]
        whole = ensemble(tmp_path, settings, name="whole")
        for paths, member in zip(begun, whole, strict=True):
            assert json.loads(paths.progress.read_text())["begin"] > 0
            check_same(paths, member.paths, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_runs_at_different_steps_are_brought_to_the_same_step(tmp_path):
    """As a kill between two checkpoints leaves them."""
    settings = CASES["gmm-vimco-arithmetic"]
    with double():
        for seed, steps in ((1, 3), (2, 7)):  # the third has no checkpoint
            alone(tmp_path, settings, seed, after(steps))
        members = ensemble(tmp_path, settings, name="alone")
        for member, other in zip(members, ensemble(tmp_path, settings), strict=True):
            check_same(member.paths, other.paths, rtol=1e-10, atol=1e-10)


def test_a_run_that_diverges_ends_alone(tmp_path, monkeypatch):
    settings = CASES["gmm-ovis-gamma1"]

    class Poisoned(vmapped_step.StackedState):
        def optimizer_step(self, gradients):
            gradients[0][1, 0] = torch.nan  # of the second run
            super().optimizer_step(gradients)

    with double():
        monkeypatch.setattr(vmapped_step, "StackedState", Poisoned)
        members = ensemble(tmp_path, settings)
        monkeypatch.undo()
        assert isinstance(members[1].error, Diverged)
        assert "parameter theta is not finite" in str(members[1].error)
        assert not members[1].complete
        assert not members[1].paths.metrics.exists()
        for seed in (1, 3):
            assert members[seed - 1].complete
            check_same(alone(tmp_path, settings, seed), members[seed - 1].paths, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_a_run_that_another_attempt_has_taken_over_ends_alone(tmp_path):
    calls = iter(range(100))

    def guard():
        if next(calls) > 3:
            raise Superseded("taken")

    settings = CASES["gmm-reinforce"]
    members = ensemble(tmp_path, settings, ownership=lambda seed: guard if seed == 2 else lambda: None)
    assert [type(member.error) for member in members] == [type(None), Superseded, type(None)]
    assert [member.complete for member in members] == [True, False, True]


@pytest.mark.slow
def test_a_run_that_can_t_begin_leaves_the_others_alone(tmp_path):
    settings = CASES["gmm-reinforce"]
    alone(tmp_path, {**settings, "lr": 0.5}, 2, after(2))
    members = ensemble(tmp_path, settings, name="alone")
    assert "--lr" in str(members[1].error)
    assert [member.complete for member in members] == [True, False, True]


def test_runs_that_can_t_be_batched_are_trained_one_after_the_other(tmp_path, caplog):
    """Chunks of particles are recomputed by autograd, which torch.func can't trace."""
    settings = {**CASES["gmm-ovis-gamma1"], "particles_per_pass": "2", "grad_samples": 0}
    with caplog.at_level(logging.WARNING), double():
        members = ensemble(tmp_path, settings, seeds=(1, 2))
        assert all(member.complete for member in members)
        check_same(alone(tmp_path, settings, 1), members[0].paths, rtol=0, atol=0)
    assert "one after the other" in caplog.text
