"""The bound with many particles, in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ovis.diagnostics import Aggregator, Diagnostic
from ovis.estimators.base import bound_diagnostics
from ovis.estimators.records import Particles
from ovis.estimators.sampling import draw, encode
from ovis.functional.log_weights import effective_sample_size

__all__ = ["evaluate"]

#: Values of x that the decoder may produce at once: on the CPU 4 MB in float32, near what its caches hold, elsewhere
#: about 128 MB with what is computed from them.
CPU_VALUES, DEVICE_VALUES = 2**20, 2**23

#: Bytes: just below the largest block (32 MB) that changes what glibc's malloc keeps.
KEPT_BLOCK = 31 * 2**20


@torch.no_grad()
def evaluate(
    model: nn.Module,
    x: Tensor,
    iw: int,
    batch_size: int,
    ess_particles: int | None = None,
    max_values: int | None = None,
) -> Diagnostic:
    """L_K of data, and what else the K weights tell, untempered. The model's mode is left as found.

    Args:
        model: the model; evaluated without dropout.
        x: data, shape [n, *event].
        iw: K; drawn in passes, so any K fits.
        batch_size: data in a batch.
        ess_particles: ESS is measured with so many of the particles (those of training); None: all.
        max_values: memory bound, in values of x of one pass; None: what is fast on the device.

    Returns:
        means over the data, ``loss/`` L_k, elbo, kl, kl_q_p, nll in nats, ess in particles.
    """
    agg, training = Aggregator(), model.training
    if max_values is None:
        max_values = CPU_VALUES if x.device.type == "cpu" else DEVICE_VALUES
    _keep_freed_memory()
    model.eval()
    try:
        for rows in x.split(batch_size):
            rows = rows.float()
            per_pass = max(1, max_values // max(1, rows.numel()))
            particles = _draw_in_passes(model, rows, iw, per_pass)
            diagnostics = bound_diagnostics(particles, 1, iw)
            if ess_particles is not None and ess_particles < iw:
                diagnostics["loss"]["ess"] = effective_sample_size(particles.log_w()[:, :ess_particles])
            agg.update(diagnostics)
    finally:
        model.train(training)
    return agg.data


def _keep_freed_memory() -> None:
    """Have malloc keep what a pass frees, for the next one.

    glibc hands memory back to the system, page by page, beyond twice the largest block that was ever freed, and a fresh
    page costs as much as the numbers on it: up to half of an evaluation. So free a large block, of which nothing is
    touched. Other allocators don't mind.
    """
    torch.empty(KEPT_BLOCK, dtype=torch.uint8)


def _draw_in_passes(model: nn.Module, x: Tensor, iw: int, per_pass: int) -> Particles:
    encoded = encode(model, x)
    passes = math.ceil(iw / per_pass)
    sizes = [iw // passes + (i < iw % passes) for i in range(passes)]
    log_px, log_pz, log_qz = zip(*(_draw_densities(model, x, size, encoded) for size in sizes), strict=True)
    return Particles(torch.cat(log_px, 1), torch.cat(log_pz, 1), torch.cat(log_qz, 1), {})


def _draw_densities(model: nn.Module, x: Tensor, size: int, encoded: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    # of a pass nothing else may outlive it: the output holds all of its x and z
    particles = draw(model, x, size, encoded=encoded)
    return particles.log_px, particles.log_pz, particles.log_qz
