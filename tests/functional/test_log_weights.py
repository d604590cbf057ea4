"""Every function of log-weights against extended precision, at the limits of floating point, and with invalid input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from functional_cases import (
    DTYPES,
    FUNCTIONS,
    PLAIN_FUNCTIONS,
    SIGNALS,
    awkward_log_weights,
    moderate_log_weights,
    signal,
)
from mpmath import mp, mpf
from oracle import error, exact, oracle
from slow_cases import slow_except

from ovis.functional import (
    effective_sample_size,
    iw_bound,
    learning_signal,
    leave_one_out_log_mean_exp,
    log_mean_exp,
    multisample_loss,
    normalized_weights,
)

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-13}
NEAR_ONE = {
    torch.float32: [0.9, 0.99, 0.999, 1 - 2**-20, 1 - 2**-24],
    torch.float64: [0.9, 0.999, 1 - 1e-9, 1 - 2**-53],
}
ROWS_OF_CHECKS = [[0.0, 700.0, -1.0, 1.0], [0.0, -1000.0, -1.0, 1.0], [0.0, -1e-3, 2.5, 2.5]]


def is_right(actual: torch.Tensor, expected: torch.Tensor, alpha: float = 0.0) -> bool:
    """To rounding: 1e-5 in float32, relative or absolute, whichever is larger, times 1/(1 - alpha)."""
    return error(actual, expected) <= BOUNDS[actual.dtype] / (1 - alpha)


@pytest.mark.parametrize("count", slow_except([2, 5], [2, 3, 5, 50]))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_agrees_with_extended_precision(name, dtype, count):
    log_w, aux = awkward_log_weights(count, dtype)
    for alpha in (0.0, 0.3, 0.7, 0.99):
        for given in (alpha, torch.tensor(alpha, dtype=dtype)):
            order = float(given)  # a tensor has the value that its own precision can hold
            actual = FUNCTIONS[name](log_w, given, aux)
            assert actual.dtype == dtype
            assert is_right(actual, oracle(log_w, order, aux)[name], order), (alpha, type(given))


@pytest.mark.parametrize("count", [2, 3, 5, 50])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PLAIN_FUNCTIONS)
def test_function_without_alpha_agrees_with_extended_precision(name, dtype, count):
    log_w, aux = awkward_log_weights(count, dtype)
    assert is_right(PLAIN_FUNCTIONS[name](log_w, 0.0, aux), oracle(log_w, 0.0, aux)[name])


@pytest.mark.parametrize("name", ["bound", "weights", "ess", "prefactor", "signal reinforce", "signal rws"])
def test_one_particle_agrees_with_extended_precision(name):
    log_w, aux = torch.tensor([[3.5], [-1e4], [-math.inf]]), torch.zeros(3, 1)
    for alpha in (0.0, 0.7):
        assert is_right(FUNCTIONS[name](log_w, alpha, aux), oracle(log_w, alpha, aux)[name], alpha)


@pytest.mark.parametrize("name", ["signal ovis-S"])
def test_one_particle_with_auxiliary_samples_agrees_with_extended_precision(name):
    log_w, aux = torch.tensor([[3.5], [-1e4]]), torch.tensor([[0.0, 1.0], [20.0, -1e4]])
    for alpha in (0.0, 0.7):
        assert is_right(FUNCTIONS[name](log_w, alpha, aux), oracle(log_w, alpha, aux)[name], alpha)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_codes_clamp_differs_from_the_right_value(dtype):
    log_w = torch.tensor(ROWS_OF_CHECKS[:1], dtype=dtype)
    total, count = log_w.logsumexp(-1, keepdim=True), log_w.shape[-1]
    rest = (1 - (log_w - total).exp()).clamp(min=torch.finfo(torch.float32).eps)
    clamped = total - math.log(count) - ((1 - 1 / count) / rest).log()
    right = oracle(log_w)["control variate vimco"]
    assert clamped[0, 1].item() == pytest.approx(682.96, abs=0.01)
    assert not is_right(clamped, right)
    assert is_right(leave_one_out_log_mean_exp(log_w), right)
    assert leave_one_out_log_mean_exp(log_w)[0, 1].item() == pytest.approx(0.3089936757762706, rel=1e-6)


def test_table_of_leave_one_out_values_to_all_printed_digits():
    log_w = torch.tensor(ROWS_OF_CHECKS, dtype=torch.float64)
    mean = [698.6137056388801, 0.021311603324489687, 1.8857046428822115]
    others = [
        [698.9013877113318, 0.3089936757762706, 698.9013877113318, 698.9013877113318],
        [0.028315722374862805, 0.3089936757762706, 0.21464939885011314, -0.7853506011498869],
        [2.1347181006658777, 2.1347575061591013, 1.5533256190219213, 1.5533256190219213],
    ]
    geometric = [
        [698.6137056388801, 0.24022901391655505, 698.6137056388801, 698.6137056388801],
        [-0.2593663500769181, 0.24022901391655505, -0.07303267360166779, -1.0730326736016678],
        [2.036557329012963, 2.0366474858212595, 1.4159565249662749, 1.4159565249662749],
    ]
    for function, expected in [
        (log_mean_exp, mean),
        (leave_one_out_log_mean_exp, others),
    ]:
        # two roundings of numbers near 1.4, whose difference one of these values is
        np.testing.assert_allclose(function(log_w), expected, rtol=4e-16, atol=4.5e-16)
    exact_values = oracle(log_w)
    for name, expected in [("bound", mean), ("vimco", others), ("vimco-geometric", geometric)]:
        name = name if name == "bound" else f"control variate {name}"
        assert exact_values[name].tolist() == expected, "the oracle itself, to the last digit"


@pytest.mark.parametrize("count", slow_except([1000], [1000, 100_000]))
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 30.0, 1e3, 1e4])
def test_many_particles_in_float32_agree_with_float64(spread, count):
    """float64 itself is held to extended precision below; its K = 1e5 takes seconds there, not milliseconds."""
    log_w = spread * torch.rand(2, count, generator=torch.Generator().manual_seed(count))
    log_w[0] += 1e4
    log_w[1, ::7] = -math.inf
    aux = log_w[:, 5:8] + 1.0
    for name, function in FUNCTIONS.items():
        for alpha in (0.0, 0.7):
            found, expected = function(log_w, alpha, aux), function(log_w.double(), alpha, aux.double())
            assert is_right(found, expected, alpha), (name, alpha)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("bound", "ess")])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_many_particles_in_float64_agree_with_extended_precision_on_a_few(name, spread, many):
    log_w, aux, few, expected = many(spread)
    assert error(FUNCTIONS[name](log_w, 0.0, aux)[few], expected[name]) <= 1e-12


@pytest.fixture(scope="module")
def many():
    """K = 1e5 log-weights, and for a few of the particles every value in extended precision."""
    found = {}

    def build(spread):
        if spread not in found:
            generator = torch.Generator().manual_seed(1)
            log_w = spread * torch.rand(100_000, generator=generator, dtype=torch.float64)
            aux = log_w[:2] + 1.0
            few = torch.cat(
                [log_w.argsort()[[0, 50_000, -2, -1]], torch.randint(len(log_w), (6,), generator=generator)]
            )
            found[spread] = log_w, aux, few, values_of_a_few(log_w, aux, few)
        return found[spread]

    return build


def values_of_a_few(log_w, aux, few):
    w = [mp.exp(exact(x)) for x in log_w.tolist()]
    u = [mp.exp(exact(x)) for x in aux.tolist()]
    count, total, log_sum = len(w), mp.fsum(w), mp.fsum(mpf(x) for x in log_w.tolist())
    bound, values = mp.log(total / count), {}
    for k in few.tolist():
        others, v = mp.fsum(w[:k] + w[k + 1 :]), w[k] / total
        mean = (log_sum - exact(log_w[k].item())) / (count - 1)
        c = {
            "reinforce": mpf(0),
            "vimco": mp.log(others / (count - 1)),
            "vimco-geometric": mp.log((others + mp.exp(mean)) / count),
            "ovis-S": mp.fsum(mp.log((others + s) / count) - s / (others + s) for s in u) / len(u),
        }
        for gamma in (0.0, 0.5, 1.0):
            c[f"ovis-gamma{gamma:g}"] = c["vimco"] - gamma * v + (1 - gamma) * mp.log(1 - mpf(1) / count)
        row = {"weights": v, "prefactor": bound - v, "signal rws": v}
        for name, value in c.items():
            row |= {f"control variate {name}": value, f"signal {name}": bound - v - value}
        for name, value in row.items():
            values.setdefault(name, []).append(float(value))
    return {name: torch.tensor(column, dtype=torch.float64) for name, column in values.items()}


@pytest.mark.parametrize("spread", slow_except([30.0], [1e-3, 1.0, 30.0]))
@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma0_signal_of_every_one_of_1e5_particles_is_relatively_right(dtype, spread):
    log_w = (spread * torch.rand(100_000, generator=torch.Generator().manual_seed(0))).to(dtype)
    w = log_w.double().exp().numpy().astype(np.longdouble)
    before = np.concatenate([[0], np.cumsum(w)[:-1]])
    after = np.concatenate([np.cumsum(w[::-1])[::-1][1:], [0]])
    ratio = w / (before + after)  # v/(1 - v): the signal is log(1 + ratio) - ratio/(1 + ratio)
    small = sum((-1) ** n * (1 - 1 / np.longdouble(n)) * ratio**n for n in range(2, 12))
    expected = np.where(ratio < 0.01, small, np.log1p(ratio) - ratio / (1 + ratio))
    found = learning_signal(log_w, "ovis-gamma0").double().numpy()
    smallest = torch.finfo(dtype).tiny
    assert (expected > smallest).mean() > 0.9
    error = np.abs(found - expected)
    assert (error <= 1e-3 * expected + smallest).all()
    # float32 rounds the bound and the control variate to 1e-7: as their difference the signal is noise
    control_variate = leave_one_out_log_mean_exp(log_w) + math.log1p(-1 / len(log_w))
    differences = FUNCTIONS["prefactor"](log_w, 0.0, log_w) - control_variate
    if dtype == torch.float32:
        assert (np.abs(differences.double().numpy() - expected) > 1e-3 * expected + smallest).mean() > 0.9


@pytest.mark.parametrize(
    "method", ["vimco", "vimco-geometric", "ovis-gamma0", "ovis-gamma0.5", "ovis-gamma1", "ovis-S"]
)
def test_signals_of_an_enormous_spread_stay_finite_and_right(method):
    log_w = torch.tensor([[0.0, -3e4, -1e5], [1e30, 0.0, -1e30], [3e38, 0.0, -3e38]], dtype=torch.float32)
    aux = torch.tensor([[1.0], [2.0], [3.0]])
    found = signal(log_w, method, 0.0, aux)
    assert not found.isnan().any()
    assert is_right(found[0], oracle(log_w[:1], 0.0, aux[:1])[f"signal {method}"][0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_nan_fills_its_row_and_no_other(name, dtype):
    log_w, aux = moderate_log_weights(4, 5).to(dtype), moderate_log_weights(4, 3, seed=1).to(dtype)
    clean = FUNCTIONS[name](log_w, 0.3, aux)
    for position in range(5):
        spoiled = log_w.clone()
        spoiled[2, position] = math.nan
        spoiled[1, position] = -math.inf
        found = FUNCTIONS[name](spoiled, 0.3, aux)
        assert found[2].isnan().all()
        assert not found[:2].isnan().any()
        torch.testing.assert_close(found[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("name", ["signal ovis-S"])
def test_a_nan_among_the_auxiliary_log_weights_fills_its_row_and_no_other(name):
    log_w, aux = moderate_log_weights(3, 5), moderate_log_weights(3, 4, seed=1)
    aux[1, 2] = math.nan
    assert FUNCTIONS[name](log_w, 0.3, aux).isnan().any(-1).tolist() == [False, True, False]
    assert FUNCTIONS[name](log_w, 0.3, aux)[1].isnan().all()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_infinities_never_make_a_nan(name, count):
    """Every row of -inf, 0, 1 and +inf. The one exception: auxiliary samples of both infinities, whose mean is none."""
    values = torch.tensor([-math.inf, 0.0, 1.0, math.inf])
    log_w = torch.cartesian_prod(*[values] * count)
    for one in values:
        for alpha in (0.0, 0.7):
            assert not FUNCTIONS[name](log_w, alpha, one.expand(len(log_w), 2)).isnan().any()


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_gradient_of_the_bound_is_the_normalized_weights(count, alpha):
    log_w = (moderate_log_weights(4, count) * 100).requires_grad_()
    (gradient,) = torch.autograd.grad(iw_bound(log_w, alpha).sum(), log_w)
    torch.testing.assert_close(gradient, normalized_weights(log_w.detach(), alpha))


@pytest.mark.parametrize(
    "function", [log_mean_exp, lambda w: iw_bound(w, 0.7), lambda w: iw_bound(w, torch.tensor(0.7))]
)
def test_gradients_at_infinite_log_weights_are_never_nan(function):
    values = torch.tensor([-math.inf, 0.0, 1.0, math.inf])
    log_w = torch.cartesian_prod(*[values] * 4).requires_grad_()
    (gradient,) = torch.autograd.grad(function(log_w).sum(), log_w)
    assert not gradient.isnan().any()
    assert (gradient[log_w == -math.inf] == 0).all()
    finite = log_w.amax(-1).isfinite()
    torch.testing.assert_close(gradient[finite].sum(-1), torch.ones(int(finite.sum())))


def test_all_zero_weights_have_the_bound_minus_infinity_and_equal_weights():
    log_w = torch.full((4,), -math.inf)
    assert log_mean_exp(log_w).item() == -math.inf
    assert normalized_weights(log_w).tolist() == [0.25] * 4
    assert effective_sample_size(log_w).item() == 4


def test_effective_sample_size_lies_between_one_and_the_number_of_particles():
    assert effective_sample_size(torch.zeros(7)).item() == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, 1000.0, -1000.0])).item() == 1
    middle = effective_sample_size(moderate_log_weights(100, 7))
    assert ((middle > 1) & (middle < 7)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 1, 3)])
def test_any_leading_shape_is_kept(name, shape):
    log_w, aux = moderate_log_weights(*shape, 4), moderate_log_weights(*shape, 3, seed=1)
    found = FUNCTIONS[name](log_w, 0.3, aux)
    assert found.shape == (shape if name in ("bound", "ess") else (*shape, 4))
    rows = FUNCTIONS[name](log_w.reshape(-1, 4), 0.3, aux.reshape(-1, 3))
    torch.testing.assert_close(found, rows.reshape(found.shape))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_permuting_the_particles_permutes_the_values(name):
    log_w, aux = awkward_log_weights(5, torch.float64)
    order = torch.tensor([3, 0, 4, 2, 1])
    found, moved = FUNCTIONS[name](log_w, 0.3, aux), FUNCTIONS[name](log_w[:, order], 0.3, aux)
    torch.testing.assert_close(moved, found if name in ("bound", "ess") else found[:, order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_common_offset_moves_bounds_by_it_and_leaves_weights_and_signals(name):
    """The offset is a power of two, far above the log-weights' own size, and costs them no digits."""
    log_w, aux = moderate_log_weights(6, 5).float().round(decimals=1).mul(8).round().div(8), torch.ones(6, 2)
    moved, plain = (FUNCTIONS[name](x, 0.3, a) for x, a in ((log_w + 8192, aux + 8192), (log_w, aux)))
    if name in ("bound", "prefactor", "signal reinforce"):
        plain = plain + 8192
        torch.testing.assert_close(moved, plain, rtol=2e-7, atol=0)
    else:
        assert torch.equal(moved, plain)


