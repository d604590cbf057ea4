"""torch.func and torch.compile: mapped, differentiated and compiled calls give what plain ones give."""

from __future__ import annotations

import shutil

import pytest
import torch
from functional_cases import FUNCTIONS, LOSSES, PLAIN_FUNCTIONS, moderate_log_weights
from slow_cases import slow_except
from torch.func import grad, vmap

from ovis.functional import doubly_reparameterized_loss, iw_bound, multisample_loss

ALPHAS = {"float": 0.3, "tensor": torch.tensor(0.3, dtype=torch.float64)}
EVERY = {f"{name}, alpha": function for name, function in FUNCTIONS.items()} | PLAIN_FUNCTIONS


def loss_of(method, takes_aux):
    """f(log_p, log_q, aux), whether or not the method takes aux."""
    return lambda p, q, aux: multisample_loss(p, q, method, 0.0, aux if takes_aux else None)


def dreg(mean, noise):
    z = mean.unsqueeze(-2) + noise
    log_q = -0.5 * (z - mean.detach().unsqueeze(-2)).square().sum(-1)
    return doubly_reparameterized_loss(-z.square().sum(-1), log_q, z, 0.3)


def inputs(*shape: int) -> tuple[torch.Tensor, ...]:
    """log p (or log w), log q and auxiliary log-weights."""
    return tuple(moderate_log_weights(*shape, count, seed=seed) for seed, count in enumerate((6, 6, 3)))


@pytest.mark.parametrize("alpha", ALPHAS.values(), ids=ALPHAS)
@pytest.mark.parametrize("name", EVERY)
def test_vmap_equals_the_batched_call(name, alpha):
    log_w, _, aux = inputs(4, 3)
    expected = EVERY[name](log_w, alpha, aux)
    torch.testing.assert_close(vmap(lambda w, a: EVERY[name](w, alpha, a))(log_w, aux), expected)
    torch.testing.assert_close(vmap(vmap(lambda w, a: EVERY[name](w, alpha, a)))(log_w, aux), expected)
    middle = vmap(lambda w, a: EVERY[name](w, alpha, a), in_dims=1, out_dims=1)(log_w, aux)
    torch.testing.assert_close(middle, expected)


@pytest.mark.parametrize("name", [name for name in EVERY if name.endswith(", alpha")])
def test_vmap_runs_over_alpha(name):
    log_w, _, aux = inputs(2)
    alphas = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    mapped = vmap(lambda alpha: EVERY[name](log_w, alpha, aux))(alphas)
    torch.testing.assert_close(mapped, torch.stack([EVERY[name](log_w, alpha.item(), aux) for alpha in alphas]))


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
def test_losses_and_their_gradients_under_vmap_equal_the_batched_ones(method, takes_aux):
    log_p, log_q, aux = inputs(4)
    loss = loss_of(method, takes_aux)
    leaves = log_p.clone().requires_grad_(), log_q.clone().requires_grad_()
    value = loss(*leaves, aux)
    expected = torch.autograd.grad(value.sum(), leaves)
    torch.testing.assert_close(vmap(loss)(log_p, log_q, aux), value.detach())
    torch.testing.assert_close(vmap(grad(loss, argnums=(0, 1)))(log_p, log_q, aux), expected)
    outside = grad(lambda p, q: vmap(loss)(p, q, aux).sum(), argnums=(0, 1))(log_p, log_q)
    torch.testing.assert_close(outside, expected)
    mapped = torch.autograd.grad(vmap(loss)(*leaves, aux).sum(), leaves)
    torch.testing.assert_close(mapped, expected)


def test_the_gradient_of_the_bound_under_vmap_equals_the_batched_one():
    log_w = moderate_log_weights(4, 6)
    torch.testing.assert_close(vmap(grad(lambda w: iw_bound(w, 0.3)))(log_w), (0.7 * log_w).softmax(-1))


def test_doubly_reparameterized_gradients_under_vmap_equal_the_batched_ones():
    mean, noise = moderate_log_weights(4, 5).requires_grad_(), moderate_log_weights(4, 6, 5, seed=1)
    (expected,) = torch.autograd.grad(dreg(mean, noise).sum(), mean)
    torch.testing.assert_close(vmap(grad(dreg))(mean.detach(), noise), expected)


