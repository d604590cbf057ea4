"""BernoulliVector against torch's Bernoulli."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch.distributions import Bernoulli, Independent

from ovis.models.distributions import BernoulliVector

#: logits, value, dimensions of an event
SHAPES = [
    ((4,), (4,), 1),
    ((3, 4), (3, 4), 1),
    ((3, 4), (4,), 1),
    ((4,), (3, 4), 1),
    ((1, 4), (3, 4), 1),
    ((3, 4), (1, 4), 1),
    ((1, 4), (1, 4), 1),
    ((2, 1, 4), (2, 5, 4), 1),
    ((2, 5, 4), (2, 1, 4), 1),
    ((1, 1, 4), (2, 5, 4), 1),
    ((2, 1, 4), (1, 5, 4), 1),
    ((2, 5, 4), (5, 4), 1),
    ((1, 5, 4), (2, 5, 4), 1),
    ((2, 3, 5, 4), (2, 1, 5, 4), 1),
    ((2, 5, 1, 2, 2), (2, 1, 1, 2, 2), 3),
    ((2, 1, 1, 2, 2), (2, 5, 1, 2, 2), 3),
    ((2, 5, 3, 2, 2), (3, 2, 2), 3),
]


@pytest.fixture(autouse=True, params=["few", "many"])
def size(request, monkeypatch):
    """Few numbers are torch's affair, many our own: both are tested on the same ones."""
    if request.param == "many":
        monkeypatch.setattr("ovis.functional.bernoulli.FEW", 0)


def pair(logits, value, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(logits, generator=generator, dtype=dtype)
    value = (torch.rand(value, generator=generator) < 0.5).to(dtype)
    return logits.requires_grad_(), value.requires_grad_()


def reference(logits, event_dims):
    return Independent(Bernoulli(logits=logits, validate_args=False), event_dims)


@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("logits", "value", "event_dims"), SHAPES)
def test_log_prob_and_its_gradients(logits, value, event_dims, dtype, finite):
    logits, value = pair(logits, value, dtype)
    got = BernoulliVector(logits, event_dims, finite).log_prob(value)
    # torch's binary cross-entropy wants equal shapes and the linear form to differentiate the value
    a, b = torch.broadcast_tensors(logits, value)
    want = reference(a, event_dims).log_prob(b)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for g, w in zip(
        torch.autograd.grad((got * weights).sum(), (logits, value)),
        torch.autograd.grad((want * weights).sum(), (logits, value)),
        strict=True,
    ):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("logits", "value", "event_dims"), SHAPES)
def test_log_prob_without_graph(logits, value, event_dims, dtype):
    logits, value = (tensor.detach() for tensor in pair(logits, value, dtype))
    for relaxed in (value, 0.8 * value + 0.1):  # relaxed samples are not binary
        a, b = torch.broadcast_tensors(logits.double(), relaxed.double())
        want = reference(a, event_dims).log_prob(b)
        with torch.no_grad():
            got = BernoulliVector(logits, event_dims).log_prob(relaxed)
        assert got.dtype == dtype
        torch.testing.assert_close(got, want.to(dtype))


@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("graph", [True, False])
def test_many_terms_lose_no_digits_to_each_other(graph, finite):
    """Images of hundreds of confident pixels, one of which is wrong: the sums of either sign are in the thousands."""
    logits = 25 * (2 * (torch.rand(50, 784) < 0.5).float() - 1)
    value = (logits > 0).float()
    value[:, 7] = 1 - value[:, 7]
    want = reference(logits.double(), 1).log_prob(value.double())
    with torch.set_grad_enabled(graph):
        got = BernoulliVector(logits, finite=finite).log_prob(value).double()
    assert (got - want).abs().max() < 5e-6
    assert (want + 25).abs().max() < 1e-6


