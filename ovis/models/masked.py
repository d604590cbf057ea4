"""Distributions of data of which some are missing, such as the padding of sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ovis.models.distributions import has_rsample

__all__ = ["Masked"]


class Masked(Distribution):
    """A distribution that ignores some of its variables: their log-density is 0.

    Use it for padded sequences and missing values, as p(x|z) or for latents:

        >>> import torch
        >>> from torch.distributions import Bernoulli
        >>> lengths = torch.tensor([3, 1])
        >>> mask = torch.arange(4) < lengths[:, None]
        >>> Masked(Bernoulli(logits=torch.zeros(2, 4)), mask).log_prob(torch.ones(2, 4)).sum(-1)
        tensor([-2.0794, -0.6931])

    What stands in the place of an ignored value (-1, NaN, ...) has no effect, on gradients neither.

    Args:
        distribution: the distribution of all variables, of batch shape [*batch].
        mask: which of them count, boolean, a shape that broadcasts with [*batch]; with particles, e.g. [B, 1, T].

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that can't be broadcast.
    """

    arg_constraints = {}  # noqa: RUF012 (torch's declaration)

    def __init__(self, distribution: Distribution, mask: Tensor):
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be boolean, True for what counts, got {mask.dtype}")
        try:
            batch = torch.broadcast_shapes(distribution.batch_shape, mask.shape)
        except RuntimeError as error:
            shapes = f"{tuple(mask.shape)} and {tuple(distribution.batch_shape)}"
            raise ValueError(f"mask and distribution must have shapes that broadcast, got {shapes}") from error
        self.distribution, self.mask = distribution, mask
        super().__init__(batch, distribution.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return has_rsample(self.distribution)

    @property
    def support(self) -> Any:
        return self.distribution.support

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, 0 where the mask is False; of the shape of the distribution's own log-density."""
        return torch.where(self.mask, self.distribution.log_prob(self.filled(value)), 0.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples of the variables that count; an arbitrary value of the support for the others."""
        return self.filled(self.distribution.sample(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterized samples, as :meth:`sample`."""
        return self.filled(self.distribution.rsample(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Masked:
        return Masked(self.distribution.expand(batch_shape), self.mask.expand(batch_shape))

    def filled(self, value: Tensor) -> Tensor:
        """The value with another one of finite density in the place of what is ignored.

        It is 0, or, where 0 is outside or at the edge of the support, one inside.

        Args:
            value: shape [*batch, *event], or one that broadcasts with it.

        Returns:
            the broadcast shape of ``value`` and the mask.
        """
        support = self.distribution.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        inside: Any = 0.0
        if support is constraints.simplex:
            inside = 1 / value.shape[-1]
        elif isinstance(support, type(constraints.unit_interval)):
            inside = (support.lower_bound + support.upper_bound) / 2
        elif isinstance(support, type(constraints.positive) | type(constraints.nonnegative)):
            inside = support.lower_bound + 1.0
        mask = self.mask.view(self.mask.shape + (1,) * len(self.event_shape))
        return torch.where(mask, value, torch.as_tensor(inside, device=value.device).to(value.dtype))