def compiled(function, backend="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


@pytest.mark.parametrize("name", slow_except(["bound, alpha", "signal vimco, alpha"], EVERY))
def test_every_function_compiles_to_one_graph(name):
    """With alpha as a tensor: a schedule of it must not compile anew at every step."""
    log_w, _, aux = inputs(4)
    run = compiled(EVERY[name])
    for alpha, first in ((0.3, True), (0.5, False)):
        with torch._dynamo.config.patch(error_on_recompile=not first):
            found = run(log_w, torch.tensor(alpha, dtype=torch.float64), aux)
        torch.testing.assert_close(found, EVERY[name](log_w, alpha, aux))


@pytest.mark.slow
def test_all_functions_together_compile_to_one_graph():
    log_w, _, aux = inputs(4)
    found = compiled(lambda w, a: {name: function(w, 0.3, a) for name, function in EVERY.items()})(log_w, aux)
    torch.testing.assert_close(found, {name: function(log_w, 0.3, aux) for name, function in EVERY.items()})


@pytest.mark.parametrize(
    ("method", "takes_aux"), slow_except([("ovis-gamma0", False), ("ovis-S3-exclusive", True)], LOSSES)
)
def test_every_loss_compiles_to_one_graph_with_its_gradient(method, takes_aux):
    log_p, log_q, aux = inputs(4)
    leaves = log_p.requires_grad_(), log_q.requires_grad_()
    loss = loss_of(method, takes_aux)
    expected, found = loss(*leaves, aux), compiled(loss)(*leaves, aux)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(x.sum(), leaves) for x in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vimco", "ovis-gamma0", "rws", "tvo-part2-config1", "iwae"])
def test_losses_compile_without_gradient_and_around_transforms(method):
    """Dynamo does not follow an autograd.Function there; gradients are compared, not only values."""
    log_p, log_q, _ = inputs(4)

    def loss(p, q):
        return multisample_loss(p, q, method)

    def mapped_sum(p, q):
        return vmap(loss)(p, q).sum()

    leaves = log_p.clone().requires_grad_(), log_q.clone().requires_grad_()
    value = loss(*leaves)
    expected = torch.autograd.grad(value.sum(), leaves)
    torch.testing.assert_close(compiled(loss)(log_p, log_q), value.detach())
    with torch.no_grad():
        torch.testing.assert_close(compiled(loss)(*leaves), value.detach())
    torch.testing.assert_close(compiled(vmap(loss))(log_p, log_q), value.detach())
    torch.testing.assert_close(compiled(vmap(grad(loss, argnums=(0, 1))))(log_p, log_q), expected)
    torch.testing.assert_close(compiled(grad(mapped_sum, argnums=(0, 1)))(log_p, log_q), expected)


@pytest.mark.parametrize("method", slow_except(["rws"], ["vimco", "ovis-gamma0", "rws"]))
def test_one_particle_with_all_the_weight_makes_no_nan_in_a_compiled_value(method):
    """Its learning signal is infinite, the bound is not."""
    log_p, log_q = torch.tensor([1.0, -torch.inf, -torch.inf]), torch.zeros(3)
    leaves = log_p.requires_grad_(), log_q.requires_grad_()
    found = compiled(lambda p, q: multisample_loss(p, q, method))(*leaves)
    torch.testing.assert_close(found, multisample_loss(*leaves, method))
    assert found.isfinite()


def test_the_doubly_reparameterized_loss_compiles_to_one_graph_with_its_gradient():
    mean, noise = moderate_log_weights(4, 5).requires_grad_(), moderate_log_weights(4, 6, 5, seed=1)
    expected, found = dreg(mean, noise), compiled(dreg)(mean, noise)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*[torch.autograd.grad(x.sum(), mean) for x in (found, expected)])


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("method", slow_except(["ovis-S3-exclusive"], ["ovis-gamma1", "ovis-S3-exclusive"]))
def test_the_default_compiler_gives_the_same_loss_and_gradient(method):
    log_p, log_q, aux = inputs(4)
    leaves = log_p.requires_grad_(), log_q.requires_grad_()
    loss = loss_of(method, method.endswith("exclusive"))
    expected, found = loss(*leaves, aux), compiled(loss, "inductor")(*leaves, aux)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*[torch.autograd.grad(x.sum(), leaves) for x in (found, expected)])
