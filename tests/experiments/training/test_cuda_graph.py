"""Captured steps give the same parameters as eager ones, whatever changes from step to step."""

from __future__ import annotations

import pytest
import torch
from fake_graphs import FakeGraphs
from test_steady_state import NORMAL, SBM, nothing_waits

from ovis.experiments.settings import SettingsError, TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.cuda_graph import WARM_UP
from ovis.experiments.training.step import TrainingStep

STEPS = 9
CHANGING = {"warmup": 6, "alpha_init": 0.9, "lr_reduce_steps": 3, "lr": 0.05}
PLAIN = ("reinforce-baseline", "vimco", "rws", "wake-sleep", "tvo-part2-config1")
CASES = {
    **{name: {**SBM, "estimator": name} for name in PLAIN},
    "warm-up": {**SBM, "estimator": "ovis-gamma1", **CHANGING},
    "auxiliary": {**SBM, "estimator": "ovis-S2-exclusive", **CHANGING},
    "pathwise": {**NORMAL, "estimator": "dreg", **CHANGING},
    "halvings": {**SBM, "estimator": "vimco", "lr": 0.05, "lr_reduce_steps": 3, "optimizer": "sgd"},
}


def trained(options, captured, sizes=(20,)):
    """The parameters after some steps, the losses, and what recorded."""
    run = build_run(TrainSettings(**{"bs": 20, "N": 6, "hdim": 8, "iw": 4, "nsteps": STEPS, **options}))
    run.model.train()

    def state():
        moments = [value for each in run.optimizer.state.values() for value in each.values()]
        return [*run.model.parameters(), *run.estimator.parameters(), *moments]

    graphs = FakeGraphs(state) if captured else None
    take = TrainingStep(run, graphs)
    losses = []
    for step, x in enumerate(run.batches(0, STEPS)):
        losses.append(take(x[: sizes[step % len(sizes)]], step).clone())
    return [parameter.detach().clone() for parameter in state()[: len(list(run.model.parameters()))]], losses, graphs


@pytest.mark.parametrize("case", CASES)
def test_captured_steps_equal_eager_steps(case):
    (plain, losses, _), (result, found_losses, graphs) = (trained(CASES[case], captured) for captured in (False, True))
    assert (graphs.warmed, graphs.recorded, graphs.replayed) == (WARM_UP, 1, STEPS - WARM_UP)
    torch.testing.assert_close(found_losses, losses)
    torch.testing.assert_close(result, plain)


@pytest.mark.parametrize("forgotten", ["alpha", "lr"])
def test_a_number_that_is_fixed_at_the_recording_is_detected(forgotten, monkeypatch):
    """The fake is a graph: a number that is not in memory is that of the recording."""
    plain, _, _ = trained(CASES["warm-up"], False)
    if forgotten == "lr":
        monkeypatch.setattr("ovis.experiments.training.step.LearningRates.move_to", lambda self, device: None)
    else:
        monkeypatch.setattr(TrainingStep, "_fixed", property(lambda self: {"alpha": float(self.alpha)}))
    result, _, _ = trained(CASES["warm-up"], True)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(result, plain)


def test_each_batch_shape_has_a_separate_recording():
    plain, losses, _ = trained(CASES["vimco"], False, (20, 7))
    result, found_losses, graphs = trained(CASES["vimco"], True, (20, 7))
    assert (graphs.warmed, graphs.recorded, graphs.replayed) == (2 * WARM_UP, 2, STEPS - 2 * WARM_UP)
    torch.testing.assert_close((result, found_losses), (plain, losses))


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_step_does_not_synchronize(case):
    run = build_run(TrainSettings(**{"bs": 20, "N": 6, "hdim": 8, "iw": 4, "nsteps": STEPS, **CASES[case]}))
    take = TrainingStep(run, FakeGraphs(lambda: []))
    source = run.batches(0, STEPS)
    for step in range(WARM_UP):
        take(next(source), step)
    x = next(source)
    host = [] if take.alpha is None else [take.alpha]  # on a device nobody reads it
    with nothing_waits(host):
        take._take(x, take._fixed)


def test_the_learning_rates_of_a_captured_run_are_saved_and_loaded():
    run = build_run(TrainSettings(**SBM, estimator="vimco", bs=20, N=6, iw=4, nsteps=STEPS))
    take = TrainingStep(run, FakeGraphs(lambda: []))
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    take = TrainingStep(run, FakeGraphs(lambda: []))
    take(next(run.batches(0, 1)), 0)
    assert float(run.optimizer.param_groups[0]["lr"]) == pytest.approx(run.settings.lr)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_capture_without_a_gpu_is_rejected_in_one_line():
    with pytest.raises(SettingsError, match="--capture: needs a CUDA device, and this run is on cpu"):
        build_run(TrainSettings(**SBM, estimator="vimco", iw=4, capture=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_on_cuda(case):
    results = []
    for capture in (False, True):
        options = {"bs": 20, "N": 6, "hdim": 8, "iw": 4, "nsteps": STEPS, "device": "cuda", "capture": capture}
        run = build_run(TrainSettings(**{**options, **CASES[case]}))
        take = TrainingStep(run)
        for step, x in enumerate(run.batches(0, STEPS)):
            take(x, step)
        results.append([parameter.detach().clone() for parameter in run.model.parameters()])
    torch.testing.assert_close(*results)