def test_alpha_zero_is_the_importance_weighted_bound():
    log_w = moderate_log_weights(9, 6)
    torch.testing.assert_close(iw_bound(log_w), log_w.logsumexp(-1) - math.log(6))
    torch.testing.assert_close(iw_bound(log_w), log_mean_exp(log_w))


def test_alpha_near_one_is_the_mean_log_weight():
    log_w = moderate_log_weights(9, 6)
    found = iw_bound(log_w, 1 - 1e-7)
    torch.testing.assert_close(found, log_w.mean(-1), rtol=1e-5, atol=1e-5)
    assert (iw_bound(log_w, 0.5) - log_w.mean(-1) > 0.01).all()


def bound_and_weights(row, alpha):
    """In extended precision; an infinite log-weight is a weight of 0."""
    rest = 1 - mpf(alpha)
    weights = [mpf(0) if x == -math.inf else mp.exp(rest * mpf(x)) for x in row]
    total = mp.fsum(weights)
    return float(mp.log(total / len(row)) / rest), [float(weight / total) for weight in weights]


@pytest.mark.parametrize("count", [2, 5, 300])
@pytest.mark.parametrize(("dtype", "alpha"), [(dtype, a) for dtype in DTYPES for a in NEAR_ONE[dtype]])
def test_the_bound_near_alpha_one_loses_no_digits(dtype, alpha, count):
    """Nor do its gradients, v_k; for any spread, with weights of zero, and many of nearly zero."""
    log_w = torch.stack([moderate_log_weights(count) * spread for spread in (0.0, 0.01, 1.0, 10.0, 1000.0, 1e6)] * 2)
    log_w[6, 0] = log_w[7, -1] = -math.inf
    log_w[8, 1:] = -1e9
    log_w = log_w.to(dtype)
    for given in (alpha, torch.tensor(alpha, dtype=dtype)):
        order = float(given)
        if order >= 1:  # as a tensor of this precision
            continue
        bounds, weights = zip(*(bound_and_weights(row, order) for row in log_w.tolist()), strict=True)
        leaf = log_w.clone().requires_grad_()
        bound, expected = iw_bound(leaf, given), torch.tensor(bounds, dtype=torch.float64)
        scale = torch.maximum(expected.abs(), log_w.double().nan_to_num(neginf=0.0).abs().amax(-1))
        assert ((bound.double() - expected).abs() <= 8 * torch.finfo(dtype).eps * scale).all()
        (gradient,) = torch.autograd.grad(bound.sum(), leaf)
        error_of_weights = (gradient.double() - torch.tensor(weights, dtype=torch.float64)).abs().max()
        assert error_of_weights <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize(("dtype", "alpha"), [(dtype, a) for dtype in DTYPES for a in NEAR_ONE[dtype]])
