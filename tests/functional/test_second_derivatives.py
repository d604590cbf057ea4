"""Second derivatives: right where the gradient is the derivative of the loss, and an error where it is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from functional_cases import LOSSES, moderate_log_weights
from torch import Tensor
from torch.autograd.functional import hessian as hessian_by_autograd
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from ovis.functional import doubly_reparameterized_loss, multisample_loss
from ovis.functional.attach import attach, constant

SCORE = [case for case in LOSSES if not case[0].startswith(("tvo", "vae", "iwae"))]
REFUSED = [case for case in LOSSES if case[0] not in ("vae", "iwae")]


def by_create_graph(function: Any) -> Any:
    """Rows of the Hessian of a function of one vector."""

    def result(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(x), x, create_graph=True)
        rows = [torch.autograd.grad(item, x, retain_graph=True)[0] for item in first]
        return torch.stack(rows)

    return result


WAYS = {
    "autograd.functional": lambda function: lambda x: hessian_by_autograd(function, x),
    "create_graph": by_create_graph,
    "func.hessian": hessian,
    "reverse twice": lambda function: jacrev(jacrev(function)),
    "reverse over forward": lambda function: jacrev(jacfwd(function)),
    "vmap": lambda function: lambda x: vmap(hessian(function))(x.unsqueeze(0)).squeeze(0),
}


def textbook(log_w: Tensor, alpha: float) -> Tensor:
    """Of minus the bound by the log-weights: -(1 - alpha) (diag(v) - v v^T)."""
    v = ((1 - alpha) * log_w).softmax(-1)
    return -(1 - alpha) * (torch.diag(v) - torch.outer(v, v))


def inputs(count: int = 5) -> tuple[Tensor, Tensor]:
    return moderate_log_weights(count), moderate_log_weights(count, seed=1)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("way", WAYS)
def test_the_hessian_of_iwae_is_that_of_the_bound(way: str, alpha: float) -> None:
    log_p, log_q = inputs()
    expected = textbook(log_p - log_q, alpha)
    assert expected.abs().max() > 0.1
    found = WAYS[way](lambda p: multisample_loss(p, log_q, "iwae", alpha))(log_p)
    torch.testing.assert_close(found, expected)
    found = WAYS[way](lambda q: multisample_loss(log_p, q, "iwae", alpha))(log_q)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
@pytest.mark.slow
def test_a_compiled_hessian_is_the_same() -> None:
    """The loss refuses to be traced there, so torch computes it without compiling."""
    log_p, log_q = inputs()
    function = hessian(lambda p: multisample_loss(p, log_q, "iwae"))
    torch._dynamo.reset()
    found = torch.compile(function, backend="eager")(log_p)
    torch.testing.assert_close(found, textbook(log_p - log_q, 0.0))


def bound_by_autograd(log_p: Tensor, log_q: Tensor, method: str, alpha: float) -> Tensor:
    log_w = log_p - log_q
    if method == "vae":
        return -log_w.mean(-1)
    return -(((1 - alpha) * log_w).logsumexp(-1) - math.log(log_w.shape[-1])) / (1 - alpha)


@pytest.mark.parametrize("way", ["create_graph", "func.hessian", "reverse twice"])
@pytest.mark.parametrize(("method", "alpha"), [("iwae", 0.0), ("iwae", 0.3), ("vae", 0.0)])
def test_derivatives_of_a_reparameterized_model_are_those_of_autograd(method: str, alpha: float, way: str) -> None:
    """Of the mean, the log standard deviation and the target of a normal, through exp of the loss: also the third."""
    noise, point = moderate_log_weights(3, 6), torch.tensor([0.3, -0.4, 0.8], dtype=torch.float64)

    def function(loss: Any) -> Any:
        def result(parameters: Tensor) -> Tensor:
            mean, log_std, target = parameters
            z = mean + log_std.exp() * noise
            log_q = -0.5 * ((z - mean) / log_std.exp()).square() - log_std
            total: Tensor = (loss(-0.5 * (z - target).square(), log_q, method, alpha) / 4).exp().sum()
            return total

        return result

    ours, exact = function(multisample_loss), function(bound_by_autograd)
    torch.testing.assert_close(WAYS[way](ours)(point), hessian(exact)(point))
    if way == "reverse twice":
        third = jacrev(jacrev(jacrev(exact)))(point)
        assert third.abs().max() > 0.1
        torch.testing.assert_close(jacrev(jacrev(jacrev(ours)))(point), third)


@pytest.mark.parametrize("alpha", [0.0, 0.3, torch.tensor(0.3, dtype=torch.float64)])
def test_the_hessian_of_a_masked_row_is_that_of_its_particles(alpha: float) -> None:
    log_p, log_q = inputs(6)
    mask = torch.tensor([True, False, True, True, False, True])
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[torch.outer(mask, mask)] = textbook((log_p - log_q)[mask], alpha).flatten()
    for way in ("create_graph", "func.hessian", "vmap", "reverse twice"):
        found = WAYS[way](lambda p: multisample_loss(p, log_q, "iwae", alpha, mask=mask))(log_p)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(("method", "takes_aux"), SCORE)
def test_score_methods_have_the_second_derivative_by_log_p(method: str, takes_aux: bool, alpha: float) -> None:
    """Also where log q has a graph of its own: it has no part in theta's gradient."""
    log_p, log_q = inputs()
    aux = moderate_log_weights(3, seed=7) if takes_aux else None
    expected = textbook(log_p - log_q, alpha)

    def loss(p: Tensor) -> Tensor:
        return multisample_loss(p, log_q.clone().requires_grad_(), method, alpha, aux)

    torch.testing.assert_close(by_create_graph(loss)(log_p), expected)
    torch.testing.assert_close(hessian(lambda p: multisample_loss(p, log_q, method, alpha, aux))(log_p), expected)


