"""Tensors of a model's output by name: what the per-tensor gradient analysis differentiates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

__all__ = ["output_tensors"]

#: First letters of a key: which distributions of the output it means.
FAMILIES = {"q": "qz", "p": "pz", "x": "px"}


def output_tensors(output: Mapping[str, Any], key: str) -> list[Tensor]:
    """The tensors that a key such as ``qlogits`` means, the layer nearest to x first.

    Args:
        output: what the model returned.
        key: a tensor (or a list of tensors) of the output by its own name; or q, p or x and the name of a parameter of
            q(z|x), p(z) or p(x|z): ``qlogits``, ``qloc``, ``qscale``.

    Raises:
        ValueError: there is none, or it has no gradient.
    """
    if key in output and not isinstance(output[key], Distribution):
        found = output[key] if isinstance(output[key], list | tuple) else [output[key]]
    else:
        family = output.get(FAMILIES.get(key[:1], ""), [])
        layers = family if isinstance(family, list | tuple) else [family]
        found = [_parameter(layer, key[1:]) for layer in layers]
    tensors = [tensor for tensor in found if isinstance(tensor, Tensor) and tensor.requires_grad]
    if not tensors:
        raise ValueError(
            f"the model's output has no tensor {key!r} with a gradient: name an entry of it, or q, p or x and a "
            f"parameter, e.g. qlogits, qloc; its entries: {', '.join(output)}"
        )
    return tensors


def _parameter(distribution: Any, name: str) -> Any:
    """``distribution.name``, where the distribution or the one it is made of holds it."""
    while isinstance(distribution, Distribution):
        if name in vars(distribution):
            return vars(distribution)[name]
        distribution = vars(distribution).get("base_dist")
    return None
