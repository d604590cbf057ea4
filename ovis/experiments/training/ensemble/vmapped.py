"""One function of a model and its estimator, computed for several runs at once.

A step of a small model is a few hundred operations of a few microseconds each, and most of that time is overhead of
Python and torch's dispatcher. So the function is mapped over the runs with ``torch.func``, traced once to a flat graph
of ATen operations, and only the graph runs again; compiled, where that pays.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ovis.analysis.module_state import no_argument_validation, restored_buffers
from ovis.experiments.training.ensemble.rng import RandomBuffers, RandomRequest, SuppliedRandom, record_requests
from ovis.experiments.training.ensemble.stacked_state import EnsembleUnsupported, StackedState
from ovis.experiments.training.random_state import random_state_of

__all__ = ["COMPILE_STEPS", "GraphCompiler", "VmappedFunction", "compile_graph", "graph_compiler"]

log = logging.getLogger(__name__)

#: (graph, examples of its inputs) -> what computes the same
GraphCompiler = Callable[[GraphModule, list[Tensor]], Callable[..., Any]]

#: Graphs are compiled that run for at least so many steps: compiling takes half a minute, and saves about a
#: millisecond of each step.
COMPILE_STEPS = 20_000


def _uncompiled(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    return graph


class VmappedFunction:
    """Callable: a function of every run of an ensemble, each with the next random numbers of its own generator.

    Args:
        state: of the runs.
        function: (model, estimator, *shared, *own) -> tensors; with ``gradients`` one number.
        gradients: instead of the function's result, (gradients of each optimizer group [S, D], result [S]); buffers
            that the function writes into are updated.
        compiler: compiles the traced graph.
    """

    def __init__(
        self,
        state: StackedState,
        function: Callable[..., Any],
        gradients: bool = False,
        compiler: GraphCompiler = _uncompiled,
    ):
        self.state, self.function, self.gradients, self.compiler = state, function, gradients, compiler
        self._calls: dict[Any, _TracedCall] = {}

    def __call__(
        self, generators: Sequence[torch.Generator], shared: Sequence[Tensor] = (), own: Sequence[Tensor] = ()
    ) -> Any:
        """The result of each run, stacked.

        Args:
            generators: of each run; they are advanced.
            shared: arguments that are the same for all runs.
            own: those that are not, stacked [S, ...].

        Raises:
            EnsembleUnsupported: (at the first call of these shapes) torch.func can't trace the function, or it draws
                random numbers that can't be supplied to it.
        """
        key = tuple((arg.shape, arg.dtype) for arg in (*shared, *own))
        if key not in self._calls:
            self._calls[key] = _TracedCall(self, generators, shared, own)
        return self._calls[key](generators, (*shared, *own))


class _TracedCall:
    """The graph of a :class:`VmappedFunction` for arguments of some shapes."""

    def __init__(
        self,
        vmapped: VmappedFunction,
        generators: Sequence[torch.Generator],
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
    ):
        self.vmapped, self.state, args = vmapped, vmapped.state, (*shared, *own)
        self.axes = (0, 0, 0, [*([None] * len(shared)), *([0] * len(own))])
        requests, self.written = self._try_run(generators[0], [*shared, *(arg[0] for arg in own)])
        self.random = RandomBuffers(requests, len(self.state), self.state.flat[0].device)
        # the tensors that stay where they are come first, a call's arguments last
        leaves, self.inputs = tree_flatten((self.state.values, self.state.buffers, self.random.numbers, list(args)))
        self.lasting = leaves[: len(leaves) - len(args)]
        try:
            with no_argument_validation(), torch.no_grad():
                graph = make_fx(self._flat)(*leaves)
        except Exception as error:  # torch.func reports what it can't trace in many ways
            raise EnsembleUnsupported(f"torch.func can't follow this model: {_first_line(error)}") from error
        _simplify(graph)
        self.run = vmapped.compiler(graph, leaves)

    def __call__(self, generators: Sequence[torch.Generator], args: Sequence[Tensor]) -> Any:
        self.random.fill(generators)
        with torch.no_grad():
            result = tree_unflatten(self.run(*self.lasting, *args), self.outputs)
            if not self.vmapped.gradients:
                return result
            gradients, values, buffers = result
            for name, buffer in buffers.items():
                self.state.buffers[name].copy_(buffer)
        return gradients, values

    def _try_run(
        self, generator: torch.Generator, args: Sequence[Tensor]
    ) -> tuple[tuple[RandomRequest, ...], list[str]]:
        """The random numbers that the first run requests, and which buffers it writes into.

        Raises:
            EnsembleUnsupported: with supplied random numbers the result is not what it is with torch's own.
        """
        state = self.state
        values = {name: value[0].clone() for name, value in (state.values | state.buffers).items()}
        reference, recorded = generator.clone_state(), generator.clone_state()

        def run() -> Any:
            return functional_call(state.module, dict(values), (self.vmapped.function, *args))

        with torch.no_grad(), restored_buffers(state.module):
            with random_state_of(reference):
                expected = run()
            written = [name for name in state.buffers if not torch.equal(values[name], state.buffers[name][0])]
            values.update({name: state.buffers[name][0].clone() for name in state.buffers})
            try:
                requests, found = record_requests(run, recorded)
            except NotImplementedError as error:
                raise EnsembleUnsupported(f"{error} can't be handed to a model") from error
        same = all(torch.equal(a, b) for a, b in zip(tree_leaves(expected), tree_leaves(found), strict=True))
        if not torch.equal(reference.get_state(), recorded.get_state()) or not (same or _close(expected, found)):
            raise EnsembleUnsupported("the model draws random numbers that can't be handed to it")
        return requests, written

    def _flat(self, *leaves: Tensor) -> list[Tensor]:
        found, self.outputs = tree_flatten(self._mapped(*tree_unflatten(leaves, self.inputs)))
        return found

    def _mapped(self, values: Any, buffers: Any, numbers: Any, args: Any) -> Any:
        if not self.vmapped.gradients:
            return vmap(self._result, self.axes)(values, buffers, numbers, args)
        moved = {name for names in self.state.names for name in names}
        trained = {name: value for name, value in values.items() if name in moved}
        constant = {name: value for name, value in values.items() if name not in moved}

        def loss(trained: Any, constant: Any, buffers: Any, numbers: Any, args: Any) -> Any:
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}
            result = self._result({**trained, **constant}, buffers, numbers, args)
            return result, {name: buffers[name] for name in self.written}

        gradients, (results, written) = vmap(grad_and_value(loss, has_aux=True), (0, *self.axes))(
            trained, constant, buffers, numbers, args
        )
        flat = [torch.cat([gradients[name].flatten(1) for name in names], 1) for names in self.state.names]
        return flat, results, written

    def _result(self, values: Any, buffers: Any, numbers: Any, args: Any) -> Any:
        with SuppliedRandom(numbers):
            return functional_call(self.state.module, {**values, **buffers}, (self.vmapped.function, *args))


def _simplify(graph: GraphModule) -> None:
    """Remove what a gradient's trace leaves behind: detached copies of what needs no gradient, dead code."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _close(expected: Any, found: Any) -> bool:
    """Equal to rounding: torch adds some numbers up in another order than the arithmetic in its place."""
    pairs = zip(tree_leaves(expected), tree_leaves(found), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True) for a, b in pairs)


