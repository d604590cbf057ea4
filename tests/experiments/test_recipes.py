"""CONTRIBUTING.md's recipes for a model and a data set, followed from the row in the table to the drawn report."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ovis.experiments.cli import report, train
from ovis.experiments.datasets import DATASETS, DatasetEntry, load_dataset
from ovis.experiments.datasets.splits import Splits, StoredData
from ovis.experiments.models import MODELS, ModelEntry, build_model
from ovis.experiments.runs.identity import differences
from ovis.experiments.settings import SettingsError, TrainSettings, build_parser, parse_arguments
from ovis.models import Model
from ovis.models.distributions import BernoulliVector


class LinearModel(Model):
    """p(x, z) = Bernoulli(x; W z + c) Bernoulli(z; 1/2), q(z|x) = Bernoulli(V x + d)."""

    def __init__(self, x_shape, N=8, x_mean=None):
        super().__init__()
        size = torch.Size(x_shape).numel()
        self.x_shape, self.N = tuple(x_shape), N
        self.inference_network, self.generative_model = nn.Linear(size, N), nn.Linear(N, size)

    def encode(self, x):
        return self.inference_network(x.flatten(1))

    def q(self, h):
        return BernoulliVector(h)

    def p(self, z, h):
        logits = self.generative_model(z)
        prior = BernoulliVector(torch.zeros_like(z))
        return BernoulliVector(logits.view(*logits.shape[:-1], *self.x_shape), len(self.x_shape)), prior

    def sample_from_prior(self, bs, **kwargs):
        z = torch.rand(bs, self.N).round()
        px, pz = self.p(z, None)
        return {"px": px, "z": [z], "pz": [pz]}


def load_stripes() -> Splits:
    """Images of one column each, 4 x 4."""
    images = torch.eye(4, dtype=torch.uint8).repeat(20, 1).view(80, 1, 1, 4).expand(-1, -1, 4, -1)
    train_images, valid, test = images.split((40, 20, 20))
    return Splits(StoredData(train_images), valid, test, mean=train_images.float().mean(0))


def train_and_report(root, *words):
    """Train a few steps by the command line and draw the report: the run's settings, and the report's folder."""
    length = ["--nsteps=4", "--eval_freq=1", "--iw_valid=5", "--iw_test=5", "--grad_samples=2"]
    folder = [f"--root={root / 'runs'}", "--exp=recipe"]
    assert train.main(["--iw=3", "--estimator=vimco", *length, *folder, *words]) == 0
    assert report.main(["--exp=recipe", "--root", str(root / "runs"), "--output", str(root / "reports")]) == 0
    (run,) = (root / "runs" / "recipe").iterdir()
    return run.name, root / "reports" / "recipe"


def assert_drawn(folder, *words):
    for name in ("curves.png", "curves.pdf", "curves.csv"):
        assert (folder / name).stat().st_size > 0
    page = (folder / "index.html").read_text()
    assert all(word in page for word in words)


def test_a_new_model(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "linear", ModelEntry(f"{__name__}:LinearModel", options=("N",), reparameterized=False))
    name, folder = train_and_report(tmp_path, "--dataset=digits", "--mini", "--model=linear", "--N=4")
    assert "digits-linear-vimco" in name
    assert_drawn(folder, "linear")
    assert isinstance(build_model("linear", (1, 8, 8), torch.zeros(1, 8, 8), N=4), LinearModel)
    # the row alone decides what is valid, what is part of a run's identity, and what help lists
    assert differences(TrainSettings(model="linear", N=4, hdim=5)) == {"model": "linear", "N": 4}
    with pytest.raises(SettingsError, match="iwae needs reparameterized samples, which 'linear' has not"):
        parse_arguments(["--estimator=iwae", "--model=linear"])
    assert "conv-vae,linear" in "".join(build_parser().format_help().split())


def test_a_new_data_set(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "stripes", DatasetEntry(f"{__name__}:load_stripes"))
    name, folder = train_and_report(tmp_path, "--dataset=stripes", "--model=vae", "--prior=bernoulli", "--N=2")
    assert "stripes-vae-vimco" in name
    assert_drawn(folder, "stripes")
    assert load_dataset("stripes").x_shape == (1, 4, 4)
    assert "shapes,stripes" in "".join(build_parser().format_help().split())
    with pytest.raises(SettingsError, match="unknown value 'stripe'; did you mean 'stripes'"):
        TrainSettings(dataset="stripe")


def test_a_data_set_with_a_model_of_its_own(monkeypatch):
    """Such a model is trained whatever ``--model`` says, and on no other data."""
    monkeypatch.setitem(DATASETS, "stripes", DatasetEntry(f"{__name__}:load_stripes", model="linear"))
    monkeypatch.setitem(MODELS, "linear", ModelEntry(f"{__name__}:LinearModel", options=("N",)))
    assert TrainSettings(dataset="stripes", model="vae").trained_model == "linear"
    assert json.dumps(differences(TrainSettings(dataset="stripes", model="sbm"))) == '{"dataset": "stripes"}'
    with pytest.raises(SettingsError, match="'linear' has data of its own, use --dataset stripes, not digits"):
        parse_arguments(["--dataset=digits", "--model=linear"])
