"""Identities between control variates and signals, and what c_k depends on: none has sampling noise."""

from __future__ import annotations

import math

import pytest
import torch
from functional_cases import SIGNALS, awkward_log_weights, control_variate, moderate_log_weights, signal

from ovis.functional import (
    iw_bound,
    learning_signal,
    leave_one_out_log_mean_exp,
    log_mean_exp,
    normalized_weights,
    prefactor,
)

ALPHAS = (0.0, 0.3, 0.7)
COUNTS = (2, 3, 8)


def replaced(log_w: torch.Tensor, k: int, value: torch.Tensor | float) -> torch.Tensor:
    """log_w with particle k's log-weight replaced."""
    log_w = log_w.clone()
    log_w[..., k] = value
    return log_w


@pytest.mark.parametrize("count", COUNTS)
def test_u1_bound_minus_bound_of_the_others(count):
    log_w = moderate_log_weights(7, count)
    gap = log_mean_exp(log_w).unsqueeze(-1) - leave_one_out_log_mean_exp(log_w)
    torch.testing.assert_close(gap, ((1 - 1 / count) / (1 - normalized_weights(log_w))).log())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_u2_ovis_asymptotic_and_its_signal_are_linear_in_gamma(alpha):
    log_w, _ = awkward_log_weights(5, torch.float64)
    log_w = log_w[log_w.isfinite().all(-1)]
    for gamma in (0.25, 0.9):
        ends = [control_variate(log_w, f"ovis-gamma{g:g}", alpha) for g in (0.0, 1.0)]
        torch.testing.assert_close(
            control_variate(log_w, f"ovis-gamma{gamma:g}", alpha), (1 - gamma) * ends[0] + gamma * ends[1]
        )
        ends = [learning_signal(log_w, f"ovis-gamma{g}", alpha) for g in (0, 1)]
        mixed = learning_signal(log_w, f"ovis-gamma{gamma}", alpha)
        torch.testing.assert_close(mixed, (1 - gamma) * ends[0] + gamma * ends[1])


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", COUNTS)
def test_u3_vimco_and_the_two_ends_of_gamma(count, alpha):
    log_w = moderate_log_weights(7, count)
    vimco = control_variate(log_w, "vimco", alpha)
    if alpha == 0:
        torch.testing.assert_close(vimco, leave_one_out_log_mean_exp(log_w))
    others = torch.stack([iw_bound(torch.cat([log_w[:, :k], log_w[:, k + 1 :]], 1), alpha) for k in range(count)], -1)
    torch.testing.assert_close(vimco, others)
    torch.testing.assert_close(control_variate(log_w, "ovis-gamma0", alpha), vimco + math.log(1 - 1 / count))
    torch.testing.assert_close(control_variate(log_w, "ovis-gamma1", alpha), vimco - normalized_weights(log_w, alpha))


@pytest.mark.parametrize("count", COUNTS)
def test_u3_closed_forms_of_the_asymptotic_signals_at_alpha_zero(count):
    log_w = moderate_log_weights(7, count)
    v = normalized_weights(log_w)
    torch.testing.assert_close(learning_signal(log_w, "ovis-gamma0"), -torch.log1p(-v) - v)
    torch.testing.assert_close(learning_signal(log_w, "ovis-gamma1"), ((1 - 1 / count) / (1 - v)).log())
    assert (learning_signal(log_w, "ovis-gamma0") >= 0).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", COUNTS)
def test_u4_vimco_equals_its_square_matrix_form(count, alpha):
    log_w = moderate_log_weights(7, count)
    square = log_w.unsqueeze(-2).expand(-1, count, -1)  # row k: all log-weights
    own = torch.eye(count, dtype=torch.bool)
    mean = square.masked_fill(own, 0.0).sum(-1) / (count - 1)
    weights = ((1 - alpha) * square).exp().masked_fill(own, 0.0).sum(-1)
    arithmetic = torch.log((weights + weights / (count - 1)) / count) / (1 - alpha)
    geometric = torch.log((weights + ((1 - alpha) * mean).exp()) / count) / (1 - alpha)
    torch.testing.assert_close(control_variate(log_w, "vimco", alpha), arithmetic)
    torch.testing.assert_close(control_variate(log_w, "vimco-geometric", alpha), geometric)
    assert ((arithmetic - geometric).abs() > 1e-3).any() or count == 2


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [1, *COUNTS])
def test_u4_ovis_monte_carlo_equals_the_mean_prefactor_of_replaced_samples(count, alpha):
    log_w, aux = moderate_log_weights(7, count), moderate_log_weights(7, 4, seed=1)
    naive = torch.zeros_like(log_w)
    for k in range(count):
        for s in range(4):
            naive[:, k] += prefactor(replaced(log_w, k, aux[:, s]), alpha)[:, k] / 4
    torch.testing.assert_close(control_variate(log_w, "ovis-S", alpha, aux), naive)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", COUNTS)
def test_u4_vimco_is_the_bound_with_the_mean_of_the_others_in_place_of_a_sample(count, alpha):
    log_w = moderate_log_weights(7, count)
    for k in range(count):
        others = torch.cat([log_w[:, :k], log_w[:, k + 1 :]], 1)
        arithmetic = iw_bound(replaced(log_w, k, iw_bound(others, alpha)), alpha)
        torch.testing.assert_close(control_variate(log_w, "vimco", alpha)[:, k], arithmetic)
        torch.testing.assert_close(
            control_variate(log_w, "vimco-geometric", alpha)[:, k], iw_bound(replaced(log_w, k, others.mean(-1)), alpha)
        )


