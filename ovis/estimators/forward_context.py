"""The state that a forward depends on, so that it can be repeated, and checks that a model can be split into chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["ForwardContext", "check_eager", "independent_particles"]


class ForwardContext:
    """A snapshot of the random state, the model's mode and autocast.

    Args:
        model: the model whose modules' modes are stored.
        device: the device of the computation.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.device = device
        self.modes = [(module, module.training) for module in model.modules()]
        self.autocasting = torch.is_autocast_enabled(device.type)
        self.dtype = torch.get_autocast_dtype(device.type)
        self.random = torch.get_rng_state()
        self.devices = [] if device.type == "cpu" else [device]
        self.others = [torch.get_device_module(each).get_rng_state(each) for each in self.devices]

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the snapshot for a block; afterwards the state from before the block is restored."""
        modes = [(module, module.training) for module, _ in self.modes]
        kind = self.device.type if self.devices else "cuda"
        with torch.random.fork_rng(self.devices, device_type=kind), self.autocast():
            torch.set_rng_state(self.random)
            for each, state in zip(self.devices, self.others, strict=True):
                torch.get_device_module(each).set_rng_state(state, each)
            _set_modes(self.modes)
            try:
                yield
            finally:
                _set_modes(modes)

    def autocast(self) -> torch.autocast:
        """Autocast as it was, without its cache, which could return a cast weight without graph where one is needed."""
        return torch.autocast(self.device.type, self.dtype, self.autocasting, cache_enabled=False)


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


@contextlib.contextmanager
def independent_particles(model: nn.Module) -> Iterator[None]:
    """Reject a model whose result for a particle depends on the other particles, or on the number of calls.

    Raises:
        ValueError: (in the block) batch normalization of particles by their statistics; (after it) a changed buffer.
    """
    name = type(model).__name__

    def refuse(module: nn.Module, inputs: Any) -> None:
        raise ValueError(
            f"particles_per_pass: {name} normalizes by statistics of all particles at once (batch normalization in "
            "training mode), which can't be split; use layernorm, model.eval(), or leave particles_per_pass out"
        )

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None)]
    handles = [module.register_forward_pre_hook(refuse) for module in norms]
    versions = [(key, buffer, buffer._version) for key, buffer in model.named_buffers()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for key, buffer, version in versions:
        if buffer._version != version:
            raise ValueError(
                f"particles_per_pass: {name} changes its buffer {key} at every call, so no call can be repeated; use "
                "model.eval(), or leave particles_per_pass out"
            )


def check_eager() -> None:
    """Reject transforms that don't support a repeated forward.

    Raises:
        RuntimeError: inside ``torch.compile`` or a transform of ``torch.func``.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("particles_per_pass can't be compiled: leave it out, or compile the model alone")
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError("particles_per_pass does not work under torch.func (grad, vmap, ...): leave it out")
