"""The check that data of Bernoulli variables are in [0, 1]: outside, their log-density is no log-probability."""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from ovis.models.distributions import BernoulliVector
from ovis.models.masked import Masked

__all__ = ["bernoulli_values", "check_first_batch", "check_unit_interval"]

#: Less than this outside [0, 1] comes from rounding, not from another scale.
_SLIGHT = 1e-3

_checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def bernoulli_values(px: Distribution, x: Tensor) -> Tensor | None:
    """What a distribution scores as Bernoulli variables, for :func:`check_first_batch` or :func:`check_unit_interval`.

    Args:
        px: p(x|z), which may be inside ``Independent`` and :class:`~ovis.models.Masked`.
        x: the observations, a shape that ``px`` scores.

    Returns:
        x, with 0 in the place of masked values; None if ``px`` is no Bernoulli distribution.
    """
    while isinstance(px, Independent | Masked):
        if isinstance(px, Masked):
            x = px.filled(x)
        px = px.distribution if isinstance(px, Masked) else px.base_dist
    return x if isinstance(px, BernoulliVector | Bernoulli) else None


def check_first_batch(model: nn.Module, x: Tensor) -> None:
    """Check the first batch of a model of Bernoulli variables.

    Only the first one, because looking at values synchronizes host and device. In code that ``torch.compile`` compiles
    it is the batch that is compiled for (with ``fullgraph=True`` torch reports the error inside one of its own); under
    ``torch.func`` transforms and while a CUDA graph is captured, when no values can be read, it is a later one.

    Args:
        model: the model.
        x: the batch, of any shape.

    Raises:
        ValueError: as :func:`check_unit_interval`.
    """
    if torch.compiler.is_dynamo_compiling():
        error = _error_while_tracing(x)
        if error is not None:
            raise ValueError(error)
    elif model not in _checked and not torch.compiler.is_compiling() and _is_readable(x):
        check_unit_interval(x)
        _checked.add(model)


def check_unit_interval(x: Tensor, name: str = "x") -> None:
    """Check that values of Bernoulli variables, or grey levels in their place, are in [0, 1].

    Args:
        x: the values, of any shape and dtype.
        name: what they are, for the message.

    Raises:
        ValueError: a value below 0, above 1, or NaN.
    """
    if not x.numel():
        return
    low, high = torch.stack(x.detach().aminmax()).tolist()
    if low >= 0 and high <= 1:
        return
    if math.isnan(low):
        raise ValueError(f"{name} contains NaN, but Bernoulli variables must be in [0, 1]: replace missing values")
    if low > -_SLIGHT and high < 1 + _SLIGHT:
        values, remedy = f"{low:.9g} to {high:.9g}", "x.clamp(0, 1)"
    else:
        values, remedy = f"{low:g} to {high:g}", "(x + 1)/2 for {-1, 1}, x/255 for grey levels from 0 to 255"
    raise ValueError(f"{name} has values from {values}, but Bernoulli variables must be in [0, 1]: use {remedy}")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _error_while_tracing(x: Tensor) -> str | None:
    """The error for the actual values, while ``torch.compile`` traces the caller.

    It is raised by the caller, where the compiler sees it: from here it would come out as an internal error of torch.
    """
    try:
        check_unit_interval(x)
    except ValueError as error:
        return str(error)
    return None


def _is_readable(x: Tensor) -> bool:
    if torch._C._are_functorch_transforms_active():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
