"""The data sets of images from files: synthetic files in the real formats, and the real ones where they are at hand."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from published import HELD_OUT, TEST, TRAIN, chardata, publish

from ovis.experiments.datasets import MINI, binmnist, load_dataset, mnist, omniglot
from ovis.experiments.datasets.files import DataError, content
from ovis.experiments.datasets.images import binarize, hold_out

NAMES = ("binmnist", "fashion", "mnist", "omniglot")
STATIC, DYNAMIC = ("binmnist", "fashion"), ("mnist", "omniglot")


def load(root, name, **options):
    return load_dataset(name, data_root=root, **options)


def splits_of(splits):
    return splits.train.data, splits.valid, splits.test


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_types(files, name):
    splits = load(files["root"], name)
    sizes = (TRAIN, 30, TEST) if name == "binmnist" else (TRAIN - HELD_OUT, HELD_OUT, TEST)
    assert tuple(len(data) for data in splits_of(splits)) == sizes
    assert splits.x_shape == (1, 28, 28)
    for data in splits_of(splits):
        assert data.dtype == torch.uint8
        assert data.shape[1:] == (1, 28, 28)
    for binary in (splits.valid, splits.test, splits.train.points(9)):
        assert binary.unique().tolist() == [0, 1]
    assert splits.train.points(9).dtype == splits.mean.dtype == torch.float32
    want = splits.train.data.double().mean(0) / (255 if name in DYNAMIC else 1)
    torch.testing.assert_close(splits.mean, want.float())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_from_the_cache_whatever_the_seed(files, name):
    before = torch.get_rng_state()
    one = load(files["root"], name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    other = load(str(files["root"]), name)
    assert (files["root"] / "cache" / f"{name}-v1.npz").exists()
    for first, second in zip(splits_of(one), splits_of(other), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.train.points(7), other.train.points(7))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_not_needed_once_they_are_cached(files, name):
    load(files["root"], name)
    for folder in ("binmnist", "MNIST", "FashionMNIST", "omniglot"):
        for path in (files["root"] / folder).rglob("*.*"):
            path.unlink()
    load(files["root"], name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named_with_where_to_get_it(files, name):
    for path in files["root"].rglob("*train*"):
        path.unlink()
    (files["root"] / "omniglot" / "chardata.mat").unlink()
    with pytest.raises(DataError) as caught:
        load(files["root"], name)
    message = str(caught.value)
    assert "\n" not in message
    assert str(files["root"]) in message
    assert "published.invalid" in message
    assert not list(files["root"].glob("cache/*.npz"))


def test_binmnist_is_the_published_images(files):
    splits = load(files["root"], "binmnist")
    for split, data in zip(("train", "valid", "test"), splits_of(splits), strict=True):
        assert np.array_equal(data.squeeze(1).numpy(), files["binmnist"][split])


def test_fashion_is_binarized_at_one_half(files):
    splits = load(files["root"], "fashion")
    assert np.array_equal(splits.test.squeeze(1).numpy(), files["fashion"]["test"] / 255 > 0.5)
    together = torch.cat([splits.train.data, splits.valid]).flatten(1).tolist()
    assert sorted(together) == sorted((files["fashion"]["train"] / 255 > 0.5).reshape(TRAIN, -1).tolist())


@pytest.mark.parametrize("name", DYNAMIC)
def test_grey_levels_are_upright_and_held_out_once(files, name):
    splits = load(files["root"], name)
    grey = files[name]["train"]
    train = splits.train.data.squeeze(1).numpy()
    result = [next(i for i, image in enumerate(grey) if np.array_equal(image, one)) for one in train]
    assert result == sorted(set(result))
    assert len(result) == TRAIN - HELD_OUT
    assert result != list(range(TRAIN - HELD_OUT))  # not the last ones
    rest = grey[sorted(set(range(TRAIN)) - set(result))]
    # a pixel that is on with certainty is on, one that can't be is off
    assert splits.valid.squeeze(1).numpy()[rest == 255].all()
    assert not splits.valid.squeeze(1).numpy()[rest == 0].any()
    test, levels = splits.test.squeeze(1).numpy(), files[name]["test"]
    assert np.corrcoef(test.ravel(), levels.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("name", DYNAMIC)
def test_training_images_are_binarized_anew_at_each_use(files, name):
    train = load(files["root"], name).train
    generator = torch.Generator().manual_seed(0)
    (first,), (second,) = (list(train.batches(TRAIN - HELD_OUT, generator)) for _ in range(2))
    assert first.unique().tolist() == second.unique().tolist() == [0.0, 1.0]
    images = {tuple(image) for batch in (first, second) for image in batch.flatten(1).tolist()}
    assert len(images) == 2 * (TRAIN - HELD_OUT)


@pytest.mark.parametrize("name", STATIC)
def test_static_images_are_the_same_at_each_use(files, name):
    train = load(files["root"], name).train
    generator = torch.Generator().manual_seed(0)
    (first,), (second,) = (list(train.batches(train.epoch_size, generator)) for _ in range(2))
    assert sorted(first.flatten(1).tolist()) == sorted(second.flatten(1).tolist())


def test_a_pixel_is_on_as_often_as_its_grey_level_says():
    levels = torch.tensor([0, 1, 64, 128, 254, 255], dtype=torch.uint8)
    n = 200_000
    rate = binarize(levels.expand(n, -1), torch.Generator().manual_seed(0)).mean(0)
    want = levels / 255
    assert rate[0] == 0
    assert rate[-1] == 1
    assert ((rate - want).abs() <= 4.5 * (want * (1 - want) / n).sqrt()).all()


def test_points_of_sorted_images_are_a_random_choice(files):
    splits = load(files["root"], "binmnist")
    points = splits.train.points(10)
    assert not torch.equal(points, splits.train.data[:10].float())
    rows = splits.train.data.flatten(1).float().tolist()
    indices = [rows.index(point) for point in points.flatten(1).tolist()]
    assert len(set(indices)) == 10
    assert max(indices) >= 20
    assert torch.equal(splits.train.points(4), points[:4])


@pytest.mark.parametrize("name", NAMES)
def test_mini(files, name, monkeypatch):
    monkeypatch.setattr("ovis.experiments.datasets.MINI", (16, 8))
    splits = load(files["root"], name, mini=True)
    assert tuple(len(data) for data in splits_of(splits)) == (16, 8, 8)
    assert MINI == (256, 64)


def test_held_out_is_all_or_nothing():
    images = np.arange(40, dtype=np.uint8)
    train, held = hold_out(images, 10)
    assert len(train) == 30
    assert sorted([*train, *held]) == list(images)
    assert [len(part) for part in hold_out(images, 0)] == [40, 0]


def test_amat_with_any_white_space():
    rows = np.random.default_rng(0).integers(0, 2, (2, 784))
    text = "\r\n".join("  ".join(map(str, row)) for row in rows.tolist()).encode()
    assert np.array_equal(binmnist.read_amat(text).reshape(2, -1), rows)


def test_omniglot_without_scipy(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match="pip install scipy") as caught:
        load(files["root"], "omniglot")
    assert "\n" not in str(caught.value)


REAL = os.environ.get("OVIS_TEST_DATA", "")
real = pytest.mark.skipif(not REAL, reason="OVIS_TEST_DATA names no data folder with the published files")


@pytest.fixture
def real_root(tmp_path: Path) -> Path:
    """A data folder of links to the published files: what is cached stays in the test's own folder."""
    for folder in Path(REAL).resolve().iterdir():
        if folder.is_dir() and folder.name != "cache":
            (tmp_path / folder.name).symlink_to(folder)
    return tmp_path