INDEPENDENT = ("vimco", "vimco-geometric", "ovis-S", "ovis-gamma0")


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_control_variate_does_not_move_when_its_sample_is_replaced(name, count, alpha):
    log_w, aux = moderate_log_weights(7, count), moderate_log_weights(7, 4, seed=1)
    c = control_variate(log_w, name, alpha, aux)
    for k in range(count):
        for value in (-math.inf, -1e3, -1.0, 1.0, 30.0, 1e3):
            moved = control_variate(replaced(log_w, k, value), name, alpha, aux)
            torch.testing.assert_close(moved[:, k], c[:, k], rtol=1e-12, atol=1e-12)
            if value >= 30:  # while those of the others do move
                assert ((moved - c)[:, torch.arange(count) != k] > 1).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_the_control_variate_of_a_positive_gamma_moves_when_its_sample_is_replaced(gamma, alpha):
    log_w = moderate_log_weights(7, 5)
    for k in range(5):
        moved = (
            control_variate(replaced(log_w, k, 30.0), f"ovis-gamma{gamma:g}", alpha)[:, k]
            - control_variate(log_w, f"ovis-gamma{gamma:g}", alpha)[:, k]
        )
        expected = gamma * (normalized_weights(log_w, alpha)[:, k] - 1)  # its weight is 1 now
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-3)
        assert (moved < -0.01 * gamma).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", COUNTS)
def test_signals_without_a_control_variate(count, alpha):
    log_w = moderate_log_weights(7, count)
    v = normalized_weights(log_w, alpha)
    d = iw_bound(log_w, alpha).unsqueeze(-1) - v
    torch.testing.assert_close(prefactor(log_w, alpha), d)
    torch.testing.assert_close(learning_signal(log_w, "reinforce", alpha), d)
    torch.testing.assert_close(learning_signal(log_w, "rws", alpha), v)


def test_gamma_one_is_centred_wake_phi_to_leading_order():
    log_w = 0.1 * moderate_log_weights(3, 1000)
    result = learning_signal(log_w, "ovis-gamma1")
    torch.testing.assert_close(result, normalized_weights(log_w) - 1 / 1000, rtol=0, atol=1e-5)
    assert result.abs().max() > 2e-4


def test_aliases_name_the_same_signal():
    log_w = moderate_log_weights(3, 4)
    assert torch.equal(learning_signal(log_w, "vimco"), learning_signal(log_w, "vimco-arithmetic"))
    assert torch.equal(learning_signal(log_w, "rws"), learning_signal(log_w, "wake-wake"))


def test_a_gamma_of_many_digits_is_taken_as_it_is():
    log_w = moderate_log_weights(3, 4)
    result = learning_signal(log_w, "ovis-gamma0.123456789")
    ends = [learning_signal(log_w, f"ovis-gamma{g}") for g in (0, 1)]
    torch.testing.assert_close(result, ends[0] + 0.123456789 * (ends[1] - ends[0]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", SIGNALS)
def test_the_signal_carries_no_gradient(method):
    log_w = moderate_log_weights(3, 4).requires_grad_()
    aux = moderate_log_weights(3, 2, seed=1).requires_grad_()
    assert not signal(log_w, method, 0.0, aux).requires_grad


@pytest.mark.parametrize(
    "method", ["iwae", "vae", "stl", "dreg", "wake-sleep", "tvo-part2-config1", "reinforce-baseline"]
)
def test_a_method_without_a_signal_is_refused(method):
    with pytest.raises(ValueError, match=f"method '{method}' has no learning signal"):
        learning_signal(torch.zeros(3), method)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown estimator 'vimko'; did you mean 'vimco'\?"):
        learning_signal(torch.zeros(3), "vimko")
    with pytest.raises(ValueError, match="unknown part 'gama1' of estimator 'ovis-gama1'; did you mean 'ovis-gamma1'"):
        learning_signal(torch.zeros(3), "ovis-gama1")


def test_auxiliary_log_weights_that_are_missing_or_not_used_are_refused():
    with pytest.raises(ValueError, match="method 'ovis-S2-exclusive' needs log_w_aux"):
        learning_signal(torch.zeros(3), "ovis-S2-exclusive")
    for method in (m for m in SIGNALS if m != "ovis-S"):
        with pytest.raises(ValueError, match=f"method '{method}' takes no log_w_aux"):
            learning_signal(torch.zeros(3), method, log_w_aux=torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_ovis_monte_carlo_is_relatively_right_where_its_series_ends(dtype):
    """The signal of v is about v^2/2 there, and a sum with 1 would leave the last digits of v out of it."""
    v = torch.linspace(0.05, 0.45, 200, dtype=torch.float64)
    log_w = torch.stack([torch.log1p(-v), v.log()], -1).to(dtype)
    aux = torch.tensor([[-9.0], [-11.0], [-60.0]], dtype=dtype)
    result = learning_signal(log_w.expand(3, -1, -1), "ovis-S1", log_w_aux=aux.unsqueeze(1)).double()[..., 1]
    log_w, aux = log_w.double(), aux.double()  # as they were rounded
    u = (aux - log_w.logsumexp(-1)).exp()  # [3, 200]
    v = log_w.softmax(-1)[..., 1]
    t = v - u
    right = -torch.log1p(-t) - v + u / (1 - t)
    assert ((result / right - 1).abs() < 40 * torch.finfo(dtype).eps).all()
