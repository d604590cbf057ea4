"""detach_parameters: the value keeps its gradient, the parameters lose theirs, the original stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td
from torch import nn
from torch.distributions import transforms as tt

from ovis.models.distributions import BernoulliVector, detach_parameters


def leaf(*shape, positive=False):
    value = torch.randn(*shape, dtype=torch.float64)
    return (value.exp() if positive else value).requires_grad_()


def _mixture():
    weights, loc, scale = leaf(3), leaf(3), leaf(3, positive=True)
    mixture = td.MixtureSameFamily(td.Categorical(logits=weights), td.Normal(loc, scale))
    return mixture, [weights, loc, scale]


def _normal():
    loc, scale = leaf(2), leaf(2, positive=True)
    return td.Normal(loc, scale), [loc, scale]


def _independent():
    loc, scale = leaf(2), leaf(2, positive=True)
    return td.Independent(td.Normal(loc, scale), 1), [loc, scale]


def _transformed(*more):
    loc, scale, shift, factor = leaf(2), leaf(2, positive=True), leaf(2), leaf(2, positive=True)
    chain = [tt.AffineTransform(shift, factor), *more]
    return td.TransformedDistribution(td.Normal(loc, scale), chain), [loc, scale, shift, factor]


def _composed():
    shift, factor = leaf(2), leaf(2, positive=True)
    transform = tt.ComposeTransform([tt.AffineTransform(shift, factor, cache_size=1), tt.TanhTransform(cache_size=1)])
    base = td.Normal(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    return td.TransformedDistribution(base, [transform]), [shift, factor]


def _inverse():
    shift, factor = leaf(2), leaf(2, positive=True)
    base = td.Normal(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    return td.TransformedDistribution(base, [tt.AffineTransform(shift, factor).inv]), [shift, factor]


def _relaxed():
    logits = leaf(4)
    return td.RelaxedOneHotCategorical(torch.tensor(0.5, dtype=torch.float64), logits=logits), [logits]


def _multivariate():
    loc, root = leaf(3), leaf(3, 3)
    covariance = root @ root.T + torch.eye(3, dtype=torch.float64)
    return td.MultivariateNormal(loc, covariance_matrix=covariance), [loc, root]


def _low_rank():
    loc, factor, diagonal = leaf(3), leaf(3, 1), leaf(3, positive=True)
    return td.LowRankMultivariateNormal(loc, factor, diagonal), [loc, factor, diagonal]


def _dirichlet():
    concentration = leaf(3, positive=True)
    return td.Dirichlet(concentration), [concentration]


class _Scale(tt.Transform, nn.Module):
    """A transform that is a module and holds another, as in normalizing flows."""

    domain = td.constraints.real
    codomain = td.constraints.real
    bijective = True

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.network = nn.Linear(1, 2, dtype=torch.float64)

    @property
    def log_scale(self):
        return self.network(torch.ones(1, dtype=torch.float64))

    def _call(self, x):
        return x * self.log_scale.exp() + self.shift

    def _inverse(self, y):
        return (y - self.shift) * (-self.log_scale).exp()

    def log_abs_det_jacobian(self, x, y):
        return self.log_scale.expand_as(x)


def _flow():
    base = td.Normal(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    flow = _Scale()
    return td.TransformedDistribution(base, [flow]), [flow.shift, flow.network.weight]


CONTINUOUS = {
    "normal": _normal,
    "independent": _independent,
    "mixture": _mixture,
    "transformed": _transformed,
    "transformed-tanh": lambda: _transformed(tt.TanhTransform()),
    "composed-cached": _composed,
    "inverse": _inverse,
    "relaxed": _relaxed,
    "multivariate": _multivariate,
    "low-rank": _low_rank,
    "dirichlet": _dirichlet,
    "flow": _flow,
}


def _total(distribution, value):
    return distribution.log_prob(value).sum()


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("case", CONTINUOUS)
def test_only_the_value_is_differentiated(case, used):
    """``used``: after a log_prob, when transforms have made their inverses and filled their caches."""
    torch.manual_seed(0)
    distribution, parameters = CONTINUOUS[case]()
    value = distribution.sample().clone().requires_grad_()  # no tensor that a cache knows
    if used:
        _total(distribution, distribution.sample())
    detached = detach_parameters(distribution)
    assert type(detached) is type(distribution)

    got, want = _total(detached, value), _total(distribution, value)
    torch.testing.assert_close(got, want)
    wanted = torch.autograd.grad(want, [value, *parameters], allow_unused=True)
    grads = torch.autograd.grad(got, [value, *parameters], allow_unused=True)
    assert all(grad is None for grad in grads[1:])
    torch.testing.assert_close(grads[0], wanted[0])
    # the original was differentiated after the copy was made and used: it still has its parameters
    assert all(grad is not None and grad.abs().sum() > 0 for grad in wanted)


@pytest.mark.parametrize("case", sorted(CONTINUOUS.keys() - {"mixture", "composed-cached", "inverse", "flow"}))
def test_reparameterized_values_keep_their_graph(case):
    """STL: the gradient runs through the sample to the parameters, and nowhere else."""
    torch.manual_seed(0)
    distribution, parameters = CONTINUOUS[case]()
    z = distribution.rsample()
    through_z = torch.autograd.grad(_total(detach_parameters(distribution), z), parameters, retain_graph=True)
    (by_value,) = torch.autograd.grad(_total(distribution, fixed := z.detach().requires_grad_()), fixed)
    want = torch.autograd.grad(z, parameters, by_value)
    for got, expected in zip(through_z, want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("wrap", [False, True])
def test_bernoulli(wrap):
    torch.manual_seed(0)
    logits = leaf(3)
    plain = td.Bernoulli(logits=logits)
    distribution = td.Independent(plain, 1) if wrap else plain
    value = distribution.sample()
    assert not _total(detach_parameters(distribution), value).requires_grad
    assert _total(distribution, value).requires_grad


def test_bernoulli_vector_after_its_probabilities_were_computed():
    logits = leaf(3)
    distribution = BernoulliVector(logits)
    assert distribution.probs.requires_grad
    detached = detach_parameters(distribution)
    assert not detached.probs.requires_grad
    assert not detached.log_prob(distribution.sample()).requires_grad
    assert distribution.probs.requires_grad
