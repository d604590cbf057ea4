"""The bound with many particles, in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ovis.datasets.splits import as_float
from ovis.diagnostics import Aggregator, Diagnostic
from ovis.estimators.base import bound_diagnostics
from ovis.estimators.records import Particles
from ovis.estimators.sampling import draw, encode
from ovis.functional.log_weights import effective_sample_size
from ovis.training.memory import keep_freed_memory

__all__ = ["evaluate", "evaluate_batch"]

#: Values of x that the decoder may produce at once: on the CPU 4 MB in float32, near what its caches hold, elsewhere
#: about 128 MB with what is computed from them.
CPU_VALUES, DEVICE_VALUES = 2**20, 2**23


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
    keep_freed_memory()
    model.eval()
    try:
        for rows in x.split(batch_size):
            agg.update(evaluate_batch(model, rows, iw, ess_particles, max_values))
    finally:
        model.train(training)
    return agg.data


@torch.no_grad()
def evaluate_batch(
    model: nn.Module, x: Tensor, iw: int, ess_particles: int | None = None, max_values: int | None = None
) -> dict[str, dict[str, Tensor]]:
    """:func:`evaluate` of one batch, in the model's mode: ``loss/`` L_k, ..., each [B]."""
    if max_values is None:
        max_values = CPU_VALUES if x.device.type == "cpu" else DEVICE_VALUES
    rows = as_float(x)
    per_pass = max(1, max_values // max(1, rows.numel()))
    particles = _draw_in_passes(model, rows, iw, per_pass)
    diagnostics = bound_diagnostics(particles, 1, iw)
    if ess_particles is not None and ess_particles < iw:
        diagnostics["loss"]["ess"] = effective_sample_size(particles.log_w()[:, :ess_particles])
    return diagnostics


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
