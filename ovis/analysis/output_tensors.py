"""Tensors of a model's output by name, for gradients with respect to a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

__all__ = ["output_tensors"]

#: First letters of a key: which distributions of the output it means.
FAMILIES = {"q": "qz", "p": "pz", "x": "px"}


def output_tensors(output: Mapping[str, Any], key: str) -> list[Tensor]:
    """The tensors that a key such as ``qlogits`` refers to, those of the layer nearest to x first.

    Args:
        output: what the model returned.
        key: the name of a tensor (or of a list of tensors) in the output; or q, p or x followed by the name of a
            parameter of q(z|x), p(z) or p(x|z): ``qlogits``, ``qloc``, ``qscale``.

    Raises:
        ValueError: there is no such tensor, or it has no gradient.
    """
    if key in output and not isinstance(output[key], Distribution):
        candidates = output[key] if isinstance(output[key], list | tuple) else [output[key]]
    else:
        family = output.get(FAMILIES.get(key[:1], ""), [])
        layers = family if isinstance(family, list | tuple) else [family]
        candidates = [_parameter(layer, key[1:]) for layer in layers]
    tensors = [tensor for tensor in candidates if isinstance(tensor, Tensor) and tensor.requires_grad]
    if not tensors:
        raise ValueError(
            f"the model's output has no tensor {key!r} with a gradient: name an entry of it, or q, p or x and a "
            f"parameter, e.g. qlogits, qloc; its entries: {', '.join(output)}"
        )
    return tensors


def _parameter(distribution: Any, name: str) -> Any:
    """``distribution.name``, taken from the distribution or from its base distribution; None if neither has it."""
    while isinstance(distribution, Distribution):
        if name in vars(distribution):
            return vars(distribution)[name]
        distribution = vars(distribution).get("base_dist")
    return None
