"""Diagnostics: a dict of dicts, and its running mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ovis
from ovis.diagnostics import Aggregator, Diagnostic
from ovis.estimators import get_config
from ovis.models import SigmoidBeliefNetwork


class FakeWriter:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, Any, int]] = []

    def add_scalar(self, tag: str, value: Any, global_step: int) -> None:
        self.scalars.append((tag, value, global_step))


def batches(sizes: list[int], *rest: int) -> list[Tensor]:
    return [torch.randn(size, *rest, dtype=torch.float64) for size in sizes]


# -------------------------------------------------------------------------------------------------------- aggregator


@pytest.mark.parametrize("rest", [(), (3,), (2, 4)])
@pytest.mark.parametrize("sizes", [[1], [4, 4], [5, 1, 8, 2], [3, 0, 2]])
def test_the_mean_over_all_data_whatever_the_batches(sizes: list[int], rest: tuple[int, ...]) -> None:
    agg, data = Aggregator(), batches(sizes, *rest)
    for item in data:
        agg.update({"loss": {"L_k": item}})
    mean = agg.data["loss"]["L_k"]
    assert mean.shape == rest
    torch.testing.assert_close(mean, torch.cat(data).mean(0))
    if len(set(sizes)) > 1 and 0 not in sizes:
        assert not torch.allclose(mean, torch.stack([item.mean(0) for item in data]).mean(0))


def test_numbers_and_tensors_without_dimensions_count_as_one() -> None:
    agg = Aggregator()
    for number in (1, 2.0, 6):
        agg.update({"info": {"number": number, "tensor": torch.tensor(float(number))}})
    assert agg.data["info"] == {"number": pytest.approx(3), "tensor": torch.tensor(3.0)}


def test_whole_numbers_have_a_mean_that_is_not_whole() -> None:
    agg = Aggregator()
    agg.update({"info": {"count": torch.tensor([1, 2]), "hit": torch.tensor([True, False, False, True])}})
    agg.update({"info": {"count": torch.tensor([2])}})
    assert agg.data["info"]["count"].item() == pytest.approx(5 / 3)
    assert agg.data["info"]["hit"].item() == 0.5


def test_none_is_left_out_and_new_leaves_may_join() -> None:
    agg = Aggregator()
    agg.update({"loss": {"a": torch.tensor([1.0, 3.0]), "b": None}})
    agg.update({"loss": {"a": None, "b": torch.tensor([5.0])}, "grads": {"snr": 0.5}})
    agg.update({"loss": {"a": torch.tensor([8.0])}})
    assert agg.data.flat() == {"loss/a": 4.0, "loss/b": 5.0, "grads/snr": 0.5}


def test_only_none_is_no_leaf() -> None:
    agg = Aggregator()
    agg.update({"loss": {"a": None}})
    assert agg.data.flat() == {}


def test_one_bad_value_is_seen() -> None:
    agg = Aggregator()
    for value in (1.0, float("nan"), 2.0):
        agg.update({"loss": {"a": torch.tensor([value])}})
    assert agg.data["loss"]["a"].isnan()


def test_nothing_keeps_a_graph_or_the_callers_tensors() -> None:
    weight = torch.ones(3, requires_grad=True)
    scalar, leaf = torch.tensor(1.0), weight * 2
    agg = Aggregator()
    agg.update({"loss": {"scalar": scalar, "leaf": leaf}})
    scalar.add_(10)
    assert agg.data.flat() == {"loss/scalar": 1.0, "loss/leaf": 2.0}
    assert not agg.data["loss"]["leaf"].requires_grad


def test_a_summary_stands_still() -> None:
    agg = Aggregator()
    agg.update({"loss": {"a": torch.tensor([1.0])}})
    summary = agg.data
    summary.update({"grads": {"snr": 0.5}})
    agg.update({"loss": {"a": torch.tensor([3.0])}})
    assert summary.flat() == {"loss/a": 1.0, "grads/snr": 0.5}
    assert agg.data.flat() == {"loss/a": 2.0}


def test_initialize_forgets() -> None:
    agg = Aggregator()
    agg.update({"loss": {"a": torch.tensor([1.0, 1.0])}})
    agg.initialize()
    assert agg.data == {}
    agg.update({"loss": {"a": torch.tensor([3.0])}})
    assert agg.data.flat() == {"loss/a": 3.0}


def test_many_batches_lose_no_digits() -> None:
    agg = Aggregator()
    for _ in range(3000):
        agg.update({"loss": {"a": torch.full((7,), -1234.567)}})
    assert agg.data["loss"]["a"].item() == pytest.approx(-1234.567, rel=1e-6)


# -------------------------------------------------------------------------------------------------------- diagnostic


def test_update_adds_leaves_and_replaces_those_of_the_same_name() -> None:
    diagnostic = Diagnostic({"loss": {"a": 1.0, "b": 2.0}})
    diagnostic.update({"loss": {"b": 3.0, "c": 4.0}, "grads": {"snr": 5.0}})
    assert diagnostic == {"loss": {"a": 1.0, "b": 3.0, "c": 4.0}, "grads": {"snr": 5.0}}


def test_update_does_not_share_groups_with_the_other() -> None:
    other = {"loss": {"a": 1.0}}
    diagnostic = Diagnostic()
    diagnostic.update(other)
    diagnostic["loss"]["b"] = 2.0
    assert other == {"loss": {"a": 1.0}}


def test_to_moves_and_detaches_a_copy() -> None:
    leaf = torch.ones(2, requires_grad=True)
    diagnostic = Diagnostic({"loss": {"a": leaf, "n": 3}})
    moved = diagnostic.to("meta")
    assert isinstance(moved, Diagnostic)
    assert moved["loss"]["a"].device.type == "meta"
    assert moved["loss"]["n"] == 3
    assert not diagnostic.to("cpu")["loss"]["a"].requires_grad
    assert diagnostic["loss"]["a"] is leaf


def test_flat_and_log_are_the_means() -> None:
    diagnostic = Diagnostic(
        {"loss": {"a": torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "n": torch.tensor([1, 2])}, "info": {"lr": 0.1, "k": 5}}
    )
    expected = {"loss/a": 3.0, "loss/n": 1.5, "info/lr": 0.1, "info/k": 5.0}
    assert diagnostic.flat() == expected
    assert diagnostic.flat("train:") == {f"train:{tag}": value for tag, value in expected.items()}
    writer = FakeWriter()
    diagnostic.log(writer, 17)
    assert writer.scalars == [(tag, value, 17) for tag, value in expected.items()]
    assert all(type(value) is float for _, value, _ in writer.scalars)


def test_the_real_writer_takes_it(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        Diagnostic({"loss": {"a": torch.tensor([1.0, 2.0])}}).log(writer, 3)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(item.step, item.value) for item in events.Scalars("loss/a")] == [(3, 1.5)]


# --------------------------------------------------------------------------------- with estimators, and with booster


def measured(sizes: list[int]) -> list[Diagnostic]:
    Estimator, config = get_config("ovis-gamma1")
    estimator, model = Estimator(mc=2, iw=4, **config), SigmoidBeliefNetwork((4,), N=3, depth=2)
    return [estimator(model, torch.rand(size, 4).round(), **config)[1] for size in sizes]


def test_an_epoch_as_the_readme_writes_it() -> None:
    agg, diagnostics = ovis.Aggregator(), measured([5, 3])
    for item in diagnostics:
        agg.update(item)
    summary = agg.data.to("cpu")
    summary.update({"grads": {"snr": torch.tensor(0.5)}})
    writer = FakeWriter()
    summary.log(writer, 8)
    logged = {tag: value for tag, value, _ in writer.scalars}
    for key in ("L_k", "elbo", "kl", "kl_q_p", "nll", "ess"):
        every = torch.cat([item["loss"][key] for item in diagnostics])
        assert logged[f"loss/{key}"] == pytest.approx(every.mean().item(), abs=1e-5)
    assert logged["grads/snr"] == 0.5


def test_diagnostics_read_as_booster_reads_them() -> None:
    """booster-pytorch walks the items of the items and sums tensors over the first dimension, by its size."""
    total: dict[tuple[str, str], Any] = {}
    count: dict[tuple[str, str], int] = {}
    diagnostics = measured([5, 3])
    for diagnostic in diagnostics:
        for group, leaves in diagnostic.items():
            for name, leaf in leaves.items():
                assert isinstance(leaf, Tensor)
                assert not leaf.requires_grad
                assert leaf.dim() == 1
                total[group, name] = total.get((group, name), 0) + leaf.sum(0)
                count[group, name] = count.get((group, name), 0) + leaf.size(0)
    agg = Aggregator()
    for diagnostic in diagnostics:
        agg.update(diagnostic)
    assert set(count.values()) == {8}
    for (group, name), value in total.items():
        torch.testing.assert_close(agg.data[group][name], value / 8)
