"""Batches, subsets and devices of stored and of fresh data."""

from __future__ import annotations

import pytest
import torch

from ovis.experiments.datasets.splits import FreshData, Splits, StoredData, as_float


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stored(n=10):
    return StoredData(torch.arange(n, dtype=torch.uint8).view(n, 1))


def fresh(size=10):
    return FreshData(lambda n, generator: torch.randn(n, 2, generator=generator), size)


def test_an_epoch_sees_every_point_once():
    batches = list(stored(12).batches(4, seeded()))
    assert [batch.shape for batch in batches] == [(4, 1)] * 3
    assert all(batch.dtype == torch.float32 for batch in batches)
    order = torch.cat(batches).flatten()
    assert order.sort().values.tolist() == list(range(12))
    assert order.tolist() != list(range(12))


@pytest.mark.parametrize("source", [stored(10), fresh(10)])
@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4]), (10, [10]), (7, [7]), (30, [10]), (1, [1] * 10)])
def test_a_partial_batch_is_dropped_unless_alone(source, batch_size, sizes):
    assert [len(batch) for batch in source.batches(batch_size, seeded())] == sizes
    assert source.batches_per_epoch(batch_size) == len(sizes)


@pytest.mark.parametrize("source", [stored(10), fresh(10)])
def test_epochs_are_functions_of_the_generator(source):
    one, same = (torch.cat(list(source.batches(3, seeded(1)))) for _ in range(2))
    other = torch.cat(list(source.batches(3, seeded(2))))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_next_epoch_of_a_generator_differs():
    generator = seeded()
    first, second = (torch.cat(list(stored(10).batches(5, generator))) for _ in range(2))
    assert not torch.equal(first, second)


def test_fresh_batches_never_repeat():
    rows = torch.cat(list(fresh(10).batches(2, seeded())))
    assert len(rows.unique(dim=0)) == len(rows) == 10


@pytest.mark.parametrize("source", [stored(10), fresh(10)])
def test_points_are_fixed_floats(source):
    assert torch.equal(source.points(4), source.points(4))
    assert len(source.points(4)) == 4
    assert len(source.points(99)) == 10
    assert source.points(4).is_floating_point()


def test_points_are_a_choice_from_all():
    points = stored(100).points(10)
    assert len(points.unique()) == 10
    assert points.max() > 20  # not the first ones
    assert torch.equal(stored(100).points(4), points[:4])


@pytest.mark.parametrize("source", [stored(10), fresh(10)])
def test_subset(source):
    small = source.subset(3)
    assert small.epoch_size == 3
    assert [len(batch) for batch in small.batches(3, seeded())] == [3]
    assert source.subset(99).epoch_size == 10
    assert torch.equal(small.points(3), source.subset(3).points(3))


def test_stored_subset_is_a_choice_from_all():
    chosen = stored(100).subset(10).data.flatten()
    assert len(chosen.unique()) == 10
    assert chosen.max() > 20  # not the first ones


def test_reading_may_be_random():
    """Grey levels binarized anew for each batch, by the generator of the epoch, the same ones for an evaluation."""
    grey = StoredData(
        torch.full((200, 1), 64, dtype=torch.uint8),
        lambda x, generator: (255 * torch.rand(x.shape, generator=generator) < x).float(),
    )
    (first,), (second,) = (list(grey.batches(200, seeded(seed))) for seed in (1, 2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    assert torch.equal(grey.points(200), grey.points(200))


def test_as_float_leaves_floats_alone():
    x = torch.randn(3, dtype=torch.float64)
    assert as_float(x) is x
    assert as_float(torch.ones(3, dtype=torch.uint8)).dtype == torch.float32


@pytest.mark.parametrize("source", [stored(10), fresh(10)])
def test_the_global_random_state_is_left_alone(source):
    before = torch.get_rng_state()
    list(source.batches(3, seeded()))
    source.points(3)
    source.subset(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("source", [stored(10), fresh(10)])
def test_splits_move_and_shrink(source):
    data = torch.arange(40.0).view(20, 2)
    splits = Splits(source, data, data + 100, mean=torch.zeros(2))
    assert splits.x_shape == (2,)
    small = splits.subset(4, 5)
    assert (small.train.epoch_size, len(small.valid), len(small.test)) == (4, 5, 5)
    assert all(row in data.tolist() for row in small.valid.tolist())
    assert all(row in (data + 100).tolist() for row in small.test.tolist())
    moved = splits.to("meta") if isinstance(source, StoredData) else splits.to("cpu")
    device = "meta" if isinstance(source, StoredData) else "cpu"
    assert {moved.valid.device.type, moved.test.device.type, moved.mean.device.type} == {device}
    assert moved.train.epoch_size == splits.train.epoch_size
    if isinstance(source, StoredData):
        assert moved.train.data.device.type == "meta"
