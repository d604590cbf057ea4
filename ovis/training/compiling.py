"""Traced graphs compiled to machine code, where that pays."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

__all__ = ["LEAST_STEPS", "compiled", "finisher"]

log = logging.getLogger(__name__)

#: Compiling takes half a minute, and saves about a millisecond of each step.
LEAST_STEPS = 20_000


def finisher(steps: int) -> Callable[[GraphModule, list[Tensor]], Callable[..., Any]]:
    """What makes a graph fast that runs for so many steps."""
    if steps < LEAST_STEPS or not (shutil.which("g++") or shutil.which("clang++")):
        return lambda graph, inputs: graph
    return compiled


def compiled(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """The graph fused and compiled; the graph itself where the compiler fails."""
    import torch._inductor

    try:
        found: Callable[..., Any] = torch._inductor.compile(graph, inputs)
        with torch.no_grad():
            found(*inputs)
    except Exception as error:  # a compiler fails in any way it likes
        log.warning("not compiled: %s", str(error).strip().splitlines()[0] if str(error).strip() else type(error))
        return graph
    return found
