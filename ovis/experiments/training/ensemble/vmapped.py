"""One function of a model and its estimator, computed for all runs of a stack at once.

A step of a small model is a few hundred operations of a few microseconds each, and most of that is Python and torch
finding out what to do. So the function is mapped over the runs with ``torch.func``, traced once to a flat graph of
torch's own operations, and only the graph runs again; compiled, where that pays (see :mod:`ovis.experiments.training.compiling`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ovis.analysis.module_state import no_argument_validation, restored_buffers
from ovis.experiments.training.ensemble.rng import Reserve, Served, recorded
from ovis.experiments.training.ensemble.stacked_state import NotTogetherError, Stack
from ovis.experiments.training.random_state import random_state_of

__all__ = ["NotTogetherError", "Together"]

#: function(model, estimator, *shared, *own) -> tensors in any structure
Function = Callable[..., Any]

#: (graph, examples of its inputs) -> what computes the same
Finish = Callable[[GraphModule, list[Tensor]], Callable[..., Any]]


class Together:
    """Callable: the function of every run of a stack, each with the next random numbers of its own stream.

    Args:
        stack: the runs.
        function: (model, estimator, *shared, *own) -> tensors; with ``gradients`` one number.
        gradients: instead of the function's result, (gradients of each optimizer group [S, D], result [S]); buffers
            that the function writes into are moved on.
        finish: what makes the traced graph fast.
    """

    def __init__(
        self,
        stack: Stack,
        function: Function,
        gradients: bool = False,
        finish: Finish = lambda graph, inputs: graph,
    ):
        self.stack, self.function, self.gradients, self.finish = stack, function, gradients, finish
        self._plans: dict[Any, _Plan] = {}

    def __call__(
        self, generators: Sequence[torch.Generator], shared: Sequence[Tensor] = (), own: Sequence[Tensor] = ()
    ) -> Any:
        """The result of each run, stacked.

        Args:
            generators: the stream of each run; they move on.
            shared: arguments that are the same for all runs.
            own: those that are not, stacked [S, ...].

        Raises:
            NotTogetherError: (at the first call of these shapes) torch.func can't follow the function, or it draws
                random numbers that can't be handed to it.
        """
        key = tuple((arg.shape, arg.dtype) for arg in (*shared, *own))
        if key not in self._plans:
            self._plans[key] = _Plan(self, generators, shared, own)
        return self._plans[key](generators, (*shared, *own))


class _Plan:
    """What is prepared once for arguments of some shapes."""

    def __init__(
        self,
        together: Together,
        generators: Sequence[torch.Generator],
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
    ):
        self.stack = stack = together.stack
        self.together, args = together, (*shared, *own)
        self.axes = (0, 0, 0, [*([None] * len(shared)), *([0] * len(own))])
        requests, self.written = self._rehearse(generators[0], [*shared, *(arg[0] for arg in own)])
        self.reserve = Reserve(requests, len(stack), stack.flat[0].device)
        # the tensors that stay where they are come first, a call's own last
        leaves, self.inputs = tree_flatten((stack.values, stack.buffers, self.reserve.numbers, list(args)))
        self.lasting = leaves[: len(leaves) - len(args)]
        try:
            with no_argument_validation(), torch.no_grad():
                graph = make_fx(self._flat)(*leaves)
        except Exception as error:  # what torch.func can't follow it says in many ways
            raise NotTogetherError(f"torch.func can't follow this model: {_first_line(error)}") from error
        _simplify(graph)
        self.run = together.finish(graph, leaves)

    def __call__(self, generators: Sequence[torch.Generator], args: Sequence[Tensor]) -> Any:
        self.reserve.fill(generators)
        with torch.no_grad():
            result = tree_unflatten(self.run(*self.lasting, *args), self.outputs)
            if not self.together.gradients:
                return result
            gradients, values, buffers = result
            for name, buffer in buffers.items():
                self.stack.buffers[name].copy_(buffer)
        return gradients, values

    def _rehearse(self, generator: torch.Generator, args: Sequence[Tensor]) -> tuple[Any, list[str]]:
        """What the first run asks for, and which buffers it writes into.

        Raises:
            NotTogetherError: with these numbers the result is not what it is with torch's own.
        """
        stack = self.stack
        given = {name: value[0].clone() for name, value in (stack.values | stack.buffers).items()}
        theirs, ours = generator.clone_state(), generator.clone_state()

        def run() -> Any:
            return functional_call(stack.parts, dict(given), (self.together.function, *args))

        with torch.no_grad(), restored_buffers(stack.parts):
            with random_state_of(theirs):
                wanted = run()
            written = [name for name in stack.buffers if not torch.equal(given[name], stack.buffers[name][0])]
            given.update({name: stack.buffers[name][0].clone() for name in stack.buffers})
            try:
                requests, found = recorded(run, ours)
            except NotImplementedError as error:
                raise NotTogetherError(f"{error} can't be handed to a model") from error
        same = all(torch.equal(a, b) for a, b in zip(tree_leaves(wanted), tree_leaves(found), strict=True))
        if not torch.equal(theirs.get_state(), ours.get_state()) or not (same or _close(wanted, found)):
            raise NotTogetherError("the model draws random numbers that can't be handed to it")
        return requests, written

    def _flat(self, *leaves: Tensor) -> list[Tensor]:
        found, self.outputs = tree_flatten(self._mapped(*tree_unflatten(leaves, self.inputs)))
        return found

    def _mapped(self, values: Any, buffers: Any, numbers: Any, args: Any) -> Any:
        if not self.together.gradients:
            return vmap(self._result, self.axes)(values, buffers, numbers, args)
        moved = {name for names in self.stack.names for name in names}
        trained = {name: value for name, value in values.items() if name in moved}
        constant = {name: value for name, value in values.items() if name not in moved}

        def loss(trained: Any, constant: Any, buffers: Any, numbers: Any, args: Any) -> Any:
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}
            result = self._result({**trained, **constant}, buffers, numbers, args)
            return result, {name: buffers[name] for name in self.written}

        gradients, (results, written) = vmap(grad_and_value(loss, has_aux=True), (0, *self.axes))(
            trained, constant, buffers, numbers, args
        )
        flat = [torch.cat([gradients[name].flatten(1) for name in names], 1) for names in self.stack.names]
        return flat, results, written

    def _result(self, values: Any, buffers: Any, numbers: Any, args: Any) -> Any:
        with Served(numbers):
            return functional_call(self.stack.parts, {**values, **buffers}, (self.together.function, *args))


def _simplify(graph: GraphModule) -> None:
    """Take out what a gradient's trace leaves behind: detached copies of what needs no gradient, dead code."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _close(wanted: Any, found: Any) -> bool:
    """Equal to rounding: torch adds some numbers up in another order than the arithmetic in its place."""
    pairs = zip(tree_leaves(wanted), tree_leaves(found), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True) for a, b in pairs)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
