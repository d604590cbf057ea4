"""The partitions of the thermodynamic variational objective, and its Riemann sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from functional_cases import moderate_log_weights

from ovis.functional import multisample_loss
from ovis.functional.partitions import tvo_nodes, tvo_partition


@pytest.mark.parametrize(("count", "b"), [(2, 0.05), (9, 0.05), (10, 0.2), (29, 0.2), (30, 0.3), (5000, 0.3)])
def test_config1_has_one_inner_point_by_the_number_of_particles(count, b):
    assert tvo_partition(2, "config1", count) == [0.0, b, 1.0]


@pytest.mark.parametrize(("count", "b"), [(5, 0.01), (10, 0.02), (29, 0.02), (50, 0.03)])
def test_config2_is_equally_spaced_in_the_logarithm(count, b):
    expected = [0.0, *np.logspace(np.log10(b), 0, 5)]
    np.testing.assert_allclose(tvo_partition(5, "config2", count), expected, rtol=1e-14)


def test_the_mixtures_partition_is_the_papers():
    np.testing.assert_allclose(tvo_partition(5, 1e-2, 10), [0, 0.01, 0.0316, 0.1, 0.316, 1], rtol=1e-3)


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 50])
def test_a_partition_rises_from_exactly_zero_to_exactly_one(partitions):
    knots = tvo_partition(partitions, 0.07, 10)
    assert len(knots) == partitions + 1
    assert (knots[0], knots[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in itertools.pairwise(knots))


def test_one_partition_has_no_inner_point():
    assert tvo_partition(1, 0.3, 10) == tvo_partition(1, "config1", 10) == [0.0, 1.0]


@pytest.mark.parametrize("partitions", [0, -1])
def test_no_partition_is_refused(partitions):
    with pytest.raises(ValueError, match=f"partitions must be at least 1, got {partitions}"):
        tvo_partition(partitions, 0.1, 10)


@pytest.mark.parametrize("first", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_first_point_outside_the_unit_interval_is_refused(first):
    with pytest.raises(ValueError, match=f"first TVO partition must lie in .0, 1., got {first}"):
        tvo_partition(3, first, 10)


def test_an_unknown_configuration_or_rule_is_refused():
    with pytest.raises(ValueError, match="unknown TVO configuration 'config3'; valid: config1, config2"):
        tvo_partition(3, "config3", 10)
    with pytest.raises(ValueError, match="unknown integration rule 'simpson'; valid: left, right, trapz"):
        tvo_nodes([0.0, 1.0], "simpson")


@pytest.mark.parametrize("rule", ["left", "right", "trapz"])
@pytest.mark.parametrize("function", [lambda b: 1.0, lambda b: b, lambda b: b * b])
def test_nodes_are_the_riemann_sum(rule, function):
    knots = tvo_partition(5, 0.01, 10)
    values = np.array([function(b) for b in knots])
    widths = np.diff(knots)
    expected = {
        "left": (widths * values[:-1]).sum(),
        "right": (widths * values[1:]).sum(),
        "trapz": (widths * (values[:-1] + values[1:]) / 2).sum(),
    }[rule]
    assert sum(width * function(b) for b, width in tvo_nodes(knots, rule)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("partition", ["tvo-part1", "tvo-part2-config1", "tvo-part5-config2", "tvo-part4-beta1.5"])
def test_the_right_sum_is_above_the_left_and_trapz_is_their_mean(partition):
    log_p, log_q = moderate_log_weights(20, 6), moderate_log_weights(20, 6, seed=1)
    left, right, trapz = (-multisample_loss(log_p, log_q, f"{partition}-{r}") for r in ("left", "right", "trapz"))
    assert (right > left).all()
    torch.testing.assert_close(trapz, (left + right) / 2)
    # the integral between them is the importance-weighted bound of the same particles
    bound = -multisample_loss(log_p, log_q, "iwae")
    assert ((left < bound) & (bound < right)).all()
    assert torch.equal(left, -multisample_loss(log_p, log_q, partition))


def test_fine_sums_tend_to_the_importance_weighted_bound():
    log_p, log_q = moderate_log_weights(20, 6), moderate_log_weights(20, 6, seed=1)
    bound = -multisample_loss(log_p, log_q, "iwae")
    gaps = [(-multisample_loss(log_p, log_q, f"tvo-part{p}-beta2-trapz") - bound).abs().max() for p in (5, 50, 500)]
    assert gaps[0] > 10 * gaps[1] > 100 * gaps[2]
    assert gaps[2] < 1e-2