@real
@pytest.mark.parametrize(
    ("name", "ones"),
    [
        ("binmnist", (5_118_041, 1_028_036, 1_038_896)),
        ("fashion", (12_329_315, 2_472_188, 2_471_969)),
        ("mnist", (None, 1_024_250, 1_038_956)),
    ],
)
def test_the_published_files(real_root, name, ones):
    load(real_root, name)
    start = time.monotonic()
    splits = load(real_root, name)
    assert time.monotonic() - start < 2
    assert tuple(len(data) for data in splits_of(splits)) == (50_000, 10_000, 10_000)
    for data, number in zip(splits_of(splits), ones, strict=True):
        assert number in (None, int(data.sum()))
    assert 0.1 < splits.mean.mean() < 0.4


@real
def test_the_images_of_binmnist_are_upright_and_those_of_mnist(real_root):
    """Larochelle's test images, which are sorted by class, are MNIST's: each may come of some image's grey levels."""
    binary = load(real_root, "binmnist").test.flatten(1).float()
    grey = torch.from_numpy(mnist.read_idx(content(real_root, mnist.TEST)).copy()).flatten(1).float() / 255
    density = grey.mean(0), binary.mean(0)
    assert (density[0] - density[1]).abs().max() < 0.02
    chosen = torch.randperm(len(binary), generator=torch.Generator().manual_seed(0))[:50]
    # each is possible under some image: no pixel on that is black there, none off that is white
    impossible = binary[chosen] @ (grey == 0).float().T + (1 - binary[chosen]) @ (grey == 1).float().T
    assert (impossible.min(1).values == 0).all()


@real
def test_omniglot_at_full_size(real_root, tmp_path, monkeypatch):
    """Burda's file is not at hand: one in its format, of other images of the same alphabets."""
    images = np.load(Path(REAL) / "omniglot" / "omniglot28_derived.npz", allow_pickle=False)["images"][: 24_345 + 8_070]
    data = chardata(images[:24_345], images[24_345:])
    (tmp_path / "omniglot").unlink()
    monkeypatch.setattr(omniglot, "FILE", publish(omniglot.FILE, data, tmp_path))
    splits = load(real_root, "omniglot")
    assert tuple(len(data) for data in splits_of(splits)) == (23_000, 1_345, 8_070)
    assert {image.tobytes() for image in splits.train.data.numpy()} <= {image.tobytes() for image in images}
    start = time.monotonic()
    load(real_root, "omniglot")
    assert time.monotonic() - start < 2
