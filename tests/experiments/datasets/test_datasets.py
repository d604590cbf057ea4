"""Every data set by name: sizes, fixed content, and what is known of each."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import sys

import pytest
import torch

from ovis.experiments.datasets import DATASETS, MINI, gmm, load_dataset, shapes
from ovis.experiments.datasets import gaussian_toy_points as gaussian_toy
from ovis.experiments.datasets.splits import FreshData
from ovis.experiments.models import MODELS
from ovis.experiments.settings import TrainSettings
from ovis.models import GaussianMixture

SIZES = {
    "digits": (1400, 197, 200),
    "gmm": (100_000, 1000, 100),
    "gaussian-toy": (1024, 1024, 1024),
    "shapes": (10_000, 1000, 1000),
}
FROM_FILES = {"binmnist", "fashion", "mnist", "omniglot"}  # test_images.py
SHAPES = {"digits": (1, 8, 8), "gmm": (1,), "gaussian-toy": (20,), "shapes": (1, 28, 28)}


def load(name, **options):
    """The data set of a run, from its settings."""
    settings = TrainSettings(dataset=name, N=20, **options)
    return load_dataset(name, settings.mini, **settings.dataset_options)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_every_data_set_is_tested_and_its_row_names_what_exists():
    assert DATASETS.keys() == SIZES.keys() | FROM_FILES
    fields = {field.name for field in dataclasses.fields(TrainSettings)}
    for entry in DATASETS.values():
        assert set(entry.options) == inspect.signature(pkgutil.resolve_name(entry.load)).parameters.keys()
        assert set(entry.options) <= fields
        assert entry.model is None or entry.model in MODELS


def test_a_data_set_needs_no_training_options():
    splits = load_dataset("digits")
    assert splits.x_shape == (1, 8, 8)
    assert load_dataset("gmm", N=3).x_shape == (1,)
    assert load_dataset("gaussian-toy", mini=True, N=3).train.epoch_size == MINI[0]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("digit", {}, ValueError, "unknown data set 'digit'; did you mean 'digits'"),
        ("digits", {"N": 3}, TypeError, "data set 'digits' has no option 'N'; valid: none"),
        ("mnist", {"root": "x"}, TypeError, "data set 'mnist' has no option 'root'; valid: data_root"),
    ],
)
def test_an_unknown_name_or_option_is_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        load_dataset(name, **options)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_shapes(name):
    splits = load(name)
    assert (splits.train.epoch_size, len(splits.valid), len(splits.test)) == SIZES[name]
    assert splits.x_shape == SHAPES[name]
    assert splits.valid.shape[1:] == splits.test.shape[1:] == splits.train.points(2).shape[1:] == SHAPES[name]
    assert splits.mean.dtype == torch.float32
    assert not torch.equal(splits.valid[:100], splits.test[:100])


@pytest.mark.parametrize("name", SIZES)
def test_the_same_for_every_seed_and_at_every_time(name):
    before = torch.get_rng_state()
    one = load(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    other = load(name, seed=2)
    assert torch.equal(one.train.points(100), other.train.points(100))
    assert torch.equal(one.valid, other.valid)
    assert torch.equal(one.test, other.test)
    assert torch.equal(one.mean, other.mean)


@pytest.mark.parametrize("name", SIZES)
def test_mini(name):
    splits = load(name, mini=True)
    assert (splits.train.epoch_size, len(splits.valid), len(splits.test)) == (MINI[0], MINI[1], MINI[1])
    assert torch.equal(splits.train.points(50), load(name, mini=True).train.points(50))


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_images_are_binary_and_stored_in_bytes(name):
    splits = load(name)
    for data in (splits.train.data, splits.valid, splits.test):
        assert data.dtype == torch.uint8
        assert data.unique().tolist() == [0, 1]
    (batch,) = list(splits.train.subset(8).batches(8, torch.Generator()))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(splits.mean, splits.train.data.double().mean(0).float())


def test_digits_are_split_without_overlap(digits):
    """The three splits together are scikit-learn's images, each once, binarized at half of the 16 grey levels."""
    from sklearn.datasets import load_digits

    want = sorted(tuple(row) for row in (load_digits().data > 7).astype(int).tolist())
    parts = [data.flatten(1).tolist() for data in (digits.train.data, digits.valid, digits.test)]
    assert sorted(tuple(row) for part in parts for row in part) == want


def test_every_split_of_digits_has_the_same_kind_of_images(digits):
    means = [data.float().mean(0) for data in (digits.train.data, digits.valid, digits.test)]
    assert (means[0] - means[1]).abs().max() < 0.15
    assert (means[0] - means[2]).abs().max() < 0.15
    assert means[0].std() > 0.2


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn") as caught:
        load_dataset("digits")
    assert "\n" not in str(caught.value)


