"""Distributions of the models: a fast Bernoulli vector, and any distribution with its parameters detached."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, OneHotCategorical, constraints
from torch.distributions.transforms import Transform
from torch.distributions.utils import lazy_property

from ovis.functional.bernoulli import bernoulli_log_prob, softplus

__all__ = ["BernoulliVector", "OneHotVector", "detach_parameters"]


class BernoulliVector(Distribution):
    """Independent Bernoulli variables as one event: ``log_prob`` sums over them.

    Use it instead of ``Independent(Bernoulli(logits=logits), event_dims)``, which it equals, for speed: values or
    logits that all particles share are not repeated, and sampling compares with uniform numbers because
    ``torch.bernoulli`` is slow on the CPU.

    Args:
        logits: log p/(1 - p), shape [*batch, *event].
        event_dims: how many of the last dimensions are one event.

    See also:
        :func:`ovis.functional.bernoulli.bernoulli_log_prob`.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's declaration)
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor, event_dims: int = 1):
        self.logits = logits
        cut = logits.dim() - event_dims
        super().__init__(logits.shape[:cut], logits.shape[cut:], validate_args=False)

    @lazy_property
    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Exact samples in {0, 1}, shape [*sample_shape, *batch, *event], without graph."""
        probs = self.probs.detach().expand(torch.Size(sample_shape) + self.logits.shape)
        noise = torch.rand(probs.shape, dtype=probs.dtype, device=probs.device)
        return (probs - noise).ceil_().abs_()  # noise < probs, exactly, without slow booleans on the way

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i value_i logit_i - log(1 + exp(logit_i)), over the event dimensions.

        Args:
            value: broadcastable with [*batch, *event].

        Returns:
            shape of the broadcast batch.
        """
        dims = len(self.event_shape)
        logits, value = self.logits.flatten(-dims), value.flatten(-dims)
        if not _expands(value, logits):
            # fewer logits than values: q(z|x), one row for all particles
            return _dot(value, logits) - softplus(logits).sum(-1)
        return bernoulli_log_prob(logits, value)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the event."""
        dims = len(self.event_shape)
        return (softplus(self.logits) - self.probs * self.logits).flatten(-dims).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BernoulliVector:
        shape = torch.Size(batch_shape) + self.event_shape
        wide = BernoulliVector(self.logits.expand(shape), len(self.event_shape))
        wide.probs = self.probs.expand(shape)  # so that the sigmoids are computed once, before the expansion
        return wide


def _expands(small: Tensor, large: Tensor) -> bool:
    """Whether ``small`` broadcasts to the shape of ``large``; faster than ``torch.broadcast_shapes``."""
    shapes = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.dim() <= large.dim() and all(a in (1, b) for a, b in shapes)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """sum_i a_i b_i over the last dimension; a matrix product where one side is the same for all of dimension -2."""
    if a.dim() == b.dim() > 1:
        if a.shape[-2] == 1:  # with the row on the left its gradient is a row, too (on the right, a column)
            return (a @ b.transpose(-1, -2)).squeeze(-2)
        if b.shape[-2] == 1:
            return (b @ a.transpose(-1, -2)).squeeze(-2)
    return (a * b).sum(-1)


class OneHotVector(OneHotCategorical):
    """A one-hot categorical variable without host-device synchronization.

    Use it instead of ``OneHotCategorical`` in a training step. Torch checks the parameters and samples with
    ``multinomial``, which reads the probabilities on the host. Here nothing is checked, and a sample is the inverse
    distribution function of one uniform number.

    Args:
        logits: unnormalized log-probabilities, shape [*batch, K].
    """

    def __init__(self, logits: Tensor):
        self._categorical = Categorical(logits=logits, validate_args=False)
        Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> OneHotVector:
        """The same distribution with another batch shape."""
        return OneHotVector(self.logits.expand(torch.Size(batch_shape) + self.event_shape))

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Exact samples, one-hot, shape [*sample_shape, *batch, K], without graph."""
        probs = self.probs.detach().expand(torch.Size(sample_shape) + self.batch_shape + self.event_shape)
        noise = torch.rand((*probs.shape[:-1], 1), dtype=probs.dtype, device=probs.device)
        # the last category gets the probability that rounding errors leave over
        category = (noise >= probs.cumsum(-1)[..., :-1]).sum(-1, keepdim=True)
        return (category == torch.arange(probs.shape[-1], device=probs.device)).to(probs.dtype)


def detach_parameters(distribution: Distribution) -> Distribution:
    """A copy of a distribution whose parameters carry no gradient: ``log_prob`` differentiates the value alone.

    Use it for pathwise estimators without the score of q, such as STL (Roeder et al. 2017,
    https://arxiv.org/abs/1703.09194) and DReG. It works for any torch distribution: every tensor of the distribution,
    of its base distributions, components, transforms and modules is replaced by a detached one in a shallow copy. The
    original is unchanged.

    Args:
        distribution: the distribution.

    Returns:
        a detached copy.
    """
    detached: Distribution = _detach(distribution, {})
    return detached


def _detach(item: Any, done: dict[int, Any]) -> Any:
    """Detach recursively. ``done`` maps identities to copies, as a transform and its inverse refer to each other."""
    if isinstance(item, Tensor):
        return item.detach()
    if isinstance(item, list | tuple) and not isinstance(item, torch.Size):
        return type(item)(_detach(part, done) for part in item)
    if isinstance(item, dict):
        return {key: _detach(part, done) for key, part in item.items()}
    if isinstance(item, Distribution | Transform | nn.Module):
        if id(item) not in done:
            done[id(item)] = clone = copy.copy(item)
            for name, part in vars(item).items():
                # (a transform compares its cached value by identity, so it won't take a detached copy for that value)
                clone.__dict__[name] = _detach(part, done)
        return done[id(item)]
    # some versions of torch keep a transform's inverse as a weak reference: the copy makes a new inverse
    return None if isinstance(item, weakref.ref) else item
