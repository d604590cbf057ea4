"""The warm-up of alpha at its ends and its middle."""

import math

import pytest

from ovis.experiments.training.schedule import warmup


@pytest.mark.parametrize("mode", ["linear", "log"])
def test_ends(mode):
    assert warmup(0, 0.99, 0.1, 1000, mode) == pytest.approx(0.99)
    assert warmup(1000, 0.99, 0.1, 1000, mode) == pytest.approx(0.1)
    assert warmup(5000, 0.99, 0.1, 1000, mode) == pytest.approx(0.1)
    assert warmup(50, 0.99, 0.1, 1000, mode, offset=100) == pytest.approx(0.99)


def test_middle():
    assert warmup(500, 0.8, 0.2, 1000, "linear") == pytest.approx(0.5)
    assert warmup(500, 0.99, 0.0, 1000, "log") == pytest.approx(0.9)  # 1 - alpha goes .01, .1, 1


def test_sigmoid_is_half_way_at_the_end_of_its_period():
    assert warmup(0, 0.9, 0.0, 1000, "sigmoid") == pytest.approx(0.9)
    assert warmup(1000, 0.9, 0.0, 1000, "sigmoid") == pytest.approx(0.45)
    assert warmup(3000, 0.9, 0.0, 1000, "sigmoid") == pytest.approx(0.9 * (1 - 1 / (1 + math.exp(-12))))
    values = [warmup(step, 0.9, 0.0, 1000, "sigmoid", offset=500) for step in range(0, 5000, 50)]
    assert values == sorted(values, reverse=True)
    assert max(values) == 0.9


def test_no_period_is_no_warmup_and_an_unknown_mode_is_refused():
    assert warmup(0, 0.9, 0.3, 0) == 0.3
    with pytest.raises(ValueError, match="linear, log, sigmoid"):
        warmup(1, 0.9, 0.0, 10, "cosine")