def test_mixture_has_the_weights_5_plus_z():
    n = 200_000
    x = gmm.draw(n, torch.Generator().manual_seed(0), classes=6)
    assert x.shape == (n, 1)
    probs = torch.arange(5.0, 11.0, dtype=torch.float64) / 45
    # the exact mass of each interval of one class' width
    edges = torch.arange(-15.0, 70.0, 5.0, dtype=torch.float64)
    cdf = torch.special.ndtr((edges[:, None] - 10 * torch.arange(6.0, dtype=torch.float64)) / 5) @ probs
    want = cdf.diff()
    got = torch.histogram(x.flatten().double(), edges).hist / n
    error = (want * (1 - want) / n).sqrt()
    assert ((got - want).abs() < 4.5 * error).all()
    uniform = torch.special.ndtr((edges[:, None] - 10 * torch.arange(6.0, dtype=torch.float64)) / 5).mean(1).diff()
    assert ((got - uniform).abs() > 4.5 * error).any()


def test_mixture_is_drawn_anew():
    train = load("gmm").train
    assert isinstance(train, FreshData)
    assert train.batches_per_epoch(100) == 1000
    batches = train.batches(100, torch.Generator().manual_seed(0))
    rows = torch.cat([next(batches), next(batches)])
    assert rows.unique().numel() > 195


def test_mixture_data_and_model_agree():
    """Under the model's true prior, p(x) is the density of the data."""
    model = GaussianMixture(N=6)
    weights = model.true_logits.softmax(-1)
    mean = (weights * model.spacing * torch.arange(6.0)).sum()
    variance = (weights * (model.spacing * torch.arange(6.0)) ** 2).sum() - mean**2 + model.scale**2
    x = gmm.draw(200_000, torch.Generator().manual_seed(1), classes=6)
    assert (x.mean() - mean).abs() < 4.5 * (variance / len(x)) ** 0.5
    assert (x.var() / variance - 1).abs() < 0.02


def test_gaussian_toy_has_one_mean_and_variance_two():
    splits = load("gaussian-toy")
    train = splits.train.points(1024)
    torch.testing.assert_close(splits.mean, train.mean(0))
    error = (2 / 1024) ** 0.5
    for other in (splits.valid, splits.test):
        assert ((other.mean(0) - train.mean(0)).abs() < 4.5 * 2**0.5 * error).all()
        assert other.var(0).mean().item() == pytest.approx(2.0, rel=0.05)
    assert splits.mean.abs().max() > 10 * error  # around mu, not around 0
    assert splits.mean.std() == pytest.approx(1.0, abs=0.5)


def test_gaussian_toy_points_for_the_asymptotic_study():
    assert gaussian_toy.draw(5, 100).shape == (100, 5)
    assert torch.equal(gaussian_toy.draw(5, 100), gaussian_toy.draw(5, 100))
    other = gaussian_toy.draw(5, 100, torch.Generator().manual_seed(7))
    assert not torch.equal(gaussian_toy.draw(5, 100), other)


def test_shapes_are_whole_and_varied():
    images = shapes.draw(2000, torch.Generator().manual_seed(0)).squeeze(1)
    area = images.flatten(1).sum(1)
    assert area.min() >= 10
    assert area.max() <= 21 * 21
    # rows and columns that a shape covers are contiguous: nothing is torn, nothing wraps around
    for covered in (images.amax(1), images.amax(2)):
        edges = torch.nn.functional.pad(covered.int(), (1, 1)).diff(dim=1).abs().sum(1)
        assert (edges == 2).all()
    assert len(images.flatten(1).unique(dim=0)) > 1900
    assert (images.float().mean(0) > 0).float().mean() > 0.99  # every pixel is used by some image


def test_the_four_kinds_of_shapes():
    """By how much of its bounding box a shape fills: all (rectangle), pi/4 (disc), 1/2 (triangle), 5/9 (cross)."""
    images = shapes.draw(4000, torch.Generator().manual_seed(0)).squeeze(1)
    width, height = images.amax(1).sum(1), images.amax(2).sum(1)
    fill = images.flatten(1).sum(1) / (width * height)
    rectangles, discs = fill > 0.99, (fill > 0.68) & (fill < 0.92)
    assert rectangles.float().mean() == pytest.approx(0.25, abs=0.03)
    assert discs.float().mean() == pytest.approx(0.25, abs=0.03)
    assert ((width[discs] - height[discs]).abs() <= 1).float().mean() > 0.95
    rest = images[~rectangles & ~discs]
    assert len(rest) == pytest.approx(2000, abs=120)
    # the centre of mass is in the middle of a cross, and below the middle of a triangle
    rows = torch.arange(28.0)
    centre = (rest.sum(2) * rows).sum(1) / rest.sum((1, 2))
    covered = rest.amax(2).float()
    middle = (covered * rows).sum(1) / covered.sum(1)
    low = centre - middle > 1.0
    assert low.float().mean() == pytest.approx(0.5, abs=0.08)