def test_the_signals_near_alpha_one_lose_no_digits(dtype, alpha, count):
    """For few particles and for many, with tiny weights, and with one weight far above the others, or the auxiliary."""
    spreads = (0.0, 0.01, 1.0, 10.0, 1e5)
    log_w = torch.stack([moderate_log_weights(count) * spread for spread in spreads] * 2)
    aux = torch.stack([moderate_log_weights(2, seed=1) * spread for spread in spreads] * 2)
    log_w[6, 0], log_w[7, -1], log_w[8, 0], aux[9] = -1e6, 30.0, 1e6, 1e6
    log_w, aux = log_w.to(dtype), aux.to(dtype)
    scale = torch.cat([log_w, aux], -1).double().abs().amax(-1, keepdim=True).clamp(min=1.0)
    for given in (alpha, torch.tensor(alpha, dtype=dtype)):
        order = float(given)
        if order >= 1:  # as a tensor of this precision
            continue
        expected = oracle(log_w, order, aux)
        for method in SIGNALS:
            found, right = FUNCTIONS[f"signal {method}"](log_w, given, aux).double(), expected[f"signal {method}"]
            assert ((found - right).abs() <= 8 * torch.finfo(dtype).eps * scale).all(), (method, type(given))


def test_one_particle_is_the_elbo():
    log_w = moderate_log_weights(9, 1)
    for alpha in (0.0, 0.5):
        assert torch.equal(iw_bound(log_w, alpha), log_w.squeeze(-1))