@pytest.mark.parametrize("graph", [True, False])
def test_extreme_logits_are_finite(graph):
    logits = torch.tensor([-2e4, 2e4, -2e4, 2e4])
    value = torch.tensor([0.0, 1.0, 1.0, 0.0])
    with torch.set_grad_enabled(graph):
        assert BernoulliVector(logits[:2]).log_prob(value[:2]) == 0
        assert BernoulliVector(logits[2:]).log_prob(value[2:]) == -4e4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("size", [30.0, 1e3, 6e4, 1e7, 1e20, 3e38])
@pytest.mark.parametrize("shared", ["logits", "logits of all rows", "value", "neither", "mixed", "vmap"])
def test_large_logits_take_no_digits_from_the_others(shared, size, finite, dtype):
    """Some variables with large logits have their probable values; in the last row, one has not."""
    if size > torch.finfo(dtype).max:
        pytest.skip("infinite in this type")
    lead, value_lead = {
        "logits": ((2, 1), (2, 4)), "logits of all rows": ((), (2, 4)), "value": ((2, 4), (2, 1)),
        "neither": ((2, 4), (2, 4)), "mixed": ((2, 1), (1, 4)), "vmap": ((2, 1), (2, 4)),
    }[shared]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    large = torch.tensor([size, -size, size / 2, -size / 3])
    logits = torch.cat([large.expand(*lead, 4), 2 * torch.randn(*lead, 7, generator=generator)], -1)
    value = torch.cat(
        [(large > 0).float().expand(*value_lead, 4), (torch.rand(*value_lead, 7, generator=generator) < 0.5).float()],
        -1,
    )
    value[..., -1, 2] = 0.0
    logits, value = logits.to(dtype).requires_grad_(), value.to(dtype)
    log_prob = lambda a, v: BernoulliVector(a, finite=finite).log_prob(v)  # noqa: E731
    got = (torch.func.vmap(log_prob) if shared == "vmap" else log_prob)(logits, value)
    exact = logits.detach().double().requires_grad_()
    want = -torch.nn.functional.softplus((1 - 2 * value.double()) * exact, threshold=700).sum(-1)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=2e-6)
    weights = torch.rand(got.shape, generator=generator)
    (gradient,) = torch.autograd.grad((weights.to(got.dtype) * got).sum(), logits)
    (right,) = torch.autograd.grad((weights.double() * want).sum(), exact)
    torch.testing.assert_close(gradient, right.to(dtype), rtol=max(1e-5, 2 * torch.finfo(dtype).eps), atol=2e-6)


def test_a_logit_and_its_opposite_of_many_sizes():
    """Against mpmath, with 60 digits: one variable of each size, 200 of them, so that sums of all would cancel."""
    mpmath.mp.dps = 60
    logits = torch.logspace(-3, 38, 100).repeat(2) * torch.tensor([1.0, -1.0]).repeat_interleave(100)
    value = (logits > 0).float().repeat(3, 1)
    value[1, :20] = 0.0
    value[2, 40:] = 1 - value[2, 40:]
    exact = [
        float(
            -sum(
                mpmath.log1p(mpmath.exp((1 - 2 * int(v)) * mpmath.mpf(x)))
                for x, v in zip(logits.tolist(), row, strict=True)
            )
        )
        for row in value
    ]
    for found in (BernoulliVector(logits[None]).log_prob(value), BernoulliVector(logits.repeat(3, 1)).log_prob(value)):
        assert found.tolist() == pytest.approx(exact, rel=1e-6)


