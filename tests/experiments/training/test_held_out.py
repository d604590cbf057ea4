"""The held-out set that chooses nothing is read once, at the end, with the best parameters."""

import dataclasses
import json
import shutil

import pytest
import torch
from resume_cases import CASES
from resume_lab import KILLED, Plan, unequal
from slow_cases import slow_except
from train_run import train

from ovis.analysis.evaluate import evaluate
from ovis.analysis.seeding import own_seed
from ovis.experiments.datasets.splits import StoredData, as_float
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training import measurements as module
from ovis.experiments.training.build import build_run
from ovis.experiments.training.checkpoint import is_best, save_best
from ovis.experiments.training.step import TrainingStep

OVERSHOOT = CASES["overshoot"]
MIXTURE = {**CASES["gmm"], "estimator": "vimco", "lr": 0.3, "lr_reduce_steps": 0, "grad_samples": 0}
OTHER = {"valid": "test", "test": "valid"}


class Watched:
    """A data set that records the steps at which a part of it is read."""

    def __init__(self, splits, kept):
        self.splits, self.kept, self.taken, self.read_at = splits, kept, 0, []

    def count(self, step):
        self.taken = step + 1

    def __getattr__(self, name):
        if name == self.kept:
            self.read_at.append(self.taken)
        return getattr(self.splits, name)


def lines(paths):
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]


def of(values, split):
    return {name: value for name, value in values.items() if name.startswith(f"{split}:")}


def checkpoint(paths):
    return torch.load(paths.checkpoint, weights_only=True)


def trained(folder, **options):
    """A complete run, and the steps at which its held-out set was read."""
    folder.mkdir()
    run, paths = build_run(TrainSettings(**options)), RunPaths(folder)
    watched = Watched(run.splits, OTHER[run.settings.select_on])
    run = dataclasses.replace(run, splits=watched)
    with pytest.MonkeyPatch.context() as patch:
        take = TrainingStep.__call__
        patch.setattr(TrainingStep, "__call__", lambda self, x, step: watched.count(step) or take(self, x, step))
        assert train(run, paths)
    return run, paths, watched.read_at


@pytest.mark.parametrize("select_on", ["valid", "test"])
@pytest.mark.parametrize("options", [OVERSHOOT, MIXTURE], ids=["digits", "gmm"])
def test_it_is_read_at_the_last_step_only_and_measured_once(options, select_on, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "evaluate", lambda model, x, *a, **k: seen.append(x) or evaluate(model, x, *a, **k))
    run, paths, read_at = trained(tmp_path / "run", **options, select_on=select_on)
    assert read_at == [27]
    kept = OTHER[select_on]
    assert [bool(of(line, kept)) for line in lines(paths)] == [False, False, True]
    assert all(of(line, select_on) for line in lines(paths))
    expected = as_float(StoredData(getattr(run.splits.splits, kept)).subset(options["max_eval"]).data)
    assert sum(torch.equal(x, expected) for x in seen) == 1
    assert len(seen) == 3 + 3 + 1  # train, the other one, and this


def test_with_the_training_set_only_neither_is_read(tmp_path):
    for kept in ("valid", "test"):
        _, paths, read_at = trained(tmp_path / kept, **OVERSHOOT, only_train_set=True, select_on=OTHER[kept])
        assert read_at == []
        assert not any(of(line, "valid") or of(line, "test") for line in lines(paths))


def measured_by_hand(options, paths, split, parameters):
    """The measurements of a split, computed from the settings and a file of parameters."""
    run = build_run(TrainSettings(**options))
    run.model.load_state_dict(parameters)
    settings = run.settings
    iw, batch = (settings.iw_valid, settings.valid_bs) if split == "valid" else (settings.iw_test, settings.test_bs)
    points = as_float(StoredData(getattr(run.splits, split)).subset(settings.max_eval).data)
    with own_seed(module.EVALUATION_SEED + settings.seed, run.device):
        values = evaluate(run.model, points, iw, batch, ess_particles=settings.iw).diagnostic.flat(f"{split}:")
        if hasattr(run.model, "diagnostics"):
            distances = run.model.diagnostics(points)["gmm"]
            values |= {f"{split}:gmm/{name}": float(value.double().mean()) for name, value in distances.items()}
    return values