def test_the_bound_falls_with_alpha():
    log_w = moderate_log_weights(9, 6)
    bounds = torch.stack([iw_bound(log_w, alpha) for alpha in (0.0, 0.1, 0.5, 0.9, 0.999)])
    assert (bounds.diff(dim=0) < 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_log_weights_is_refused(name):
    function, aux = FUNCTIONS[name], torch.zeros(2)
    with pytest.raises(TypeError, match=r"log_w must be floating point, got torch\.int64"):
        function(torch.arange(4), 0.0, aux)
    with pytest.raises(ValueError, match=r"log_w must have shape \[\.\.\., K\] with K >= 1|K >= 2"):
        function(torch.tensor(0.0), 0.0, aux)
    with pytest.raises(ValueError, match=r"log_w must have shape \[\.\.\., K\].*got \(3, 0\)"):
        function(torch.zeros(3, 0), 0.0, aux)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "ess"])
@pytest.mark.parametrize("alpha", [1.0, 1, 2.5, math.nan, math.inf])
def test_alpha_of_one_or_more_is_refused(name, alpha):
    with pytest.raises(ValueError, match="alpha must be below 1"):
        FUNCTIONS[name](torch.zeros(2, 3), alpha, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="alpha must be below 1"):
        FUNCTIONS[name](torch.zeros(2, 3), torch.tensor(alpha), torch.zeros(2, 2))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "ess"])