#: logit and value of each certain variable -> their log-density
CERTAIN = [
    ([], [], 0.0),
    ([math.inf], [1.0], 0.0),
    ([-math.inf], [0.0], 0.0),
    ([math.inf, -math.inf, math.inf, -math.inf], [1.0, 0.0, 1.0, 0.0], 0.0),
    ([math.inf], [0.0], -math.inf),
    ([-math.inf], [1.0], -math.inf),
    ([math.inf, -math.inf], [0.0, 1.0], -math.inf),
    ([math.inf, -math.inf, math.inf], [1.0, 1.0, 1.0], -math.inf),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("shared", ["neither", "logits", "value", "vmap"])
@pytest.mark.parametrize(("certain", "value", "expected"), CERTAIN)
def test_infinite_logits_are_certain(certain, value, expected, shared, graph, dtype):
    """Beside 7 other variables, whose digits and gradients stay."""
    generator = torch.Generator().manual_seed(0)
    rows = 1 if shared == "logits" else 5
    logits = torch.cat(
        [torch.tensor(certain).expand(3, rows, -1), 4 * torch.randn(3, rows, 7, generator=generator)], -1
    )
    rows = 1 if shared == "value" else 5
    z = (torch.rand(3, rows, 7, generator=generator) < 0.5).float()
    z = torch.cat([torch.tensor(value).expand(3, rows, -1), z], -1)
    logits, z = logits.to(dtype).requires_grad_(graph), z.to(dtype)
    log_prob = lambda a, v: BernoulliVector(a).log_prob(v)  # noqa: E731
    got = (torch.func.vmap(log_prob) if shared == "vmap" else log_prob)(logits, z)
    rest, of_rest = logits[..., len(certain) :].detach().double(), z[..., len(certain) :].double()
    rest, of_rest = torch.broadcast_tensors(rest, of_rest)
    want = reference(rest, 1).log_prob(of_rest) + expected
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=5e-6)
    if not graph:
        return
    weights = torch.rand(got.shape, generator=generator).to(got.dtype)
    (gradient,) = torch.autograd.grad((weights * got).sum(), logits)
    assert not gradient.isnan().any()
    if expected == 0:
        right = (weights.unsqueeze(-1) * (z.double() - logits.detach().double().sigmoid())).sum_to_size(logits.shape)
        torch.testing.assert_close(gradient.double(), right, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize("graph", [True, False])
def test_only_certain_variables(graph):
    logits = torch.tensor([math.inf, -math.inf, math.inf, -math.inf]).expand(2, 3, 4).clone().requires_grad_(graph)
    right = (logits.detach() > 0).float()
    assert (BernoulliVector(logits).log_prob(right) == 0).all()
    assert (BernoulliVector(logits[:, :1]).log_prob(right) == 0).all()
    assert (BernoulliVector(logits).log_prob(1 - right) == -math.inf).all()
    assert (BernoulliVector(logits[:, :1]).log_prob(1 - right) == -math.inf).all()
    assert torch.equal(BernoulliVector(logits).sample(), right)
    assert (BernoulliVector(logits).entropy() == 0).all()


@pytest.mark.parametrize("shared", ["logits", "neither"])
def test_a_logit_that_is_no_number_is_noticed(shared):
    logits = torch.tensor([[[0.0, math.nan]]]).expand(1, 1 if shared == "logits" else 2, 2)
    assert BernoulliVector(logits).log_prob(torch.zeros(1, 2, 2)).isnan().all()


def test_the_value_of_a_certain_variable_has_a_gradient():
    value = torch.tensor([1.0, 0.5], requires_grad=True)
    logits = torch.tensor([math.inf, 0.25], requires_grad=True)
    (zero,) = torch.autograd.grad(0 * BernoulliVector(logits).log_prob(value), value)
    assert not zero.isnan().any()


@pytest.mark.parametrize("count", [1, 7, 16, 17, 31, 64, 97, 200, 784, 2048])
def test_any_number_of_variables(count):
    """Logarithms are taken of products: of as many factors as divide the number evenly, all of them 1/2 at worst."""
    logits = 4 * torch.randn(3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    logits[0] = 0
    value = (logits > 1).double()
    expected = reference(logits, 1).log_prob(value)
    torch.testing.assert_close(BernoulliVector(logits).log_prob(value), expected)
    found = BernoulliVector(logits.float()).log_prob(value.float())
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    logits = torch.randn(5, 784, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    value = (torch.rand(784, generator=torch.Generator().manual_seed(1)) < 0.5).to(dtype)
    found = BernoulliVector(logits).log_prob(value)
    assert found.dtype == torch.float32
    expected = reference(logits.detach().double(), 1).log_prob(value.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, (value - logits.detach().float().sigmoid()).to(dtype))


def test_first_and_second_derivatives_equal_the_closed_form():
    """log p = v l - log(1 + exp(l)), s = sigmoid(l): first v - s in l and l in v; second -s (1 - s), and 1 in both."""
    logits, value = pair((2, 3, 6), (2, 1, 6), torch.float64)
    relaxed = (0.8 * value.detach() + 0.1).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    outer = torch.randn(2, 3, 1, generator=generator, dtype=torch.float64)  # gradient of each log-density
    inner = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)  # of each first derivative
    s = logits.detach().sigmoid()
    for graph in (False, True):
        total = (outer.squeeze(-1) * BernoulliVector(logits).log_prob(relaxed)).sum()
        first = torch.autograd.grad(total, (logits, relaxed), create_graph=graph)
        torch.testing.assert_close(first[0], outer * (relaxed - s))
        torch.testing.assert_close(first[1], (outer * logits).sum(1, keepdim=True))
    of_logits = torch.autograd.grad((inner * first[0]).sum(), (logits, relaxed), retain_graph=True)
    torch.testing.assert_close(of_logits[0], -inner * outer * s * (1 - s))
    torch.testing.assert_close(of_logits[1], (inner * outer).sum(1, keepdim=True))
    (of_value,) = torch.autograd.grad((inner[:, :1] * first[1]).sum(), logits)
    torch.testing.assert_close(of_value, inner[:, :1] * outer.expand_as(s))
    function = lambda a, v: BernoulliVector(a).log_prob(v)  # noqa: E731
    assert torch.autograd.gradcheck(function, (logits, relaxed))
    assert torch.autograd.gradgradcheck(function, (logits, relaxed))


def test_the_logits_are_left_alone_and_may_be_differentiated_twice():
    logits, value = pair((3, 8), (3, 8), torch.float32)
    kept = logits.detach().clone()
    log_prob = BernoulliVector(logits).log_prob(value)
    first, again = (torch.autograd.grad(log_prob.sum(), logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(logits, kept)


def test_shapes_entropy_and_moments():
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, want = BernoulliVector(logits, 2), reference(logits, 2)
    assert got.batch_shape == want.batch_shape
    assert got.event_shape == want.event_shape
    torch.testing.assert_close(got.entropy(), want.entropy())
    torch.testing.assert_close(got.mean, want.mean)
    torch.testing.assert_close(got.variance, want.variance)
    wide = got.expand((5, 2))
    assert (wide.batch_shape, wide.event_shape) == ((5, 2), (3, 4))


def test_samples_are_exact_and_of_the_right_mean():
    torch.manual_seed(0)
    logits = torch.tensor([[-6.0, -1.0, 0.0], [0.5, 2.0, 6.0]], requires_grad=True)
    samples = BernoulliVector(logits).sample((40_000,))
    assert samples.shape == (40_000, 2, 3)
    assert not samples.requires_grad
    assert ((samples == 0) | (samples == 1)).all()
    probs = torch.sigmoid(logits.detach())
    error = (probs * (1 - probs) / 40_000).sqrt()
    assert ((samples.mean(0) - probs).abs() < 4.5 * error).all()


def test_no_variable_is_drawn_against_its_logit():
    samples = BernoulliVector(torch.tensor([-200.0, 200.0])).sample((10_000,))
    assert samples.unique(dim=0).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("shared", ["logits", "value", "neither"])
def test_vmap(shared):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 1 if shared == "logits" else 5, 4, generator=generator)
    value = (torch.rand(6, 1 if shared == "value" else 5, 4, generator=generator) < 0.5).float()
    got = torch.func.vmap(lambda a, v: BernoulliVector(a).log_prob(v))(logits, value)
    assert got.shape == (6, 5)
    torch.testing.assert_close(got, BernoulliVector(logits).log_prob(value))
    drawn = torch.func.vmap(lambda a: BernoulliVector(a).sample(), randomness="different")(logits.expand(6, 5, 4))
    assert drawn.shape == (6, 5, 4)
    assert ((drawn == 0) | (drawn == 1)).all()
