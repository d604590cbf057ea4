"""Nests of tensors: a tensor, or a dict, list, tuple or named tuple of nests, as data loaders and encoders return them.

All tensors of a nest have one row for each datum in their first dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Nest", "count_rows", "first_tensor", "map_tensors", "rows_of", "split_rows", "tensors_of"]

#: A tensor, or a dict, list, tuple or named tuple of nests.
Nest: TypeAlias = Any


def tensors_of(nest: Nest, name: str = "x") -> list[Tensor]:
    """The tensors of a nest, in a fixed order.

    Args:
        nest: the nest.
        name: what it is, for the message.

    Raises:
        ValueError: something in it is no tensor, or there is nothing in it.
    """
    if isinstance(nest, Tensor):
        return [nest]
    leaves = pytree.tree_leaves(nest)
    if not leaves:
        raise ValueError(f"{name} must be a tensor, or a dict, list or tuple of tensors; got {nest!r} without any")
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        place, leaf = next(
            (pytree.keystr(path), leaf)
            for path, leaf in pytree.tree_leaves_with_path(nest)
            if not isinstance(leaf, Tensor)
        )
        raise ValueError(
            f"{name}{place} is no tensor, but {type(leaf).__name__}: give a tensor with a row for each datum"
        )
    return leaves


def map_tensors(change: Callable[[Tensor], Tensor], nest: Nest) -> Nest:
    """The nest with each of its tensors changed."""
    return change(nest) if isinstance(nest, Tensor) else pytree.tree_map(change, nest)


def first_tensor(nest: Nest) -> Tensor:
    """The first tensor of a nest, whose device is that of all."""
    return nest if isinstance(nest, Tensor) else tensors_of(nest)[0]


def count_rows(nest: Nest, name: str = "x") -> int:
    """B, the number of data of a batch.

    Args:
        nest: a nest whose tensors have the shape [B, ...].
        name: what it is, for the message.

    Raises:
        ValueError: no data; tensors with different numbers of rows; something that is no tensor.
    """
    tensors = tensors_of(nest, name)
    sizes = {tensor.shape[:1] for tensor in tensors}
    if len(sizes) == 1 and (size := next(iter(sizes))) and size[0]:
        return size[0]
    if isinstance(nest, Tensor):
        raise ValueError(f"{name} must be a batch [B, *event] with B >= 1, got shape {tuple(nest.shape)}")
    shapes = ", ".join(
        f"{name}{pytree.keystr(path)} {tuple(leaf.shape)}" for path, leaf in pytree.tree_leaves_with_path(nest)
    )
    raise ValueError(f"the tensors of {name} must have one row for each datum, B >= 1, in dimension 0; got {shapes}")


def rows_of(nest: Nest, rows: slice) -> Nest:
    """Some of the data of a batch.

    Args:
        nest: a nest whose tensors have the shape [B, ...].
        rows: which.
    """
    return map_tensors(lambda tensor: tensor[rows], nest)


def split_rows(nest: Nest, size: int) -> Iterator[Nest]:
    """The data of a batch, ``size`` at a time; the last part may be smaller."""
    for start in range(0, count_rows(nest), size):
        yield rows_of(nest, slice(start, start + size))
