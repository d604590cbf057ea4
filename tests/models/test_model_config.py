"""The table of models, and building them from settings."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

from ovis.analysis.evaluate import evaluate
from ovis.experiments.datasets import DATASETS, load_dataset
from ovis.experiments.models import MODELS, build_model
from ovis.experiments.settings import TrainSettings
from ovis.models import (
    VAE,
    Baseline,
    ConvVAE,
    GaussianMixture,
    GaussianToyVAE,
    GaussianVAE,
    Model,
    SigmoidBeliefNetwork,
)
from ovis.models.latents import latents
from ovis.models.layers import mlp

IMAGE = (1, 8, 8)


CLASSES = {
    "gmm": GaussianMixture,
    "gaussian-toy": GaussianToyVAE,
    "sbm": SigmoidBeliefNetwork,
    "gaussian-vae": GaussianVAE,
    "vae": VAE,
    "conv-vae": ConvVAE,
}
#: Models of which another data set than digits is trained.
OWN_DATA = {"gmm", "gaussian-toy"}


def build(settings, x_shape, mean):
    """The model of a run, from its settings."""
    return build_model(settings.trained_model, x_shape, mean, **settings.model_options)


def test_every_model_is_in_the_table():
    assert CLASSES.keys() == MODELS.keys()
    assert {entry.model for entry in DATASETS.values() if entry.model} == OWN_DATA


@pytest.mark.parametrize("name", MODELS)
def test_a_row_names_every_setting_that_the_model_takes(name):
    fields = {field.name for field in dataclasses.fields(TrainSettings)}
    parameters = inspect.signature(CLASSES[name]).parameters.keys()
    assert parameters & fields == set(MODELS[name].options) - {"use_data_mean"}
    assert "use_data_mean" not in MODELS[name].options or "x_mean" in parameters


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="unknown model 'vea'; did you mean 'vae'"):
        build_model("vea", IMAGE, torch.full(IMAGE, 0.5))


@pytest.mark.parametrize("name", ["sbm", "gaussian-vae", "vae", "conv-vae"])
def test_build(name):
    settings = TrainSettings(model=name, dataset="digits", N=7, hdim=12, nlayers=1, depth=2)
    mean = torch.linspace(0.1, 0.9, 64).view(IMAGE)
    model = build(settings, IMAGE, mean)
    assert type(model) is CLASSES[name]
    drawn = model.sample_from_prior(2)
    assert drawn["z"][0].shape == (2, 7)
    assert drawn["px"].sample().shape == (2, *IMAGE)
    # the decoder starts at the mean image
    with torch.no_grad():
        for parameter in model.generative_model.parameters():
            if parameter.dim() == 2 or parameter.dim() == 4:
                parameter.zero_()
    torch.testing.assert_close(model.sample_from_prior(2)["px"].mean[0], mean)


@pytest.mark.parametrize("name", ["gaussian-vae", "vae", "conv-vae"])
def test_build_without_the_mean_of_the_data(name):
    """As in the paper's figures, the networks get x itself, and their biases start as torch draws them."""
    settings = TrainSettings(model=name, dataset="digits", N=7, hdim=12, nlayers=1, use_data_mean=False)
    torch.manual_seed(3)
    model = build(settings, IMAGE, torch.linspace(0.1, 0.9, 64).view(IMAGE))
    x, z = torch.rand(2, *IMAGE), torch.randn(2, 7)
    px = model.generate([z], None, 0.0)[0]
    if name == "conv-vae":
        assert torch.equal(model.encode(x), model.inference_network(x))
        assert not model.generative_model[-1].bias.any()
        return
    torch.manual_seed(3)
    encoder, decoder = mlp(64, 14, 12, 1), mlp(7, 64, 12, 1)
    assert torch.equal(model.encode(x), encoder(x.flatten(1)))
    assert torch.equal(px.logits.flatten(1), decoder(z))