@pytest.mark.parametrize("way", ["autograd.functional", "create_graph", "func.hessian", "reverse twice"])
@pytest.mark.parametrize(("method", "takes_aux"), REFUSED)
def test_what_is_no_derivative_of_the_loss_is_refused(method: str, takes_aux: bool, way: str) -> None:
    log_p, log_q = inputs()
    aux = moderate_log_weights(3, seed=7) if takes_aux else None
    message = "this loss has no second derivative: the gradient of '.*'.* is an estimate, not its derivative"
    with pytest.raises(RuntimeError, match=message):
        WAYS[way](lambda q: multisample_loss(log_p, q, method, 0.0, aux))(log_q)
    with pytest.raises(RuntimeError, match=message):  # one parameter of both
        WAYS[way](lambda s: multisample_loss(log_p + s, log_q * s, method, 0.0, aux))(torch.ones_like(log_p))
    if method.startswith("tvo"):
        with pytest.raises(RuntimeError, match=message):
            WAYS[way](lambda p: multisample_loss(p, log_q, method))(log_p)


def test_the_derivative_of_thetas_gradient_by_phi_is_refused() -> None:
    log_p, log_q = (item.requires_grad_() for item in inputs())
    (by_p,) = torch.autograd.grad(multisample_loss(log_p, log_q, "vimco"), log_p, create_graph=True)
    torch.autograd.grad(by_p[0], log_p, retain_graph=True)
    with pytest.raises(RuntimeError, match="'vimco-arithmetic' with respect to log q is an estimate"):
        torch.autograd.grad(by_p[0], log_q)


def test_the_doubly_reparameterized_gradient_is_no_derivative() -> None:
    mean, noise = moderate_log_weights(3).requires_grad_(), moderate_log_weights(6, 3, seed=1)
    z = mean + noise
    loss = doubly_reparameterized_loss(-z.square().sum(-1), -(z - mean.detach()).square().sum(-1), z)
    (first,) = torch.autograd.grad(loss, mean, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.sum(), mean)


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
def test_the_first_derivative_is_the_same_to_the_bit(method: str, takes_aux: bool) -> None:
    """With and without a graph for a second one, and forward."""
    leaves = [moderate_log_weights(4, 5, seed=seed).requires_grad_() for seed in (0, 1)]
    aux = moderate_log_weights(4, 3, seed=7) if takes_aux else None

    def loss(p: Tensor, q: Tensor) -> Tensor:
        return multisample_loss(p, q, method, log_w_aux=aux).sum()

    plain = torch.autograd.grad(loss(*leaves), leaves)
    assert all(map(torch.equal, plain, torch.autograd.grad(loss(*leaves), leaves, create_graph=True)))
    assert all(map(torch.equal, plain, grad(loss, argnums=(0, 1))(*leaves)))
    detached = [leaf.detach() for leaf in leaves]
    assert all(map(torch.equal, plain, grad(loss, argnums=(0, 1))(*detached)))
    direction = (detached[1], detached[0])
    _, forward = jvp(loss, tuple(detached), direction)
    torch.testing.assert_close(forward, sum((a * b).sum() for a, b in zip(plain, direction, strict=True)))


def test_forward_over_forward_is_refused() -> None:
    log_p, log_q = inputs()
    with pytest.raises(RuntimeError, match=r"no forward-over-forward derivative: use torch.func.hessian"):
        jacfwd(jacfwd(lambda p: multisample_loss(p, log_q, "iwae")))(log_p)


def test_a_loss_of_ones_own_says_whether_its_factors_are_constant() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    factor = torch.tensor([3.0, 4.0])
    for rule, right in ((constant, True), (None, False)):
        loss = attach(torch.tensor(0.0), (factor, x.square()), **({"rule": rule} if rule else {}))
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        assert first.tolist() == [6.0, 16.0]
        if right:
            assert torch.autograd.grad(first.sum(), x)[0].tolist() == [6.0, 8.0]
        else:
            with pytest.raises(RuntimeError, match="the factors of its gradient are constants"):
                torch.autograd.grad(first.sum(), x)
