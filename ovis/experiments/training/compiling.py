"""Traced graphs compiled to machine code, where that pays."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["LEAST_STEPS", "compiled", "finisher"]

log = logging.getLogger(__name__)

#: Compiling takes half a minute, and saves about a millisecond of each step.
LEAST_STEPS = 20_000


def _nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    limits = torch.finfo(x.dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    x = torch.where(x != x, nan or 0.0, x)
    return torch.where(x == math.inf, high, torch.where(x == -math.inf, low, x))


#: What the compiler would do number by number, in terms of what it does by the vector.
VECTORIZED = {
    torch.ops.aten.isnan.default: lambda x: x != x,
    torch.ops.aten.nan_to_num.default: _nan_to_num,
}


def finisher(steps: int, wanted: bool = False) -> Callable[[GraphModule, list[Tensor]], Callable[..., Any]]:
    """What makes a graph fast that runs for so many steps; it is compiled in any case where that is wanted."""
    if wanted or (steps >= LEAST_STEPS and (shutil.which("g++") or shutil.which("clang++"))):
        return compiled
    return lambda graph, inputs: graph


def compiled(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """The graph fused and compiled; the graph itself where the compiler fails.

    What was compiled once is kept on the disk (``TORCHINDUCTOR_CACHE_DIR``): the evaluations of one K are the same for
    all estimators, and a resumed run compiles nothing anew. Only graphs whose shapes have an environment are.
    """
    import torch._inductor
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)
    try:
        with torch.no_grad():
            traced = make_fx(graph, VECTORIZED)(*inputs)
            with tracing(TracingContext(shapes)):
                found: Callable[..., Any] = torch._inductor.compile(traced, [*inputs])
            found(*inputs)
    except Exception as error:  # a compiler fails in any way it likes
        log.warning("not compiled: %s", str(error).strip().splitlines()[0] if str(error).strip() else type(error))
        return graph
    return found
