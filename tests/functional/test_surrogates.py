"""Losses: the value is minus the bound, the gradient is the method's formula, and misuse is refused by name."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from functional_cases import DTYPES, LOSSES, moderate_log_weights

from ovis.functional import (
    doubly_reparameterized_loss,
    iw_bound,
    learning_signal,
    log_mean_exp,
    multisample_loss,
    normalized_weights,
)
from ovis.functional.partitions import tvo_partition

BOUNDED = [(method, takes_aux) for method, takes_aux in LOSSES if not method.startswith(("tvo", "vae"))]
TVO = ["tvo-part1", "tvo-part2-config1", "tvo-part5-config2-right", "tvo-part3-beta1-trapz"]


def densities(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """log p and log q, leaves."""
    log_p, log_q = moderate_log_weights(*shape, seed=seed) - 3, moderate_log_weights(*shape, seed=seed + 1) - 1
    return log_p.requires_grad_(), log_q.requires_grad_()


def auxiliary(takes_aux: bool, *shape: int) -> torch.Tensor | None:
    return moderate_log_weights(*shape, seed=7) if takes_aux else None


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Of the sum of the loss; zero for an input that has no part in it."""
    found = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def score_loss(log_p, log_q, signal, alpha):
    """-sum_k signal_k log q_k for phi, minus the bound with log q detached for theta."""
    return -(signal.detach() * log_q).sum(-1) - iw_bound(log_p - log_q.detach(), alpha)


def textbook_signal(log_w, method, alpha, aux):
    """d_k - c_k from the paper's formulas, as they stand there."""
    log_w, count, r = log_w.detach(), log_w.shape[-1], 1 - alpha
    v, w = (r * log_w).softmax(-1), (r * log_w).exp()
    d = (w.mean(-1, keepdim=True)).log() / r - v
    if method == "rws":
        return v
    if method == "reinforce":
        return d
    own = torch.eye(count, dtype=torch.bool)
    others = w.unsqueeze(-2).masked_fill(own, 0.0).sum(-1)
    if method == "ovis-S3-exclusive":
        u = (r * aux).exp().unsqueeze(-1)
        t = others.unsqueeze(-2)
        return d - (((t + u) / count).log() / r - u / (t + u)).mean(-2)
    arithmetic = (others / (count - 1)).log() / r
    if method == "vimco":
        return d - arithmetic
    if method == "vimco-geometric":
        mean = log_w.unsqueeze(-2).expand(*log_w.shape, count).masked_fill(own, 0.0).sum(-1) / (count - 1)
        return d - ((others + (r * mean).exp()) / count).log() / r
    gamma = float(method.removeprefix("ovis-gamma"))
    return d - (arithmetic - gamma * v + (1 - gamma) * math.log(1 - 1 / count))