@pytest.mark.parametrize("select_on", ["valid", "test"])
@pytest.mark.parametrize("options", [OVERSHOOT, MIXTURE], ids=["digits", "gmm"])
def test_the_numbers_are_those_of_the_best_parameters(options, select_on, tmp_path):
    options = {**options, "select_on": select_on, "iw_valid": 6}
    run, paths, _ = trained(tmp_path / "run", **options)
    position, split = checkpoint(paths)["position"], OTHER[select_on]
    scores = [line[f"{select_on}:loss/L_k"] for line in lines(paths)]
    assert position["best"] == max(scores) > scores[-1]  # so the best are not the last ones
    assert is_best(paths, position["best_step"])
    written, state = of(lines(paths)[-1], split), checkpoint(paths)
    expected = measured_by_hand(options, paths, split, torch.load(paths.best, weights_only=True))
    assert written == expected
    last = measured_by_hand(options, paths, split, state["model"])
    assert written[f"{split}:loss/L_k"] != last[f"{split}:loss/L_k"]
    assert all(torch.equal(value, state["model"][name]) for name, value in run.model.state_dict().items())


def test_where_the_last_evaluation_is_the_best_its_parameters_are_measured(tmp_path):
    options = {**CASES["digits"], "grad_samples": 0}
    _, paths, _ = trained(tmp_path / "run", **options)
    state = checkpoint(paths)
    assert state["position"]["best_step"] == state["position"]["step"]
    assert of(lines(paths)[-1], "test") == measured_by_hand(options, paths, "test", state["model"])
    assert is_best(paths, 27)


def test_the_training_is_the_same_whatever_is_measured(tmp_path):
    """Parameters, optimizer and random states, to the bit: what is measured at the end, too, leaves no trace."""
    result = []
    for number, changes in enumerate([{}, {"select_on": "test"}, {"only_train_set": True}]):
        _, paths, _ = trained(tmp_path / str(number), **OVERSHOOT, **changes)
        state = checkpoint(paths)
        result.append({part: state[part] for part in ("model", "estimator", "optimizer", "random")})
    assert repr(result[0]) == repr(result[1]) == repr(result[2])
    for name, value in result[0]["model"].items():
        assert all(torch.equal(value, other["model"][name]) for other in result[1:])


def test_tensorboard_has_them_at_the_last_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, paths, _ = trained(tmp_path / "run", **OVERSHOOT)
    board = EventAccumulator(str(paths.folder)).Reload()
    last = lines(paths)[-1]
    for name, value in of(last, "test").items():
        (event,) = board.Scalars(name)
        assert (event.step, event.value) == (27, pytest.approx(value, rel=1e-6))


@pytest.fixture(scope="module")
def whole(lab):
    left = lab.finish("whole-overshoot", OVERSHOOT)
    assert left["checkpoint.pt/position/best_step"] == 18
    assert "test:loss/L_k" in left["metrics 2"]
    return left


@pytest.mark.parametrize(
    "plan",
    [
        Plan(step=26, seconds=-1),
        pytest.param(Plan("evaluation.recorded:3"), marks=pytest.mark.slow),
        pytest.param(Plan("checkpoint.temporary:3"), marks=pytest.mark.slow),
        pytest.param(Plan("checkpoint.rotated:3"), marks=pytest.mark.slow),
        pytest.param(Plan("checkpoint.saved:3"), marks=pytest.mark.slow),
        Plan("checkpoint.saved:2"),  # the best parameters are in the checkpoint, and in best.pt those before
        Plan("best.written:2"),  # best.pt has them, and best.json does not know
    ],
    ids=lambda plan: plan.failpoint or f"step {plan.step}",
)
def test_an_interrupted_run_measures_bit_identical_values(lab, whole, plan):
    name = f"held-out-{plan.failpoint or plan.step}"
    assert lab.start(name, OVERSHOOT, plan) == KILLED
    assert unequal(lab.finish(name, OVERSHOOT), whole) == []


def test_best_parameters_of_a_lost_checkpoint_are_not_used(lab, whole):
    """The checkpoint of step 18 is lost: best.pt is of 18, the run goes on from 9, where the best was 9."""
    paths = lab.paths("lost-future")
    assert lab.start("lost-future", OVERSHOOT, Plan("best.saved:2")) == KILLED
    paths.checkpoint.write_bytes(b"")
    assert lab.start("lost-future", OVERSHOOT, Plan(step=12, seconds=-1)) == KILLED
    assert "going on from checkpoint.previous.pt, step 9" in lab.output
    assert is_best(paths, 9)  # written again, because the position names this step
    assert unequal(lab.finish("lost-future", OVERSHOOT), whole) == []


