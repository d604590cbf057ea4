"""Particles that are not there: each row of a masked loss is the loss of its own particles alone."""

from __future__ import annotations

import math

import pytest
import torch
from functional_cases import LOSSES, moderate_log_weights
from torch.func import grad, vmap

from ovis.functional import (
    doubly_reparameterized_loss,
    iw_bound,
    learning_signal,
    multisample_loss,
    normalized_weights,
    prefactor,
)

REFUSED = {"ovis-S2": "give log_w_aux", "tvo-part2-config1": "use tvo-part<P>-beta<b>"}
REFUSED["tvo-part5-config2-right"] = REFUSED["tvo-part2-config1"]
MASKABLE = [*[case for case in LOSSES if case[0] not in REFUSED], ("tvo-part5-beta2-right", False)]
LEAVE_ONE_OUT = ["vimco", "vimco-geometric", "ovis-gamma0", "ovis-gamma0.5", "ovis-gamma1"]
NO_ALPHA = ("tvo", "vae")
CASES = [
    (method, takes_aux, alpha)
    for method, takes_aux in MASKABLE
    for alpha in (0.0, 0.3, 0.999, torch.tensor(0.7, dtype=torch.float64))
    if not (method.startswith(NO_ALPHA) and (isinstance(alpha, torch.Tensor) or alpha))
]
#: what the entries hold that are not there
ANYTHING = (0.0, 1e4, -1e300, math.nan, math.inf, -math.inf)


def masks(rows: int, count: int, at_least: int = 2) -> torch.Tensor:
    """All, the first few, the last few, alternating ones, and random ones; never fewer than ``at_least``."""
    generator = torch.Generator().manual_seed(count)
    result = torch.rand(rows, count, generator=generator) < 0.5
    result[0] = True
    result[1] = torch.arange(count) < at_least
    result[2] = torch.arange(count) >= count - at_least
    result[3] = torch.arange(count) % 2 == 0
    result[result.sum(-1) < at_least, :at_least] = True
    return result