@pytest.mark.parametrize("alpha", [0.0, 0.3, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize(("method", "takes_aux"), BOUNDED)
def test_the_value_is_minus_the_bound_whatever_the_method(method, takes_aux, alpha):
    log_p, log_q = densities(4, 6)
    loss = multisample_loss(log_p, log_q, method, alpha, auxiliary(takes_aux, 4, 3))
    assert loss.shape == (4,)
    torch.testing.assert_close(loss.detach(), -iw_bound((log_p - log_q).detach(), alpha), rtol=1e-15, atol=0)


def test_the_value_of_vae_is_minus_the_mean_log_weight():
    log_p, log_q = densities(4, 6)
    torch.testing.assert_close(multisample_loss(log_p, log_q, "vae"), (log_q - log_p).mean(-1))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(
    ("method", "takes_aux"), [case for case in BOUNDED if case[0] not in ("iwae", "stl", "ovis-S2")]
)
def test_the_gradient_of_a_score_method_is_its_formula(method, takes_aux, alpha):
    log_p, log_q = densities(2, 4, 6)
    aux = auxiliary(takes_aux, 2, 4, 3)
    signal = textbook_signal(log_p - log_q, method, alpha, aux)
    expected = gradients(score_loss(log_p, log_q, signal, alpha), log_p, log_q)
    found = gradients(multisample_loss(log_p, log_q, method, alpha, aux), log_p, log_q)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(("method", "count"), [("ovis-S2", 2), ("ovis-S0.5", 3), ("ovis-S0.1", 1), ("ovis-S5", 5)])
def test_an_inclusive_budget_gives_theta_all_particles_and_phi_all_but_the_last(method, count, alpha):
    log_p, log_q = densities(4, 6)
    log_w = (log_p - log_q).detach()
    signal = textbook_signal(log_w[:, :-count], "ovis-S3-exclusive", alpha, log_w[:, -count:])
    signal = torch.cat([signal, torch.zeros(4, count)], -1)
    expected = gradients(score_loss(log_p, log_q, signal, alpha), log_p, log_q)
    found = gradients(multisample_loss(log_p, log_q, method, alpha), log_p, log_q)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("method", ["iwae", "stl"])
def test_the_gradient_of_a_pathwise_method_is_that_of_the_bound(method, alpha):
    log_p, log_q = densities(4, 6)
    expected = gradients(-((1 - alpha) * (log_p - log_q)).logsumexp(-1) / (1 - alpha), log_p, log_q)
    torch.testing.assert_close(gradients(multisample_loss(log_p, log_q, method, alpha), log_p, log_q), expected)


def test_the_gradient_of_vae_is_that_of_the_mean_log_weight():
    log_p, log_q = densities(4, 6)
    expected = gradients(-(log_p - log_q).mean(-1), log_p, log_q)
    torch.testing.assert_close(gradients(multisample_loss(log_p, log_q, "vae"), log_p, log_q), expected)


def tvo_by_autograd(log_p, log_q, knots, rule):
    """The Riemann sum, and a loss with the covariance gradient of each expectation (Masrani et al. 2019, eq. 13)."""
    widths, count = np.diff(knots), log_p.shape[-1]
    nodes = {
        "left": zip(knots[:-1], widths, strict=True),
        "right": zip(knots[1:], widths, strict=True),
        "trapz": zip(knots, (np.append(0, widths) + np.append(widths, 0)) / 2, strict=True),
    }[rule]
    log_w, value, surrogate = log_p - log_q, 0.0, 0.0
    for b, width in nodes:
        wbar = (b * log_w.detach()).softmax(-1)
        mean = (wbar * log_w.detach()).sum(-1, keepdim=True)
        logpit = b * log_p + (1 - b) * log_q
        centred = logpit - (wbar * logpit).sum(-1, keepdim=True)
        covariance = (wbar * (log_w.detach() - mean) * centred).sum(-1)
        surrogate = surrogate + width * ((wbar * log_w).sum(-1) + (count / max(count - 1, 1)) * covariance)
        value = value + width * mean.squeeze(-1)
    return value, surrogate


@pytest.mark.parametrize("count", [1, 2, 6, 12])
@pytest.mark.parametrize("method", TVO)
def test_tvo_is_the_riemann_sum_with_its_covariance_gradient(method, count):
    first = {"tvo-part1": 0.5, "tvo-part2-config1": "config1", "tvo-part5-config2-right": "config2"}.get(method, 0.1)
    rule = method.rpartition("-")[2] if method.endswith(("right", "trapz")) else "left"
    knots = tvo_partition(int(method[8]), first, count)
    log_p, log_q = densities(4, count)
    value, surrogate = tvo_by_autograd(log_p, log_q, knots, rule)
    loss = multisample_loss(log_p, log_q, method)
    torch.testing.assert_close(loss.detach(), -value)
    torch.testing.assert_close(gradients(loss, log_p, log_q), gradients(-surrogate, log_p, log_q))


@pytest.mark.parametrize("count", [2, 5])
def test_tvo_with_one_partition_is_the_elbo_with_leave_one_out_reinforce(count):
    log_p, log_q = densities(4, count)
    log_w = (log_p - log_q).detach()
    others = (log_w.sum(-1, keepdim=True) - log_w) / (count - 1)
    loss = multisample_loss(log_p, log_q, "tvo-part1")
    torch.testing.assert_close(loss.detach(), -log_w.mean(-1))
    by_p, by_q = gradients(loss, log_p, log_q)
    torch.testing.assert_close(by_p, torch.full_like(by_p, -1 / count))
    # grad log q_k: -1/K from the log-weight itself, and the others' mean as the baseline of 1/K log w_k
    torch.testing.assert_close(by_q, (1 - (log_w - others)) / count)


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
def test_float32_gradients_keep_their_digits_at_a_common_offset(method, takes_aux):
    """log p of -8192 nats, as of a large image: what is left of float32 there is 1e-3, but no factor loses a digit."""
    log_q = (moderate_log_weights(4, 6).float() * 16).round() / 16
    log_p = (moderate_log_weights(4, 6, seed=1).float() * 16).round() / 16
    aux = torch.ones(4, 3) if takes_aux else None
    found = []
    for shift, dtype in ((-8192, torch.float32), (0, torch.float64)):
        p, q = (log_p.to(dtype) + shift).requires_grad_(), log_q.to(dtype).requires_grad_()
        loss = multisample_loss(p, q, method, log_w_aux=None if aux is None else aux.to(dtype) + shift)
        by_p, by_q = (g.double() for g in gradients(loss, p, q))
        if method == "reinforce":  # the prefactor holds the bound itself
            by_q = by_q - by_q.mean(-1, keepdim=True)
        found.append((by_p, by_q))
    tolerance = 1e-3 if method == "reinforce" else 1e-5
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_keep_the_dtype(dtype, method, takes_aux):
    log_p, log_q = (x.detach().to(dtype).requires_grad_() for x in densities(3, 6))
    aux = None if not takes_aux else torch.zeros(3, 3, dtype=dtype)
    loss = multisample_loss(log_p, log_q, method, log_w_aux=aux)
    assert loss.dtype == dtype
    assert all(g.dtype == dtype for g in gradients(loss, log_p, log_q))


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 1, 3)])
def test_any_leading_shape_is_kept(shape, method, takes_aux):
    log_p, log_q = densities(*shape, 5)
    loss = multisample_loss(log_p, log_q, method, log_w_aux=auxiliary(takes_aux, *shape, 3))
    assert loss.shape == shape
    assert all(g.shape == (*shape, 5) for g in gradients(loss, log_p, log_q))


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
def test_the_loss_of_each_row_can_be_weighted(method, takes_aux):
    log_p, log_q = densities(3, 5)
    aux = auxiliary(takes_aux, 3, 3)
    weights = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    plain = gradients(multisample_loss(log_p, log_q, method, log_w_aux=aux), log_p, log_q)
    weighted = gradients(weights * multisample_loss(log_p, log_q, method, log_w_aux=aux), log_p, log_q)
    torch.testing.assert_close(weighted, [weights.unsqueeze(-1) * g for g in plain])


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
def test_infinite_log_densities_make_no_nan(method, takes_aux):
    inf = math.inf
    log_p = torch.tensor([[0.0, -inf, 1.0], [-inf, -inf, -inf], [-inf, 0.0, -inf], [inf, 0.0, 0.0], [inf, inf, 0.0]])
    log_p, log_q = log_p.requires_grad_(), torch.zeros(5, 3, requires_grad=True)
    aux = torch.tensor([0.5, -inf]).expand(5, 2) if takes_aux else None
    loss = multisample_loss(log_p, log_q, method, log_w_aux=aux)
    assert not loss.isnan().any()
    assert not any(g.isnan().any() for g in gradients(loss, log_p, log_q))
    assert loss[1].item() == inf
    if not method.startswith(("tvo", "vae")):
        torch.testing.assert_close(loss[0].item(), -math.log((1 + math.e) / 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("method", "takes_aux"), LOSSES)
def test_a_nan_stays_in_its_row(method, takes_aux):
    log_p, log_q = densities(3, 5)
    with torch.no_grad():
        log_p[1, 2] = math.nan
    loss = multisample_loss(log_p, log_q, method, log_w_aux=auxiliary(takes_aux, 3, 3))
    assert loss.isnan().tolist() == [False, True, False]
    found = torch.cat(gradients(loss, log_p, log_q), -1).isnan().any(-1)
    assert found.tolist() == [False, method != "vae", False]  # whose factors do not depend on the log-weights


def test_log_densities_without_a_graph_give_a_value_without_a_graph():
    log_p, log_q = (x.detach() for x in densities(3, 5))
    assert not multisample_loss(log_p, log_q, "vimco").requires_grad


@pytest.mark.parametrize("method", [m for m, _ in LOSSES])
def test_shapes_that_differ_are_refused(method):
    with pytest.raises(ValueError, match=r"log_p and log_q must have one shape .*\(2, 3\) and \(3,\)"):
        multisample_loss(torch.zeros(2, 3), torch.zeros(3), method)
    with pytest.raises(ValueError, match=r"log_p must have shape \[\.\.\., K\] with K >= 1, got \(2, 0\)"):
        multisample_loss(torch.zeros(2, 0), torch.zeros(2, 0), method)
    with pytest.raises(ValueError, match="log_q must have shape"):
        multisample_loss(torch.zeros(2, 3), torch.tensor(0.0), method)


def test_integers_are_refused_by_name():
    for p, q, culprit in [(torch.int64, torch.float32, "log_p"), (torch.float32, torch.int32, "log_q")]:
        with pytest.raises(TypeError, match=f"{culprit} must be floating point"):
            multisample_loss(torch.zeros(3, dtype=p), torch.zeros(3, dtype=q), "vimco")
    with pytest.raises(TypeError, match="log_w_aux must be floating point"):
        multisample_loss(torch.zeros(3), torch.zeros(3), "ovis-S1", log_w_aux=torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("method", ["reinforce-baseline", "wake-sleep", "dreg"])
def test_a_method_that_needs_more_than_log_densities_is_refused(method):
    hint = "use doubly_reparameterized_loss" if method == "dreg" else "needs more than log-densities"
    with pytest.raises(ValueError, match=f"method '{method}'.*{hint}"):
        multisample_loss(torch.zeros(3), torch.zeros(3), method)


@pytest.mark.parametrize(
    ("method", "near"), [("vinco", "vimco"), ("ovis-gama1", "ovis-gamma1"), ("tvo-part5-beta2-lift", "tvo-part5-beta2")]
)
def test_an_unknown_method_is_refused_with_the_nearest(method, near):
    with pytest.raises(ValueError, match=f"{method}.*did you mean '{near}"):
        multisample_loss(torch.zeros(3), torch.zeros(3), method)


@pytest.mark.parametrize("method", [m for m, takes_aux in LOSSES if not takes_aux and m != "ovis-S2"])
def test_auxiliary_log_weights_that_are_not_used_are_refused(method):
    with pytest.raises(ValueError, match="takes no log_w_aux"):
        multisample_loss(torch.zeros(3), torch.zeros(3), method, log_w_aux=torch.zeros(2))


@pytest.mark.parametrize("method", ["ovis-S3-exclusive", "ovis-S0.5-exclusive", "ovis-S3", "ovis-S7", "ovis-S1.0"])
def test_auxiliary_log_weights_that_are_missing_are_refused(method):
    """More particles are advised only where the call then succeeds."""
    with pytest.raises(ValueError, match=f"method '{method}' with 3 particles: give log_w_aux") as refusal:
        multisample_loss(torch.zeros(3), torch.zeros(3), method)
    advice = re.search(r"or more than (\d+) particles", str(refusal.value))
    assert (advice is not None) == (method in ("ovis-S3", "ovis-S7"))
    if advice:
        enough = int(advice[1]) + 1
        multisample_loss(torch.zeros(enough), torch.zeros(enough), method)


@pytest.mark.parametrize("method", ["vimco", "vimco-geometric", "ovis-gamma0", "ovis-gamma1"])
def test_one_particle_is_refused_by_leave_one_out_methods(method):
    with pytest.raises(ValueError, match=r"K >= 2, got \(4, 1\)"):
        multisample_loss(torch.zeros(4, 1), torch.zeros(4, 1), method)


@pytest.mark.parametrize("method", ["reinforce", "rws", "tvo-part2-config1", "vae", "iwae", "stl"])
def test_one_particle_is_the_elbo_for_all_other_methods(method):
    log_p, log_q = densities(4, 1)
    torch.testing.assert_close(multisample_loss(log_p, log_q, method), (log_q - log_p).squeeze(-1))


@pytest.mark.parametrize("alpha", [1.0, 1.5, math.nan])
@pytest.mark.parametrize(("method", "takes_aux"), BOUNDED)
def test_alpha_of_one_or_more_is_refused(method, takes_aux, alpha):
    with pytest.raises(ValueError, match="alpha must be below 1"):
        multisample_loss(torch.zeros(2, 6), torch.zeros(2, 6), method, alpha, auxiliary(takes_aux, 2, 3))
    with pytest.raises(ValueError, match="alpha must be below 1"):
        multisample_loss(torch.zeros(2, 6), torch.zeros(2, 6), method, torch.tensor(alpha), auxiliary(takes_aux, 2, 3))


@pytest.mark.parametrize("alpha", [0.5, torch.tensor(0.0)])
@pytest.mark.parametrize("method", ["vae", *TVO])
def test_alpha_is_refused_where_there_is_none(method, alpha):
    with pytest.raises(ValueError, match=f"method '{method}' has no alpha"):
        multisample_loss(torch.zeros(2, 6), torch.zeros(2, 6), method, alpha)


# doubly reparameterized gradients, on a normal with five dimensions


class Normals:
    """q = N(mean, std) against an unnormalized normal p, in five dimensions, with a copy of q's parameters per row."""

    def __init__(self, rows: int, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mean = torch.tensor([0.3, -0.2, 0.1, 0.4, 0.0], dtype=torch.float64).repeat(rows, 1).requires_grad_()
        self.log_std = torch.tensor([0.1, -0.2, 0.0, 0.2, -0.1], dtype=torch.float64).repeat(rows, 1).requires_grad_()
        self.target = torch.tensor([0.0, 0.2, 0.3, -0.1, 0.2], dtype=torch.float64).repeat(rows, 1).requires_grad_()
        self.noise = torch.randn(rows, count, 5, generator=generator, dtype=torch.float64)
        self.z = self.mean.unsqueeze(1) + self.log_std.exp().unsqueeze(1) * self.noise

    def log_p(self) -> torch.Tensor:
        return -0.5 * (self.z - self.target.unsqueeze(1)).square().sum(-1) - 2.0

    def log_q(self, detached: bool = False) -> torch.Tensor:
        mean, log_std = self.mean.unsqueeze(1), self.log_std.unsqueeze(1)
        if detached:
            mean, log_std = mean.detach(), log_std.detach()
        return (-0.5 * ((self.z - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """Of each row's loss by q's parameters of that row, [rows, 10]."""
        return torch.cat(torch.autograd.grad(loss.sum(), (self.mean, self.log_std)), -1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("count", [1, 4])
def test_dreg_multiplies_the_path_of_each_sample_by_its_factor(count, alpha):
    model = Normals(7, count)
    log_p, log_q = model.log_p(), model.log_q(detached=True)
    v = normalized_weights((log_p - log_q).detach(), alpha)
    (slope,) = torch.autograd.grad((log_p - log_q).sum(), model.z, retain_graph=True)  # d log w_k / d z_k
    step = (alpha * v + (1 - alpha) * v * v).unsqueeze(-1) * slope
    expected = -torch.cat([step.sum(1), (step * (model.log_std.exp().unsqueeze(1) * model.noise)).sum(1)], -1)
    by_target = -(v.unsqueeze(-1) * (model.z - model.target.unsqueeze(1))).sum(1)  # grad log p has the factor v_k
    loss = doubly_reparameterized_loss(log_p, log_q, model.z, alpha)
    torch.testing.assert_close(loss.detach(), -iw_bound((log_p - log_q).detach(), alpha))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), model.target, retain_graph=True)[0], by_target)
    torch.testing.assert_close(model.gradient(loss), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_mean_of_dreg_is_that_of_the_pathwise_gradient_and_a_wrong_factor_would_show(alpha):
    rows, count = 20_000, 4
    model = Normals(rows, count, seed=3)
    pathwise = model.gradient(multisample_loss(model.log_p(), model.log_q(), "iwae", alpha))
    model = Normals(rows, count, seed=3)  # the hook on z stays: one loss, one z
    dreg = model.gradient(doubly_reparameterized_loss(model.log_p(), model.log_q(detached=True), model.z, alpha))
    model = Normals(rows, count, seed=3)
    wrong = model.gradient(multisample_loss(model.log_p(), model.log_q(detached=True), "stl", alpha))  # the factor v

    def deviations(found):
        """Of the mean from the pathwise one, in standard errors of their difference."""
        difference = found - pathwise
        return difference.mean(0) / (difference.std(0) / math.sqrt(rows))

    assert deviations(dreg).abs().max() < 4.5
    assert deviations(wrong).abs().max() > 20
    assert (dreg.var(0) < pathwise.var(0)).all()
    if alpha > 0:
        model = Normals(rows, count, seed=3)
        log_p, log_q = model.log_p(), model.log_q(detached=True)
        v = normalized_weights((log_p - log_q).detach(), alpha)
        untempered = model.gradient(-(v * v * (log_p - log_q)).sum(-1))  # v^2, which is right at alpha = 0
        assert deviations(untempered).abs().max() > 20


def test_pathwise_and_score_gradients_have_one_mean():
    rows = 20_000
    model = Normals(rows, 4, seed=5)
    pathwise = model.gradient(multisample_loss(model.log_p(), model.log_q(), "iwae"))
    for method in ("vimco", "vimco-geometric", "ovis-gamma0", "ovis-gamma1"):
        model = Normals(rows, 4, seed=5)
        model.z = model.z.detach()
        difference = model.gradient(multisample_loss(model.log_p(), model.log_q(), method)) - pathwise
        deviation = (difference.mean(0) / (difference.std(0) / math.sqrt(rows))).abs().max()
        assert deviation > 10 if method == "ovis-gamma1" else deviation < 4.5, method


def test_doubly_reparameterized_loss_refuses_what_it_cannot_use():
    z = torch.zeros(2, 3, 5, requires_grad=True)
    log_p, log_q = z.sum(-1), z.sum(-1)
    with pytest.raises(ValueError, match="z must be a reparameterized sample"):
        doubly_reparameterized_loss(log_p, log_q, z.detach())
    with pytest.raises(ValueError, match=r"must agree, got \(2, 3\), \(2, 3\), \(3, 2, 5\)"):
        doubly_reparameterized_loss(log_p, log_q, z.transpose(0, 1))
    with pytest.raises(ValueError, match=r"must agree, got \(2, 3\), \(3,\), \(2, 3, 5\)"):
        doubly_reparameterized_loss(log_p, log_q[0], z)
    with pytest.raises(ValueError, match="alpha must be below 1"):
        doubly_reparameterized_loss(log_p, log_q, z, 1.0)
    with pytest.raises(TypeError, match="log_p must be floating point"):
        doubly_reparameterized_loss(log_p.long(), log_q, z)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_gradient_of_stl_is_exactly_zero_where_q_is_the_posterior(alpha):
    mean = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    posterior = torch.distributions.Normal(mean.detach(), std.detach())
    found = {}
    for method, q in (("stl", posterior), ("iwae", torch.distributions.Normal(mean, std))):
        noise = torch.randn(9, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = mean + std * noise
        log_p = posterior.log_prob(z).sum(-1) - 7.5  # log p(x, z) = log p(z | x) + log p(x)
        found[method] = gradients(multisample_loss(log_p, q.log_prob(z).sum(-1), method, alpha), mean, std)
    assert all((g == 0).all() for g in found["stl"])
    assert all((g.abs() > 1e-3).all() for g in found["iwae"])


def test_signals_and_losses_agree_on_what_they_multiply():
    log_p, log_q = densities(3, 5)
    signal = learning_signal((log_p - log_q).detach(), "ovis-gamma0.123456789", 0.3)
    (by_q,) = gradients(multisample_loss(log_p, log_q, "ovis-gamma0.123456789", 0.3), log_q)
    assert torch.equal(by_q, -signal)
    torch.testing.assert_close(log_mean_exp(log_p), iw_bound(log_p))


def test_dreg_of_samples_in_half_precision() -> None:
    """Densities in float32 of samples in bfloat16, as a network in half precision draws them."""
    z = torch.tensor([0.5, -1.0], dtype=torch.bfloat16, requires_grad=True)
    wide = z.float()
    doubly_reparameterized_loss(-(wide**2), -wide, z).backward()
    weights = (-(wide**2) + wide).softmax(0)
    slope = -2 * wide + 1
    torch.testing.assert_close(z.grad, (-(weights**2) * slope).bfloat16(), rtol=0.02, atol=0)