def test_an_alpha_that_can_t_be_read_makes_the_result_nan(name):
    """Mapped, as on a device: an exception would need the number."""
    log_w, aux = moderate_log_weights(2, 3), torch.zeros(2, 2, dtype=torch.float64)
    found = torch.func.vmap(lambda alpha: FUNCTIONS[name](log_w, alpha, aux))(torch.tensor([0.3, 1.0, 1.5, math.nan]))
    torch.testing.assert_close(found[0], FUNCTIONS[name](log_w, 0.3, aux), rtol=1e-6, atol=1e-6)
    assert found[1:].isnan().all()


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "ess"])
def test_alpha_with_dimensions_is_refused(name):
    with pytest.raises(ValueError, match=r"alpha must be a float or a tensor without dimensions, got shape \(2,\)"):
        FUNCTIONS[name](torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 2))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "vimco" in n or "gamma" in n])
def test_leave_one_out_of_one_particle_is_refused(name):
    with pytest.raises(ValueError, match=r"log_w must have shape \[\.\.\., K\] with K >= 2, got \(5, 1\)"):
        FUNCTIONS[name](torch.zeros(5, 1), 0.0, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="K >= 2"):
        leave_one_out_log_mean_exp(torch.zeros(1))


@pytest.mark.parametrize("name", ["signal ovis-S"])
def test_auxiliary_log_weights_that_do_not_fit_are_refused(name):
    function = FUNCTIONS[name]
    for shape in [(3, 2), (2, 4, 2)]:
        with pytest.raises(ValueError, match="log_w_aux must have shape"):
            function(torch.zeros(4, 5), 0.0, torch.zeros(shape))
    with pytest.raises(ValueError, match=r"log_w_aux must have shape .* got \(4, 0\)"):
        learning_signal(torch.zeros(4, 5), "ovis-S1", 0.0, torch.zeros(4, 0))
    with pytest.raises(TypeError, match="log_w_aux must be floating point"):
        function(torch.zeros(4, 5), 0.0, torch.zeros(4, 2, dtype=torch.int32))
    shared = function(moderate_log_weights(4, 5), 0.0, torch.zeros(2))  # one set of samples for all rows will do
    assert torch.equal(shared, function(moderate_log_weights(4, 5), 0.0, torch.zeros(4, 2)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_hundred_thousand_particles_need_no_square_matrix(name):
    """[K, K] would be 40 GB; the limit on the largest intermediate is checked by torch's own dispatch."""
    count, samples = 100_000, 10
    with LargestTensor() as largest:
        FUNCTIONS[name](torch.randn(count, generator=torch.Generator().manual_seed(0)), 0.3, torch.zeros(samples))
    assert largest.numel <= count * (samples if "ovis-S" in name else 1)


@pytest.mark.parametrize(
    "method", ["reinforce", "vimco-geometric", "ovis-gamma1", "ovis-S10", "tvo-part5-config2", "iwae"]
)
def test_a_loss_of_a_hundred_thousand_particles_needs_no_square_matrix(method):
    log_p = torch.randn(100_000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with LargestTensor() as largest:
        multisample_loss(log_p, torch.zeros_like(log_p), method).backward()
    assert log_p.grad.isfinite().all()
    assert largest.numel <= log_p.numel() * (10 if method == "ovis-S10" else 1)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out
