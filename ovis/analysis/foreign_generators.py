"""Generators of NumPy and Python: whether code draws from one is seen in the state of the generator."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["find_generators", "global_generators_unused", "own_generators_unused"]

Generator = np.random.BitGenerator | random.Random

#: Packages whose classes and functions have no generators of their own but the global ones.
LIBRARIES = frozenset({"numpy", "ovis", "torch", *sys.stdlib_module_names})


@contextlib.contextmanager
def global_generators_unused(refusal: Callable[[str], Exception]) -> Iterator[None]:
    """A context that refuses to draw from the global generators of NumPy and Python.

    Their states are left as they were.

    Args:
        refusal: makes the exception from the name of the generator.
    """
    kept = np.random.get_state(), random.getstate()  # noqa: NPY002 (models may draw from the global generator)
    np.random.random(), random.random()  # noqa: NPY002 (so that a model that seeds the generator changes it, too)
    before = _global_states()
    try:
        yield
        for name, state in _global_states().items():
            if state != before[name]:
                raise refusal(name)
    finally:
        np.random.set_state(kept[0])  # noqa: NPY002
        random.setstate(kept[1])


def _global_states() -> dict[str, tuple[Any, ...]]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {"numpy.random": (name, bytes(np.asarray(keys)), *rest), "random": random.getstate()}


@contextlib.contextmanager
def own_generators_unused(root: object, refusal: Callable[[str], Exception]) -> Iterator[None]:
    """A context that refuses to draw from the generators which an object refers to.

    Args:
        root: where :func:`find_generators` begins.
        refusal: makes the exception from the name of the generator.
    """
    before = [(generator, _state(generator)) for generator in find_generators(root)]
    yield
    for generator, state in before:
        if _state(generator) != state:
            raise refusal(f"a generator of its own ({type(generator).__name__})")


def find_generators(root: object) -> list[Generator]:
    """The generators of NumPy and Python that an object refers to.

    Generators are found in attributes, containers and closures, and in the globals that functions and methods name,
    at any depth.

    Args:
        root: e.g. a function.

    Returns:
        NumPy's bit generators, which hold the states of its generators, and instances of ``random.Random``.
    """
    found: list[Generator] = []
    seen: dict[int, object] = {}
    pending: list[object] = [root]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, Tensor | ModuleType):
            continue
        seen[id(item)] = item
        if isinstance(item, Generator) and not isinstance(item, random.SystemRandom):  # which has no state
            found.append(item)
        elif isinstance(item, FunctionType):
            pending += [item.__closure__, item.__defaults__, item.__kwdefaults__, vars(item)]
            if not _is_library(item):
                pending += _named_globals(item)
        elif not (isinstance(item, type) and _is_library(item)):
            pending += gc.get_referents(item)
    return found


def _is_library(item: Any) -> bool:
    return str(item.__module__).partition(".")[0] in LIBRARIES


def _named_globals(function: FunctionType) -> Iterable[object]:
    """The globals that a function names, and what it may use of modules among them."""
    names = _names(function.__code__)
    for item in (function.__globals__[name] for name in names & function.__globals__.keys()):
        yield item
        if isinstance(item, ModuleType) and item.__name__.partition(".")[0] not in LIBRARIES:
            yield from (vars(item)[name] for name in names & vars(item).keys())


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _state(generator: Generator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return json.dumps(generator.state, default=np.ndarray.tolist)
