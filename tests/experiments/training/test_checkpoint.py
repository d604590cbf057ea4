"""Checkpoints: what is restored, and the errors for files that can't be used."""

import os
import random
import re

import numpy as np
import pytest
import torch

from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training import checkpoint as module
from ovis.experiments.training.build import build_run
from ovis.experiments.training.checkpoint import CheckpointError, Position, load_checkpoint, save_checkpoint
from ovis.experiments.training.random_state import random_states
from ovis.experiments.training.step import TrainingStep

TINY = {"dataset": "gaussian-toy", "N": 3, "grad_key": "A,b", "estimator": "iwae", "iw": 2, "lr": 0.1}


def make(**changes):
    """A run that has taken one step, so that its optimizer has a state."""
    run = build_run(TrainSettings(**{**TINY, **changes}))
    TrainingStep(run)(run.splits.train.points(5), 0)
    return run


def save(paths, run, position):
    save_checkpoint(paths, run, position, random_states(run.device))


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


@pytest.fixture
def two(paths):
    """A run with two checkpoints, of step 1 and step 2."""
    run = make()
    save(paths, run, Position(1))
    save(paths, run, Position(2))
    return run


def flip(path, index, bit=0):
    data = bytearray(path.read_bytes())
    data[index] ^= 1 << bit
    path.write_bytes(data)


def state_of(run):
    optimizer = [value for entry in run.optimizer.state_dict()["state"].values() for value in entry.values()]
    return [*run.model.state_dict().values(), *optimizer]


def test_the_last_two_are_kept(two, paths):
    assert torch.load(paths.checkpoint, weights_only=True)["position"]["step"] == 2
    assert torch.load(paths.previous_checkpoint, weights_only=True)["position"]["step"] == 1
    assert load_checkpoint(paths, two) == Position(2)
    paths.checkpoint.unlink()  # as a kill between the two renames leaves it
    assert load_checkpoint(paths, two) == Position(1)
    save(paths, two, Position(3))
    assert load_checkpoint(paths, two) == Position(3)
    assert torch.load(paths.previous_checkpoint, weights_only=True)["position"]["step"] == 1


def test_a_missing_checkpoint_is_not_an_error(paths):
    assert load_checkpoint(paths, make()) is None


def test_every_random_state_is_restored(paths):
    def draws():
        return torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(3).tolist()  # noqa: NPY002

    run = make()
    np.random.randn()  # noqa: NPY002 (half of a pair: the other half is kept for the next call)
    save(paths, run, Position(1))
    expected = draws()
    assert draws() != expected
    load_checkpoint(paths, run)
    assert draws() == expected


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_flipped_bit_is_detected_wherever_it_matters(paths):
    """torch.load alone takes most of them for parameters."""
    run, other = make(), make(seed=2)
    save(paths, run, Position(1))
    whole, chance = paths.checkpoint.read_bytes(), random.Random(0)
    expected, refused, unseen = state_of(run), 0, 0
    for index in chance.sample(range(len(whole)), 150):
        paths.checkpoint.write_bytes(whole)
        flip(paths.checkpoint, index, chance.randrange(8))
        try:
            other.optimizer.state.clear()
            load_checkpoint(paths, other)
        except CheckpointError:
            refused += 1
            unseen += loads(paths.checkpoint)
        else:  # in the padding between two tensors, say
            assert all(torch.equal(a, b) for a, b in zip(state_of(other), expected, strict=True)), index
    assert refused > 100
    assert unseen > 50  # so the checksums are of use


def loads(path):
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "half"])
def test_a_corrupt_checkpoint_is_renamed_and_the_previous_one_is_used(two, paths, damage, caplog):
    data = paths.checkpoint.read_bytes()
    paths.checkpoint.write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    with caplog.at_level("WARNING"):
        assert load_checkpoint(paths, two) == Position(1)
    (line,) = caplog.messages
    assert re.fullmatch(r".*checkpoint\.pt\.corrupt: .+; going on from checkpoint\.previous\.pt, step 1", line)
    assert sorted(path.name for path in paths.folder.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt.corrupt"]


def test_an_error_says_nothing_about_the_options_of_torch(two, paths):
    paths.previous_checkpoint.unlink()
    torch.save({"settings": os.path.join, "model": paths}, paths.checkpoint)  # not tensors and plain values only
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(paths, two)
    reason = f"{paths.checkpoint}: torch can't load it (UnpicklingError)"
    assert str(caught.value) == f"no whole checkpoint ({reason}); remove it to start from the first step"


@pytest.mark.parametrize("first", [True, False], ids=["one of one", "two of two"])
def test_without_an_intact_checkpoint_the_run_fails_and_nothing_is_moved(two, paths, first):
    if first:
        paths.previous_checkpoint.unlink()
    present = [path for path in (paths.checkpoint, paths.previous_checkpoint) if path.exists()]
    for path in present:
        flip(path, path.stat().st_size // 2)
    for _ in range(2):  # the second start must not start from the first step in an empty folder
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(paths, two)
        assert "\n" not in str(caught.value)
        assert all(str(path) in str(caught.value) for path in present)
        assert str(caught.value).endswith(f"remove {'it' if first else 'them'} to start from the first step")
    assert all(path.exists() for path in present)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"lr": 0.2}, "it has --lr 0.1"),
        ({"N": 4}, "it has --N 3"),
        ({"optimizer": "sgd", "iw": 3}, "it has --iw 2, --optimizer adam"),
    ],
)
def test_a_checkpoint_of_other_settings_is_an_error_and_is_kept(two, paths, changes, difference):
    before = paths.checkpoint.read_bytes()
    with pytest.raises(
        CheckpointError, match=f"checkpoint.pt is not of this run: {difference}; use another folder, or re"
    ):
        load_checkpoint(paths, make(**changes))
    assert paths.checkpoint.read_bytes() == before


def test_a_checkpoint_of_another_model_is_an_error(two, paths, monkeypatch):
    monkeypatch.setattr(module, "_settings", lambda settings: {})
    save(paths, two, Position(3))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is not of this run: Error\(s\) in loading state_dict"):
        load_checkpoint(paths, make(N=4))


def test_an_intact_file_that_is_not_a_checkpoint_is_an_error(two, paths):
    torch.save({"model": 1}, paths.checkpoint)
    with pytest.raises(CheckpointError, match="not of this run: KeyError 'settings'"):
        load_checkpoint(paths, two)


def test_a_run_may_be_made_longer(two, paths):
    assert load_checkpoint(paths, make(nsteps=7)) == Position(2)
    assert load_checkpoint(paths, make(epochs=7)) == Position(2)


def test_an_unreadable_file_is_not_treated_as_corrupt(two, paths, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(paths.checkpoint))

    monkeypatch.setattr(module.zipfile, "ZipFile", denied)
    with pytest.raises(PermissionError):
        load_checkpoint(paths, two)


def test_code_in_a_checkpoint_is_not_run(two, paths, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"settings": Evil()}, paths.checkpoint)
    assert load_checkpoint(paths, two) == Position(1)
    assert not (tmp_path / "evil").exists()
