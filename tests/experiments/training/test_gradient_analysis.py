"""The gradient analysis of a run: the values of --grad_key, and the progress bar."""

import io
import json
import re
import sys

import pytest
import torch
from slow_cases import slow_except
from train_run import train

from ovis.analysis.gradients import get_gradients_statistics
from ovis.analysis.seeding import own_seed
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import SettingsError, TrainSettings
from ovis.experiments.training import gradient_analysis as module
from ovis.experiments.training.build import build_run
from ovis.experiments.training.gradient_analysis import GradientAnalysis
from ovis.experiments.training.measurements import Measurements

COMMON = {
    **{"estimator": "ovis-gamma1", "iw": 3, "N": 4, "hdim": 8, "bs": 500, "nsteps": 4, "eval_freq": 1},
    **{"max_eval": 10, "iw_valid": 2, "iw_test": 2, "grad_samples": 6, "grad_bs": 3},
}
SBM = {"dataset": "digits", "model": "sbm", "depth": 2, "nlayers": 0}
RELAXED = {"dataset": "digits", "model": "conv-vae", "prior": "bernoulli", "tau": 0.5, "estimator": "iwae"}
NORMAL = {"dataset": "digits", "model": "vae", "nlayers": 1, "normalization": "batchnorm", "dropout": 0.2}

#: What the loss depends on, datum by datum, by model and estimator.
VALID = {
    "sbm": (SBM, "qlogits xlogits"),
    "mixture": ({"dataset": "gmm"}, "qlogits"),
    "toy": ({"dataset": "gaussian-toy"}, "qloc"),
    "bernoulli": ({"dataset": "digits", "model": "vae", "prior": "bernoulli"}, "qlogits xlogits"),
    "categorical": ({"dataset": "digits", "model": "vae", "prior": "categorical"}, "xlogits"),
    "normal": (NORMAL, "qloc qscale xlogits"),
    "reparameterized": ({**NORMAL, "estimator": "dreg"}, "qloc qscale xlogits z"),
    "relaxed": (RELAXED, "qlogits xlogits z"),
}


def make(**changes):
    return build_run(TrainSettings(**{**COMMON, **changes}))


@pytest.mark.parametrize("case", slow_except(["toy", "bernoulli"], VALID))
def test_the_valid_tensors_are_named_and_each_is_analysed_in_a_training(case, tmp_path):
    options, names = VALID[case]
    with pytest.raises(SettingsError) as refused:
        Measurements(make(**options, grad_key="tensor:nobody"))
    assert re.search(r"^--grad_key: .*'nobody' of \w+'s output.*; valid: ", str(refused.value))
    assert str(refused.value).partition("valid: ")[2] == ", ".join(f"tensor:{name}" for name in names.split())
    for name in names.split():
        folder = tmp_path / name
        folder.mkdir()
        assert train(make(**options, grad_key=f"tensor:{name}"), RunPaths(folder))
        for line in map(json.loads, RunPaths(folder).metrics.read_text().splitlines()):
            assert line["train:grads/variance"] > 0
            assert line["train:grads/snr"] > 0
            assert line["train:grads/keep_ratio"] > 0


def test_what_is_measured_is_the_gradient_of_that_tensor():
    run = make(**SBM, grad_key="tensor:qlogits")
    x = run.splits.train.points(3)
    with own_seed(5, run.device):
        values = GradientAnalysis(run, x)(0)
    with own_seed(5, run.device):
        stats, meta = get_gradients_statistics(
            run.estimator, run.model, x, mc_samples=6, key_filter="tensor:qlogits", return_grads=True
        )
    assert meta.grads.shape == (6, 3 * (4 + 3 * 4))  # each datum has the logits of z_1, and of z_2 for 3 particles
    assert values == pytest.approx(stats.flat("train:"), rel=1e-9)  # draws that are kept are summed in another order
    variance = meta.grads.double().var(0)
    assert values["train:grads/variance"] == pytest.approx(variance[variance > 1e-15].mean().item(), rel=1e-4)


@pytest.mark.parametrize("key", ["tensor:plogits", "tensor:", "tensor:qz", "tensor:qprobs", "tensor:q_param", "nobody"])
def test_an_invalid_grad_key_is_rejected_before_the_first_step(key):
    """plogits: data share the prior's; qprobs: the loss does not depend on it, only on the logits."""
    with pytest.raises(SettingsError, match="--grad_key: "):
        Measurements(make(**SBM, grad_key=key))


def test_the_check_does_not_change_the_run():
    run = make(**NORMAL, grad_key="tensor:qloc")
    run.model.train()
    state = {name: value.clone() for name, value in run.model.state_dict().items()}
    numbers = torch.get_rng_state()
    Measurements(run)
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in run.model.state_dict().items())
    assert run.model.training
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_the_analysed_alpha_is_that_of_the_next_step(monkeypatch):
    seen = []
    statistics = module.get_gradients_statistics
    monkeypatch.setattr(
        module, "get_gradients_statistics", lambda *a, **k: seen.append(k.get("alpha")) or statistics(*a, **k)
    )
    linear = {"warmup": 10, "warmup_mode": "linear", "alpha_init": 0.8, "warmup_offset": 2}
    analysis = GradientAnalysis(make(**SBM, **linear), make(**SBM).splits.train.points(2))
    for step in (0, 7, 30):
        analysis(step)
    assert seen == [0.8, pytest.approx(0.4), pytest.approx(0.0)]


class Terminal(io.StringIO):
    """What a terminal of unlimited width has shown: \\r goes to the line's start, \\n and ESC[A one down and up."""

    def isatty(self):
        return True

    def screens(self):
        """The lines on the screen after each piece of output that moved the cursor up or to a line's start."""
        lines, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if token == "\x1b[A":
                row -= 1
            elif token == "\r":
                column = 0
            elif token == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = lines[row].ljust(column)[:column] + token + lines[row][column + len(token) :]
                column += len(token)
            yield [line.rstrip() for line in lines]


def shown_by(run, folder, bar, monkeypatch):
    """What a training shows on a terminal: everything, however soon it comes after the last."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)  # here: pytest sets its own between a fixture and its test
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    assert train(run, RunPaths(folder), bar=bar)
    return terminal


def test_on_a_terminal_a_bar_is_shown_below_the_training_s_and_taken_away(tmp_path, monkeypatch):
    *screens, last = shown_by(make(**SBM, grad_samples=50), tmp_path, True, monkeypatch).screens()
    shown = [screen for screen in screens if any("gradients:" in line for line in screen)]
    assert shown
    for screen in shown:
        assert screen[0].startswith("train:")
        assert screen[1].startswith("gradients:")
        assert not any(screen[2:])
    assert last[0].startswith("train: 100%")
    assert not any(last[1:])


def test_without_a_terminal_no_bar_is_shown(tmp_path, monkeypatch, capsys):
    assert shown_by(make(**SBM), tmp_path, False, monkeypatch).getvalue() == ""
    assert capsys.readouterr().out == ""


def test_the_bar_changes_no_number():
    values = [Measurements(make(**SBM), bar)(0) for bar in (False, True)]
    assert values[0] == values[1]