def graph_compiler(steps: int, always: bool = False) -> GraphCompiler:
    """What compiles a graph that runs for so many steps; ``always``: even if that doesn't pay."""
    if always or (steps >= COMPILE_STEPS and (shutil.which("g++") or shutil.which("clang++"))):
        return compile_graph
    return _uncompiled


def compile_graph(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """The graph fused and compiled to machine code; the graph itself if the compiler fails.

    The result is cached on the disk (``TORCHINDUCTOR_CACHE_DIR``): the evaluations of one K are the same for all
    estimators, and a resumed run compiles nothing anew. Only graphs with a ShapeEnv are cached.
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
                compiled: Callable[..., Any] = torch._inductor.compile(traced, [*inputs])
            compiled(*inputs)
    except Exception as error:  # a compiler fails in many ways
        log.warning("not compiled: %s", _first_line(error))
        return graph
    return compiled


def _nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    limits = torch.finfo(x.dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    x = torch.where(x != x, nan or 0.0, x)
    return torch.where(x == math.inf, high, torch.where(x == -math.inf, low, x))


#: Operations that the compiler doesn't vectorize, in terms of others that it does.
VECTORIZED = {
    torch.ops.aten.isnan.default: lambda x: x != x,
    torch.ops.aten.nan_to_num.default: _nan_to_num,
}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
