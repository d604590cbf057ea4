"""One function of a model and its estimator, computed for several runs at once.

A step of a small model is a few hundred operations of a few microseconds each, and most of that time is overhead of
Python and torch's dispatcher. So the function is mapped over the runs with ``torch.func`` and traced once to a flat
graph of ATen operations. Later calls run the graph alone, compiled if that saves time.
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

#: (graph, examples of its inputs) -> a function that computes the same
GraphCompiler = Callable[[GraphModule, list[Tensor]], Callable[..., Any]]

#: Smallest number of steps for which graphs are compiled: compiling takes half a minute and saves about a millisecond
#: per step.
COMPILE_STEPS = 20_000


def _uncompiled(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    return graph


class VmappedFunction:
    """Callable: a function of every run of an ensemble, each with the next random numbers of its generator.

    Args:
        state: state of the runs.
        function: (model, estimator, *shared, *per_run) -> tensors; with ``gradients`` one number.
        gradients: return (gradients of each optimizer group [S, D], result [S]) instead of the function's result;
            buffers that the function writes into are updated.
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
        self, generators: Sequence[torch.Generator], shared: Sequence[Tensor] = (), per_run: Sequence[Tensor] = ()
    ) -> Any:
        """The results of the runs, stacked.

        Args:
            generators: generators of the runs; they are advanced.
            shared: arguments that are the same for all runs.
            per_run: arguments that differ between runs, stacked [S, ...].

        Raises:
            EnsembleUnsupported: (at the first call of these shapes) torch.func can't trace the function, or it draws
                random numbers that can't be supplied to it.
        """
        key = tuple((arg.shape, arg.dtype) for arg in (*shared, *per_run))
        if key not in self._calls:
            self._calls[key] = _TracedCall(self, generators, shared, per_run)
        return self._calls[key](generators, (*shared, *per_run))


class _TracedCall:
    """The graph of a :class:`VmappedFunction` for arguments of some shapes."""

    def __init__(
        self,
        vmapped: VmappedFunction,
        generators: Sequence[torch.Generator],
        shared: Sequence[Tensor],
        per_run: Sequence[Tensor],
    ):
        self.vmapped, self.state, args = vmapped, vmapped.state, (*shared, *per_run)
        self.axes = (0, 0, 0, [*([None] * len(shared)), *([0] * len(per_run))])
        requests, self.written = self._try_run(generators[0], [*shared, *(arg[0] for arg in per_run)])
        self.random = RandomBuffers(requests, len(self.state), self.state.flat[0].device)
        # first the tensors that are the same in every call, then the arguments of the call
        tensors, self.inputs = tree_flatten((self.state.values, self.state.buffers, self.random.numbers, list(args)))
        self.fixed = tensors[: len(tensors) - len(args)]
        try:
            with no_argument_validation(), torch.no_grad():
                graph = make_fx(self._flat)(*tensors)
        except Exception as error:  # torch.func reports what it can't trace in many ways
            raise EnsembleUnsupported(f"torch.func can't follow this model: {_first_line(error)}") from error
        _simplify(graph)
        self.run = vmapped.compiler(graph, tensors)

    def __call__(self, generators: Sequence[torch.Generator], args: Sequence[Tensor]) -> Any:
        self.random.fill(generators)
        with torch.no_grad():
            result = tree_unflatten(self.run(*self.fixed, *args), self.outputs)
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
            EnsembleUnsupported: the result with supplied random numbers differs from that with torch's generator.
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
                requests, result = record_requests(run, recorded)
            except NotImplementedError as error:
                raise EnsembleUnsupported(f"{error} can't be handed to a model") from error
        same = all(torch.equal(a, b) for a, b in zip(tree_leaves(expected), tree_leaves(result), strict=True))
        if not torch.equal(reference.get_state(), recorded.get_state()) or not (same or _close(expected, result)):
            raise EnsembleUnsupported("the model draws random numbers that can't be handed to it")
        return requests, written

    def _flat(self, *tensors: Tensor) -> list[Tensor]:
        results, self.outputs = tree_flatten(self._mapped(*tree_unflatten(tensors, self.inputs)))
        return results

    def _mapped(self, values: Any, buffers: Any, numbers: Any, args: Any) -> Any:
        if not self.vmapped.gradients:
            return vmap(self._result, self.axes)(values, buffers, numbers, args)
        trainable = {name for names in self.state.names for name in names}
        trained = {name: value for name, value in values.items() if name in trainable}
        constant = {name: value for name, value in values.items() if name not in trainable}

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
    """Remove what tracing a gradient leaves in the graph: detached copies of tensors without gradient, dead code."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _close(expected: Any, result: Any) -> bool:
    """Whether results are equal up to rounding: torch's kernels add up in another order than their replacements."""
    pairs = zip(tree_leaves(expected), tree_leaves(result), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True) for a, b in pairs)


def graph_compiler(steps: int, always: bool = False) -> GraphCompiler:
    """The compiler for a graph that runs for so many steps; ``always``: compile even if that takes longer."""
    if always or (steps >= COMPILE_STEPS and (shutil.which("g++") or shutil.which("clang++"))):
        return compile_graph
    return _uncompiled


def compile_graph(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Fuse a graph and compile it to machine code; return the graph itself if the compiler fails.

    The result is cached on the disk (``TORCHINDUCTOR_CACHE_DIR``): evaluations with the same K are the same for all
    estimators, and a resumed run compiles nothing again. Only graphs with a ShapeEnv are cached.
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
    except Exception as error:  # compilers raise many kinds of errors
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