def prepared(tmp_path, whole_folder):
    """A run that stands at step 26, with the best at 18."""
    shutil.copytree(whole_folder, tmp_path / "run")
    paths = RunPaths(tmp_path / "run")
    run = build_run(TrainSettings(**OVERSHOOT))
    return run, paths


@pytest.mark.parametrize(
    "damage", slow_except(["flipped bit"], ["another step", "flipped bit", "no mark", "nothing there"])
)
def test_lost_best_parameters_are_chosen_again_with_a_warning(damage, tmp_path, lab, caplog):
    name = f"lost-{damage.replace(' ', '-')}"
    assert lab.start(name, OVERSHOOT, Plan(step=26, seconds=-1)) == KILLED
    run, paths = prepared(tmp_path, lab.paths(name).folder)
    if damage == "another step":
        save_best(paths, run, 9)
    elif damage == "flipped bit":
        data = bytearray(paths.best.read_bytes())
        data[len(data) // 2] ^= 1
        paths.best.write_bytes(data)
    elif damage == "no mark":
        paths.best_mark.unlink()
    else:
        paths.best.unlink()
    with caplog.at_level("WARNING"):
        assert train(run, paths)
    assert f"{paths.best} is not whole, or not of step 18: the best is chosen anew" in caplog.messages
    assert checkpoint(paths)["position"]["best_step"] == 27
    assert is_best(paths, 27)
    assert of(lines(paths)[-1], "test") == measured_by_hand(OVERSHOOT, paths, "test", checkpoint(paths)["model"])


def test_lost_best_parameters_are_detected_at_the_start(tmp_path, lab, caplog):
    """So that the best of all evaluations that are still to come is kept, not the last one."""
    assert lab.start("lost-early", OVERSHOOT, Plan(step=26, seconds=-1)) == KILLED
    run, paths = prepared(tmp_path, lab.paths("lost-early").folder)
    paths.best.unlink()
    longer = dataclasses.replace(run, settings=dataclasses.replace(run.settings, epochs=4))
    with caplog.at_level("WARNING"):
        assert not train(longer, paths, stop=lambda: True)
    assert f"{paths.best} is not whole, or not of step 18: the best is chosen anew" in caplog.messages
    assert checkpoint(paths)["position"]["best_step"] == 27  # it would have been 18


def test_best_parameters_lost_during_the_run_are_detected_at_its_end(tmp_path, caplog):
    run, paths = build_run(TrainSettings(**OVERSHOOT)), RunPaths(tmp_path)
    looks = iter(range(1, 10**6))

    def stop():
        if next(looks) == 20:
            paths.best.write_bytes(b"gone")
        return False

    with caplog.at_level("WARNING"):
        assert train(run, paths, stop=stop)
    assert any("not of step 18" in message for message in caplog.messages)
    assert is_best(paths, 27)
    assert of(lines(paths)[-1], "test") == measured_by_hand(OVERSHOOT, paths, "test", checkpoint(paths)["model"])


def test_if_every_score_is_nan_the_last_parameters_are_measured(tmp_path, monkeypatch):
    call = module.Measurements.__call__
    lost = {"valid:loss/L_k": float("nan")}
    monkeypatch.setattr(module.Measurements, "__call__", lambda self, step: call(self, step) | lost)
    run, paths = build_run(TrainSettings(**OVERSHOOT)), RunPaths(tmp_path)
    assert train(run, paths)
    assert not paths.best.exists()
    assert of(lines(paths)[-1], "test") == measured_by_hand(OVERSHOOT, paths, "test", checkpoint(paths)["model"])


def test_a_fresh_start_forgets_the_best_of_another_run(tmp_path):
    run, paths = build_run(TrainSettings(**OVERSHOOT)), RunPaths(tmp_path)
    save_best(paths, run, 5)
    assert is_best(paths, 5)
    assert not is_best(paths, 6)
    assert not train(run, paths, stop=lambda: True)
    assert not paths.best.exists()
    assert not paths.best_mark.exists()