@pytest.mark.parametrize("name", ["gaussian-vae", "vae"])
def test_where_the_training_starts(name):
    """With the mean at the bound of independent pixels of these frequencies, without it at that of fair coins."""
    splits = load_dataset("digits")
    x, mean = splits.train.points(1400), splits.mean.clamp(1e-4, 1 - 1e-4)
    pixels = (x * mean.log() + (1 - x) * (1 - mean).log()).flatten(1).sum(1).mean()
    coins = -x[0].numel() * math.log(2)
    assert coins < pixels - 15
    for use_data_mean, expected in ((True, float(pixels)), (False, coins)):
        settings = TrainSettings(model=name, dataset="digits", N=20, hdim=64, nlayers=2, use_data_mean=use_data_mean)
        torch.manual_seed(0)
        start = evaluate(build(settings, splits.x_shape, splits.mean), x, iw=10, batch_size=100)
        assert start.L_k.mean == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_of_q_are_there_under_their_names(name):
    settings = TrainSettings(model=name, dataset=name if name in OWN_DATA else "digits")
    model = build(settings, IMAGE if settings.dataset == "digits" else (settings.N,), torch.full(IMAGE, 0.5))
    result = {parameter for parameter, _ in model.named_parameters()}
    assert all(any(key in parameter for parameter in result) for key in settings.analysed_parameters.split(","))


def test_settings_arrive():
    settings = TrainSettings(
        model="vae", dataset="shapes", prior="categorical", N=5, K=6, kdim=3, hdim=11, nlayers=2, learn_prior=True
    )
    model = build(settings, IMAGE, torch.full(IMAGE, 0.5))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["prior"] == (30,)
    assert shapes["generative_model.0.0.weight"] == (3, 6)
    assert shapes["generative_model.1.0.weight"] == (11, 15)
    assert shapes["generative_model.1.2.weight"] == (11, 11)
    assert shapes["inference_network.4.weight"] == (30, 11)


def test_gaussian_vae_of_the_paper():
    """784-200-200-(200, 200) and 200-200-200-784."""
    model = GaussianVAE((1, 28, 28))
    weights = [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight")]
    assert weights == [(200, 784), (200, 200), (400, 200), (200, 200), (200, 200), (784, 200)]


@pytest.mark.parametrize(("dataset", "kind"), [("gmm", GaussianMixture), ("gaussian-toy", GaussianToyVAE)])
def test_data_that_brings_its_model(dataset, kind):
    shape = {"gmm": (1,), "gaussian-toy": (6,)}[dataset]
    model = build(TrainSettings(model="vae", dataset=dataset, N=6), shape, torch.ones(shape))
    assert type(model) is kind
    model(torch.zeros(2, *shape), particles=3)
    if kind is GaussianToyVAE:
        assert torch.equal(model.optimum()["mu"], torch.ones(6))


def test_every_model_is_a_final_leaf():
    for model in CLASSES.values():
        assert issubclass(model, Model)
        assert not inspect.isabstract(model)
        assert not [kind for kind in model.__subclasses__() if kind.__module__.startswith("ovis.")]


def test_unknown_prior():
    with pytest.raises(ValueError, match="normal, categorical, bernoulli"):
        latents("gamma", 3)
    with pytest.raises(ValueError, match="gamma"):
        VAE(IMAGE, "gamma")


@pytest.mark.parametrize("shape", [(64,), (1, 7, 8), (8, 8)])
def test_conv_vae_refuses_what_is_no_image(shape):
    with pytest.raises(ValueError, match="H, W >= 8"):
        ConvVAE(shape)


@pytest.mark.parametrize("side", range(8, 18))
def test_conv_vae_of_any_size(side):
    model = ConvVAE((3, side, side + 3), "bernoulli", N=2, hdim=3)
    x = torch.zeros(2, 3, side, side + 3)
    assert model(x, particles=4)["px"].log_prob(x.unsqueeze(1)).shape == (2, 4)


@pytest.mark.parametrize("shape", [(1,), (6,), (1, 8, 8)])
@pytest.mark.parametrize("nlayers", [0, 2])
def test_baseline_starts_as_none_and_learns(shape, nlayers):
    torch.manual_seed(0)
    baseline = Baseline(shape, hdim=5, nlayers=nlayers)
    x = torch.randn(9, *shape)
    assert torch.equal(baseline(x), torch.zeros(9))
    (baseline(x) - x.flatten(1).sum(1)).square().mean().backward()
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter -= 0.01 * parameter.grad
    assert baseline(x).shape == (9,)
    assert len(baseline(x).unique()) == 9
