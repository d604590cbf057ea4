"""Distributions of the models, and any distribution with its parameters detached or in single precision."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    TransformedDistribution,
    constraints,
)
from torch.distributions.transforms import StickBreakingTransform, Transform
from torch.distributions.utils import lazy_property

from ovis.functional.bernoulli import bernoulli_log_prob, bounded, softplus
from ovis.functional.precision import HALF, at_least_single, autocasts, without_autocast

__all__ = ["BernoulliVector", "OneHotVector", "detach_parameters", "has_known_density", "has_rsample", "log_density"]


class BernoulliVector(Distribution):
    """Independent Bernoulli variables as one event: ``log_prob`` sums over them.

    Use it instead of ``Independent(Bernoulli(logits=logits), event_dims)``, which it equals, for speed: values or
    logits that all particles share are not repeated, and sampling compares with uniform numbers because
    ``torch.bernoulli`` is slow on the CPU.

    Args:
        logits: log p/(1 - p), shape [*batch, *event]. Half precision is converted to float32: probabilities and
            densities are in single precision; samples have the type of the logits. A variable with an infinite logit
            is certain: its log-density is 0, or -infinity for the other value.
        event_dims: how many of the last dimensions are one event.
        finite: the logits are known to be finite, as the outputs of a network are, which saves time; the log-density
            for infinite ones is then undefined.

    See also:
        :func:`ovis.functional.bernoulli.bernoulli_log_prob`.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's declaration)
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor, event_dims: int = 1, finite: bool = False):
        self.logits = at_least_single(logits)
        self._finite = finite
        self._dtype = logits.dtype
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
        # noise < probs, exactly, without slow booleans on the way
        if torch._C._are_functorch_transforms_active():  # under which the noise may have no dimension of its own
            return (probs - noise).ceil_().abs_().to(self._dtype)
        return noise.lt_(probs).to(self._dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i value_i logit_i - log(1 + exp(logit_i)), over the event dimensions.

        Args:
            value: broadcastable with [*batch, *event].

        Returns:
            shape of the broadcast batch.
        """
        dims = len(self.event_shape)
        return bernoulli_log_prob(self.logits.flatten(-dims), value.flatten(-dims), self._finite)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the event."""
        dims = len(self.event_shape)
        logits = bounded(self.logits)
        return (softplus(logits) - self.probs * logits).flatten(-dims).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BernoulliVector:
        shape = torch.Size(batch_shape) + self.event_shape
        wide = BernoulliVector(self.logits.expand(shape), len(self.event_shape), self._finite)
        wide.probs = self.probs.expand(shape)  # so that the sigmoids are computed once, before the expansion
        wide._dtype = self._dtype
        return wide


class OneHotVector(OneHotCategorical):
    """A one-hot categorical variable without host-device synchronization.

    Use it instead of ``OneHotCategorical`` in a training step. Torch checks the parameters and samples with
    ``multinomial``, which reads the probabilities on the host. Here nothing is checked, and a sample is the inverse
    distribution function of one uniform number.

    Args:
        logits: unnormalized log-probabilities, shape [*batch, K].
    """

    def __init__(self, logits: Tensor):
        self._categorical = Categorical(logits=at_least_single(logits), validate_args=False)
        self._dtype = logits.dtype
        Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> OneHotVector:
        """The same distribution with another batch shape."""
        instance = self._get_checked_instance(OneHotVector, _instance)  # type: ignore[no-untyped-call]
        wide: OneHotVector = super().expand(batch_shape, instance)  # type: ignore[no-untyped-call]
        wide._dtype = self._dtype
        wide._cumulative = self._cumulative.expand(wide.logits.shape)  # computed once, before the expansion
        return wide

    @lazy_property
    def _cumulative(self) -> Tensor:
        """The probabilities of this category or one before it. An impossible category does not change the sum."""
        probs = self.probs.detach()
        # (a parallel sum may differ from the one before it by rounding errors, even where the probability is 0)
        return probs.cumsum(-1).masked_fill(probs == 0, 0.0).cummax(-1).values

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Exact samples, one-hot, shape [*sample_shape, *batch, K], without graph; none of a probability of 0."""
        below = self._cumulative.expand(torch.Size(sample_shape) + self.batch_shape + self.event_shape)
        noise = torch.rand((*below.shape[:-1], 1), dtype=below.dtype, device=below.device)
        # times the sum of all, which rounding errors move away from 1: the product is below it
        category = (below <= noise * below[..., -1:]).sum(-1, keepdim=True)
        return (category == torch.arange(below.shape[-1], device=below.device)).to(self._dtype)


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
    detached: Distribution = _replace(distribution, Tensor.detach, {})
    return detached


def has_rsample(distribution: Distribution) -> bool:
    """Whether a distribution has reparameterized samples.

    Use it instead of the attribute ``has_rsample``, which torch's LogitRelaxedBernoulli, among others, does not set.

    Args:
        distribution: the distribution.
    """
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if distribution.has_rsample or isinstance(distribution, TransformedDistribution):
        return bool(distribution.has_rsample)
    return type(distribution).rsample is not Distribution.rsample


def has_known_density(distribution: Distribution) -> bool:
    """Whether ``log_prob`` of a distribution, and of those it consists of, is torch's or this package's.

    Use it before relying on how ``log_prob`` computes: a user's one may call a network, which has a precision of its
    own, or flatten what it scores.

    Args:
        distribution: the distribution, or any other object with ``log_prob``.

    Returns:
        False if a class of the user's defines ``log_prob``.
    """
    module = getattr(getattr(type(distribution), "log_prob", None), "__module__", None) or ""
    parts = [part for part in getattr(distribution, "__dict__", {}).values() if isinstance(part, Distribution)]
    return module.startswith(("torch.", "ovis.")) and all(has_known_density(part) for part in parts)


_STICKS = (
    "{} cannot score a sample in {}: rounding moves it off the simplex, which may change its log-density by hundreds "
    "of nats; construct it from float32 tensors, as in LogisticNormal(loc.float(), scale.float())"
)


def log_density(distribution: Distribution, value: Tensor) -> Tensor:
    """``distribution.log_prob(value)``, computed in float32 where parameters or value are in half precision.

    Use it to score samples of a network that runs in half precision, under autocast too. It works for any torch
    distribution: parameters in half precision are replaced by float32 ones in a shallow copy, which passes gradients on
    to them. Without half precision it calls ``log_prob``. A ``log_prob`` of the user's own, which may call a network,
    is called as it is, and its result converted to float32.

    Args:
        distribution: the distribution.
        value: the value, a shape that ``log_prob`` accepts.

    Returns:
        as ``log_prob``, at least in single precision.

    Raises:
        ValueError: a value in half precision of ``LogisticNormal``, or of another stick-breaking transform.
    """
    if not (value.dtype in HALF or autocasts(value.device) or _has_half(distribution, set())):
        return distribution.log_prob(value)
    if not has_known_density(distribution):
        return at_least_single(distribution.log_prob(value))
    with without_autocast(value.device):
        done: dict[int, Any] = {}
        if value.dtype in HALF or _has_half(distribution, set()):
            distribution = _replace(distribution, at_least_single, done)
            for part in done.values():
                if isinstance(part, Distribution):
                    _compute_again(part)
                elif isinstance(part, StickBreakingTransform) and value.dtype in HALF:
                    raise ValueError(_STICKS.format(type(distribution).__name__, value.dtype))
        # (the same tensor as in the copy of a transform's cache, which compares identities)
        return distribution.log_prob(_replace(value, at_least_single, done))


def _compute_again(distribution: Distribution) -> None:
    """Forget what was computed from the parameters in half precision: logits from probabilities, or the reverse."""
    kind = type(distribution)
    lazy = [name for name in vars(distribution) if isinstance(inspect.getattr_static(kind, name, None), lazy_property)]
    # (without _param, as in Geometric, the first one is the one that was given)
    given = getattr(distribution, "_param", getattr(distribution, lazy[0]) if lazy else None)
    for name in lazy:
        if getattr(distribution, name) is not given:
            delattr(distribution, name)
    if isinstance(distribution, Dirichlet | RelaxedOneHotCategorical):
        distribution._validate_args = False  # numbers in half precision do not sum to 1 up to 1e-6
    if isinstance(distribution, Categorical):  # the constructor normalized it in half precision
        distribution.logits = distribution.logits.log_softmax(-1)


_NESTED = (list, tuple, dict, Distribution, Transform, nn.Module)


def _has_half(item: Any, seen: set[int]) -> bool:
    """Whether a tensor of a distribution, or of what it consists of, is in half precision. It runs at every step."""
    if isinstance(item, Tensor):
        return item.dtype in HALF
    if not isinstance(item, _NESTED) or isinstance(item, torch.Size) or id(item) in seen:
        return False
    seen.add(id(item))
    parts = item if isinstance(item, list | tuple) else (item if isinstance(item, dict) else vars(item)).values()
    return any(_has_half(part, seen) for part in parts)


def _replace(item: Any, change: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Any:
    """Replace every tensor, in copies. ``done`` maps identities to copies: a transform and its inverse are a circle."""
    if isinstance(item, Tensor):
        if id(item) not in done:
            done[id(item)] = change(item)
        return done[id(item)]
    if isinstance(item, list | tuple) and not isinstance(item, torch.Size):
        return type(item)(_replace(part, change, done) for part in item)
    if isinstance(item, dict):
        return {key: _replace(part, change, done) for key, part in item.items()}
    if isinstance(item, Distribution | Transform | nn.Module):
        if id(item) not in done:
            done[id(item)] = clone = copy.copy(item)
            for name, part in vars(item).items():
                # (a transform compares its cached value by identity, so it won't take a detached copy for that value)
                clone.__dict__[name] = _replace(part, change, done)
        return done[id(item)]
    # some versions of torch keep a transform's inverse as a weak reference: the copy makes a new inverse
    return None if isinstance(item, weakref.ref) else item