def densities(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaves that hold anything where the mask is False; log-weights of a narrow and of a wide spread."""
    rows, count = mask.shape
    anything = torch.tensor(ANYTHING, dtype=torch.float64)[(torch.arange(count) + torch.arange(rows)[:, None]) % 6]
    log_p, log_q = moderate_log_weights(*mask.shape) * 2 - 3, moderate_log_weights(*mask.shape, seed=1)
    log_p[::3] *= 30
    return tuple(torch.where(mask, item, anything).requires_grad_() for item in (log_p, log_q))


def auxiliary(takes_aux: bool, rows: int) -> torch.Tensor | None:
    return moderate_log_weights(rows, 3, seed=7) if takes_aux else None


def compacted(log_p, log_q, mask, method, alpha, aux):
    """Value and gradients by the rows without the other entries."""
    values, by_p, by_q = [], torch.zeros_like(log_p), torch.zeros_like(log_q)
    for row, there in enumerate(mask):
        p, q = (item.detach()[row, there].requires_grad_() for item in (log_p, log_q))
        value = multisample_loss(p, q, method, alpha, None if aux is None else aux[row])
        found = torch.autograd.grad(value, (p, q))
        by_p[row, there], by_q[row, there] = found
        values.append(value.detach())
    return torch.stack(values), by_p, by_q


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize(("method", "takes_aux", "alpha"), CASES)
def test_value_and_gradients_are_those_of_the_particles_alone(method, takes_aux, alpha, count):
    mask = masks(9, count, 2 if method in LEAVE_ONE_OUT else 1)
    log_p, log_q = densities(mask)
    aux = auxiliary(takes_aux, 9)
    value, by_p, by_q = compacted(log_p, log_q, mask, method, alpha, aux)
    loss = multisample_loss(log_p, log_q, method, alpha, aux, mask=mask)
    torch.testing.assert_close(loss.detach(), value, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(loss.sum(), (log_p, log_q))
    torch.testing.assert_close(found, (by_p, by_q), rtol=1e-12, atol=1e-12)
    assert all((item[~mask] == 0).all() for item in found)
    assert (by_q[mask] != 0).any()


@pytest.mark.parametrize("alpha", [0.0, 0.999])
@pytest.mark.parametrize("method", ["vimco", "vimco-geometric", "ovis-gamma1", "rws", "reinforce", "tvo-part2-beta1"])
def test_infinite_log_weights_among_the_particles_are_those_of_the_row_alone(method, alpha):
    inf = math.inf
    rows = [[-inf, -inf, -inf], [inf, inf, inf], [inf, 0.0, 0.0], [-inf, 0.0, 1.0], [-inf, -inf, 0.0], [inf, -inf, 0.0]]
    alone = torch.tensor(rows, dtype=torch.float64)
    for position in range(4):  # of a particle that is not there
        mask = torch.arange(4) != position
        log_p = torch.full((len(rows), 4), math.nan, dtype=torch.float64)
        log_p[:, mask] = alone
        leaves = [log_p.requires_grad_(), torch.zeros_like(log_p).requires_grad_()]
        fewer = [alone.clone().requires_grad_(), torch.zeros_like(alone).requires_grad_()]
        if method.startswith("tvo") and alpha:
            continue
        loss = multisample_loss(*leaves, method, alpha, mask=mask)
        expected = multisample_loss(*fewer, method, alpha)
        torch.testing.assert_close(loss, expected)
        found, by = (torch.autograd.grad(item.sum(), inputs) for item, inputs in ((loss, leaves), (expected, fewer)))
        torch.testing.assert_close([item[:, mask] for item in found], list(by), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "takes_aux", "alpha"), [case for case in CASES if not isinstance(case[2], float)])
def test_a_full_mask_changes_nothing_but_rounding(method, takes_aux, alpha):
    log_p, log_q = densities(torch.ones(9, 6, dtype=torch.bool))
    aux = auxiliary(takes_aux, 9)
    plain = multisample_loss(log_p, log_q, method, alpha, aux)
    masked = multisample_loss(log_p, log_q, method, alpha, aux, mask=torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(masked, plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("method", "takes_aux"), MASKABLE)
def test_a_row_without_particles_is_zero(method, takes_aux):
    mask = masks(9, 6)
    mask[4] = False
    log_p, log_q = densities(mask)
    loss = multisample_loss(log_p, log_q, method, log_w_aux=auxiliary(takes_aux, 9), mask=mask)
    assert loss[4].item() == 0
    assert loss.isfinite().all()
    for item in torch.autograd.grad(loss.sum(), (log_p, log_q)):
        assert item.isfinite().all()
        assert (item[4] == 0).all()


@pytest.mark.parametrize("method", LEAVE_ONE_OUT)
def test_one_particle_in_a_row_is_refused_by_leave_one_out_methods(method):
    mask = torch.tensor([[True, True, False], [False, True, False]])
    log_p, log_q = densities(mask)
    with pytest.raises(ValueError, match="needs 2 in each row of the mask, or none; row \\[1\\] has 1"):
        multisample_loss(log_p, log_q, method, mask=mask)
    # where the mask can't be read, as on another device, the row is NaN
    loss = vmap(lambda p, q, m: multisample_loss(p, q, method, mask=m))(log_p, log_q, mask)
    assert loss.isnan().tolist() == [False, True]
    by_p, by_q = torch.autograd.grad(loss.sum(), (log_p, log_q))
    assert by_p.isnan().tolist() == by_q.isnan().tolist() == [[False] * 3, [False, True, False]]


@pytest.mark.parametrize(("method", "message"), REFUSED.items())
def test_methods_that_depend_on_the_number_of_particles_in_other_ways_are_refused(method, message):
    with pytest.raises(ValueError, match=f"method '{method}.*with a mask, {message}"):
        multisample_loss(torch.zeros(2, 6), torch.zeros(2, 6), method, mask=torch.ones(6, dtype=torch.bool))


def test_masks_that_do_not_fit_are_refused():
    p = torch.zeros(2, 6)
    with pytest.raises(TypeError, match=r"mask must be bool, True where a particle is there, got torch.float32"):
        multisample_loss(p, p, "iwae", mask=torch.ones(2, 6))
    for shape in [(3, 6), (2, 5), (2, 2, 6), ()]:
        with pytest.raises(ValueError, match=r"mask must have the shape \(2, 6\) of log_p, got "):
            multisample_loss(p, p, "iwae", mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask must be bool"):
        doubly_reparameterized_loss(p, p, torch.zeros(2, 6, requires_grad=True), mask=torch.ones(2, 6))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_bounds_weights_and_signals_take_the_mask_too(alpha):
    mask = masks(9, 6)
    log_w, _ = densities(mask)
    for row, there in enumerate(mask):
        own = log_w[row, there]
        torch.testing.assert_close(iw_bound(log_w, alpha, mask)[row], iw_bound(own, alpha))
        torch.testing.assert_close(normalized_weights(log_w, alpha, mask)[row, there], normalized_weights(own, alpha))
        torch.testing.assert_close(prefactor(log_w, alpha, mask)[row, there], prefactor(own, alpha))
        signal = learning_signal(log_w, "ovis-gamma1", alpha, mask=mask)[row]
        torch.testing.assert_close(signal[there], learning_signal(own, "ovis-gamma1", alpha))
        assert (signal[~there] == 0).all()
    (found,) = torch.autograd.grad(iw_bound(log_w, alpha, mask).sum(), log_w)
    torch.testing.assert_close(found, normalized_weights(log_w, alpha, mask).detach())


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_doubly_reparameterized_gradients_are_those_of_the_particles_alone(alpha):
    mask = masks(9, 5, 1)
    mask[5] = False
    mean, noise = moderate_log_weights(9, 3).requires_grad_(), moderate_log_weights(9, 5, 3, seed=1)
    noise = torch.where(mask.unsqueeze(-1), noise, math.nan)

    def loss(mean, noise, mask=None):
        z = mean.unsqueeze(-2) + noise
        log_p, log_q = -z.square().sum(-1), -0.5 * (z - mean.detach().unsqueeze(-2)).square().sum(-1)
        return doubly_reparameterized_loss(log_p, log_q, z, alpha, mask=mask)

    value = loss(mean, noise, mask)
    (found,) = torch.autograd.grad(value.sum(), mean)
    assert value[5].item() == 0
    assert (found[5] == 0).all()
    for row, there in enumerate(mask):
        if there.any():
            own = mean[row].detach().requires_grad_()
            alone = loss(own, noise[row, there])
            torch.testing.assert_close(value[row], alone, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[row], torch.autograd.grad(alone, own)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["vimco-geometric", "ovis-S3-exclusive"])
def test_masked_losses_under_transforms(method):
    mask = masks(9, 6)
    log_p, log_q = densities(mask)
    aux = auxiliary(method.endswith("exclusive"), 9)

    def loss(p, q, m, a=None):
        return multisample_loss(p, q, method, 0.3, a, mask=m)

    expected = loss(log_p, log_q, mask, aux)
    by = torch.autograd.grad(expected.sum(), (log_p, log_q))
    inputs = (log_p.detach(), log_q.detach(), mask, *([] if aux is None else [aux]))
    torch.testing.assert_close(vmap(loss)(*inputs), expected.detach())
    torch.testing.assert_close(vmap(grad(loss, argnums=(0, 1)))(*inputs), by)


def test_a_masked_loss_compiles_to_one_graph_with_its_gradient():
    mask = masks(9, 6)
    log_p, log_q = densities(mask)

    def loss(p, q, m):
        return multisample_loss(p, q, "ovis-gamma1", mask=m)

    torch._dynamo.reset()
    expected, found = loss(log_p, log_q, mask), torch.compile(loss, fullgraph=True, backend="eager")(log_p, log_q, mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*[torch.autograd.grad(item.sum(), (log_p, log_q)) for item in (found, expected)])


def test_masked_losses_keep_single_precision():
    mask = masks(9, 6)
    for method, takes_aux in MASKABLE:
        log_p, log_q = (item.detach().float().requires_grad_() for item in densities(mask))
        aux = auxiliary(takes_aux, 9)
        loss = multisample_loss(log_p, log_q, method, log_w_aux=None if aux is None else aux.float(), mask=mask)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
