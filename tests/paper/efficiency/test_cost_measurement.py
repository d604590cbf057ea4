"""Costs of a training step: own processes and how they end, what is left out, and what memory and steps are counted."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from ovis.estimators.chunk_sizes import release_freed_memory
from ovis.estimators.ids import parse_estimator
from ovis.experiments.settings import SettingsError
from ovis.paper.efficiency.cost_measurement import (
    ESTIMATORS,
    IW,
    Cost,
    Point,
    default_steps,
    describe_device,
    has_data,
    measure_apart,
    measure_missing,
    point_seconds,
    point_settings,
)
from ovis.paper.efficiency.isolated_process import CallResult, peak_memory, run_apart

CPU = torch.device("cpu")


def answer_with(text: str) -> str:
    return f"{text} from {os.getpid()}"


def sleep() -> None:
    time.sleep(60)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(error: Exception) -> None:
    raise error


def leave() -> None:
    os._exit(7)


def demand(size: int) -> None:
    """Ask for more than the process may have: torch's own error, not a fake of it."""
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    torch.zeros(size)


@pytest.mark.slow
def test_another_process_answers() -> None:
    answers = [run_apart(answer_with, ("hello",), 60.0) for _ in range(2)]
    assert [answer.state for answer in answers] == ["ok", "ok"]
    assert all(answer.value.startswith("hello from ") for answer in answers)
    assert len({answer.value for answer in answers} | {answer_with("hello")}) == 3


@pytest.mark.parametrize(
    ("function", "arguments", "state", "message"),
    [
        (kill_itself, (), "memory", "killed by the system"),
        pytest.param(demand, (10**10,), "memory", "can't allocate memory", marks=pytest.mark.slow),
        pytest.param(fail, (MemoryError("too much"),), "memory", "too much", marks=pytest.mark.slow),
        pytest.param(
            fail,
            (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"),),
            "memory",
            "CUDA out of memory. Tried",
            marks=pytest.mark.slow,
        ),
        pytest.param(fail, (ValueError("two\nlines"),), "failed", "ValueError: two", marks=pytest.mark.slow),
        pytest.param(leave, (), "failed", "exit code 7", marks=pytest.mark.slow),
    ],
)
def test_how_a_process_can_end(function, arguments, state: str, message: str) -> None:
    answer = run_apart(function, arguments, 60.0)
    assert (answer.state, answer.value) == (state, None)
    assert message in answer.message
    assert "\n" not in answer.message


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_ended() -> None:
    run_apart(answer_with, ("warm",), 60.0)
    began = time.monotonic()
    answer = run_apart(sleep, (), 0.2)
    assert (answer.state, answer.message) == ("time", "took more than 0.2 s")
    assert time.monotonic() - began < 30


def points(*pairs: tuple[str, int]) -> list[Point]:
    return [Point(name, k, 1, 2) for name, k in pairs]


def test_larger_k_are_left_out_where_one_was_too_much() -> None:
    wanted = points(("a", 10), ("a", 20), ("a", 40), ("b", 10), ("b", 40), ("a", 10), ("a", 20))
    asked: list[tuple[str, int]] = []

    def measure(point: Point) -> CallResult:
        asked.append((point.estimator, point.iw))
        return CallResult("memory" if point.estimator == "a" and point.iw >= 20 else "ok", value=Cost(1.0, 1.0, "x"))

    limits: dict[str, int] = {}
    actual = list(measure_missing(wanted, limits, measure))
    assert asked == [("a", 10), ("a", 20), ("b", 10), ("b", 40), ("a", 10)]
    assert [point for point, _ in actual] == wanted
    assert [answer.state if answer else None for _, answer in actual] == ["ok", "memory", None, "ok", "ok", "ok", None]
    assert limits == {"a": 20}
    asked.clear()
    known = measure_missing(points(("a", 20), ("b", 10)), {"a": 20, "b": 5}, measure)
    assert ([answer for _, answer in known], asked) == ([None, None], [])


def test_the_settings_are_the_papers() -> None:
    for name in ESTIMATORS:
        settings = point_settings(name, 10)
        pathwise = parse_estimator(name).canonical in ("pathwise-iwae", "stl", "dreg")
        assert (settings.model, settings.prior) == (("vae", "normal") if pathwise else ("sbm", "bernoulli"))
        assert (settings.bs, settings.N, settings.nlayers, settings.lr) == (24, 200, 0, 1e-3)
        assert pathwise or settings.depth == 1
    with pytest.raises(SettingsError, match="at least 2"):
        point_settings("vimco", 1)


def test_all_points_take_about_a_quarter_of_an_hour_on_the_cpu() -> None:
    wanted = [Point(e, k, seed, default_steps("cpu", k)) for e in ESTIMATORS for k in IW for seed in range(3)]
    assert 10 < sum(point_seconds("cpu", point) for point in wanted) / 60 < 18
    steps = [default_steps("cpu", k) for k in IW]
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], steps[-1]) == (50, 3)


def test_memory_is_the_peak_and_not_what_is_left() -> None:
    memory = peak_memory(CPU)
    # both are larger than what glibc may keep for later (32 MB)
    early = torch.ones(80_000_000 // 4)
    del early
    gc.collect()
    release_freed_memory()  # of earlier tests, which malloc might do just after the start
    memory.start()
    before = memory.peak()
    late = torch.ones(50_000_000 // 4)
    del late
    assert before < 5e6
    assert 48e6 < memory.peak() - before < 56e6


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["ovis-S10-exclusive", "dreg"])
def test_a_point(estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small, large = (measure_apart(Point(estimator, k, 1, 2), "cpu") for k in (4, 64))
    assert (small.state, large.state) == ("ok", "ok"), small.message + large.message
    assert small.value.seconds > 0
    # At the least: log-densities' terms of all pixels of all particles, in float32.
    assert large.value.memory > 24 * 64 * 784 * 4 > small.value.memory / 2
    assert large.value.memory > small.value.memory


def test_what_is_measured_is_a_training_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One step of the small one, then those of the warm-up and the measured ones, on batches of the whole data."""
    import ovis.paper.efficiency.cost_measurement as efficiency

    taken: list[tuple[str, int, tuple[int, ...]]] = []
    step = efficiency.TrainingStep.__call__

    def spy(self, x, number):
        taken.append((self.run.settings.estimator, type(self.run.estimator).__name__, tuple(x.shape)))
        return step(self, x, number)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(efficiency.TrainingStep, "__call__", spy)
    cost = efficiency.measure_point(Point("vimco-arithmetic", 3, 1, 2), "cpu")
    assert cost.data == "synthetic"
    assert len(taken) == 1 + 1 + 2
    assert taken[0][1] == "Reinforce"
    assert {shape for *_, shape in taken} == {(24, 1, 28, 28)}
    assert len({name for _, name, _ in taken}) == 2


def test_data_are_used_where_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = point_settings("reinforce", 2)
    assert not has_data(settings)
    folder = tmp_path / "data" / "binmnist"
    folder.mkdir(parents=True)
    for split in ("train", "valid"):
        (folder / f"binarized_mnist_{split}.amat.gz").touch()
    assert not has_data(settings)
    (folder / "binarized_mnist_test.amat").touch()
    assert has_data(settings)


def test_the_device_in_words() -> None:
    assert describe_device(CPU).startswith("cpu: ")
    assert describe_device(CPU).endswith(f"{torch.get_num_threads()} threads")
