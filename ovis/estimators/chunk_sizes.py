"""``particles_per_pass="auto"``: how many particles fit into the memory at hand."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ovis.estimators.forward_context import ForwardContext, independent_particles
from ovis.estimators.types import Particles
from ovis.nests import Nest, first_tensor, tensors_of

__all__ = ["ChunkSizes", "available_memory", "bytes_per_particle", "keep_freed_memory", "release_freed_memory"]

#: Fraction of the available memory that a chunk may use: other processes need some, too.
SHARE = 0.25

#: Peak memory of forward and backward as a multiple of the graph's saved tensors: 1.6 to 2.8 in measurements.
PEAK = 3.0

#: Size in bytes: just below that of the largest block (32 MB) whose release raises the limit of glibc's malloc.
KEPT_BLOCK = 31 * 2**20

#: Particles of the two draws from which the memory of one more is computed.
FEW, MORE = 1, 3


class ChunkSizes:
    """Chunk sizes for ``particles_per_pass="auto"``: measured at the first call with a model and a shape of x.

    Later calls use the same size, so it does not change during a training.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, tuple[torch.Size, ...], torch.device], int] = {}

    def of(self, model: nn.Module, x: Nest, draw: Callable[[int], Particles]) -> int:
        """Particles of each datum that fit: a power of two, so that a little more or less memory changes nothing.

        Args:
            model: the model.
            x: observations.
            draw: n -> n particles of each datum.
        """
        device = first_tensor(x).device
        key = (id(model), tuple(tensor.shape for tensor in tensors_of(x)), device)
        if key not in self.known:
            fit = int(SHARE * available_memory(device) / (PEAK * bytes_per_particle(model, x, draw)))
            self.known[key] = 1 << max(fit.bit_length() - 1, 0)
        return self.known[key]


def bytes_per_particle(model: nn.Module, x: Nest, draw: Callable[[int], Particles]) -> int:
    """Memory of the graph for one more particle of each datum. Random state and model are left unchanged.

    Args:
        model: the model.
        x: observations, shape [B, *event], or a nest of such tensors.
        draw: n -> n particles of each datum.

    Returns:
        bytes, at least 1.
    """
    costs = []
    for count in (FEW, MORE):
        sizes: dict[int, int] = {}

        def save(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # kept, as its address would be reused; detached, as it would keep its graph

        counting = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
        context = ForwardContext(model, first_tensor(x).device)
        with context.restored(), independent_particles(model), torch.enable_grad(), counting:
            particles = draw(count)
        kept = sum(z.nbytes for z in particles.z)
        costs.append(kept + sum(sizes.values()))
    return max(1, (costs[1] - costs[0]) // (MORE - FEW))


def available_memory(device: torch.device) -> int:
    """Bytes that could be allocated now: on a GPU, by this process; on a CPU, within the limits of its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min([_machine(), *_containers()])


def keep_freed_memory() -> None:
    """Make malloc keep up to 62 MB that a step, or a chunk of an evaluation, frees, for the next one.

    glibc returns free memory to the system beyond twice the largest block that was ever freed, and getting a page back
    costs as much as computing the numbers on it: a third of a training step, half of an evaluation. Freeing one large
    block, which need not be written to, raises that limit. Other allocators are not affected.
    """
    torch.empty(KEPT_BLOCK, dtype=torch.uint8)


def release_freed_memory() -> None:
    """Have glibc's malloc return free memory between blocks in use to the system; does nothing elsewhere.

    Values of all K particles that outlive a chunk lie between the memory that its tensors took. Those of the next chunk
    don't fit into the gaps and are put elsewhere, while the gaps stay resident.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def _machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: half of the total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _containers() -> list[int]:
    """Memory available in control groups, versions 2 and 1, including the file cache, which can be reclaimed."""
    left = []
    for folder, limit, usage, cache in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        top = _read(folder, limit)
        used = _read(folder, usage)
        if top.isdigit() and used.isdigit():  # "max": no limit
            stat = dict(line.split() for line in _read(folder, "memory.stat").splitlines())
            left.append(max(0, int(top) - int(used) + int(stat.get(cache, 0))))
    return left


def _read(folder: str, name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", folder, name).read_text().strip()
    except OSError:
        return ""
