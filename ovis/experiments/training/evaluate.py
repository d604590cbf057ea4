"""The bound with many particles, in bounded memory."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ovis.diagnostics import Aggregator, Diagnostic
from ovis.estimators.base import bound_diagnostics
from ovis.estimators.sampling import draw, encode
from ovis.experiments.datasets.splits import as_float
from ovis.experiments.training.build import keep_freed_memory
from ovis.functional.log_weights import effective_sample_size

__all__ = ["evaluate", "evaluate_batch"]

#: Of each pass.
KEPT = ("L_k", "elbo", "kl", "nll", "log_sum", "log_squares")

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
        iw: K; drawn in passes, of which sums are kept: memory does not depend on K.
        batch_size: data in a batch.
        ess_particles: ESS is measured with so many of the particles (those of training); None: all.
        max_values: memory bound, in values of x, or parameters of q, of one pass; None: what is fast on the device.

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
    encoded = encode(model, rows)
    widest = max(rows.numel(), 0 if encoded is None else encoded.numel())  # of one particle of each datum
    sizes = _split(iw, max(1, max_values // widest))
    trained = iw if ess_particles is None else min(ess_particles, iw)
    if len(sizes) == 1:
        particles = draw(model, rows, iw, encoded=encoded)
        loss = bound_diagnostics(particles, 1, iw)["loss"]
        return {"loss": {**loss, "ess": effective_sample_size(particles.log_w()[:, :trained])}}
    # there before the first pass: what each of them allocates to be kept would lie in the room that the next one needs
    kept = {name: rows.new_empty(len(sizes), len(rows), dtype=torch.float64) for name in KEPT}
    for i, (start, size) in enumerate(sizes):
        _measure(model, rows, size, encoded, max(0, min(size, trained - start)), {n: kept[n][i] for n in KEPT})
    return {"loss": _combine(kept, [size for _, size in sizes], trained)}


def _split(iw: int, per_pass: int) -> list[tuple[int, int]]:
    """The first particle of each pass, and how many they are: nearly the same for all, at most ``per_pass``."""
    count = math.ceil(iw / per_pass)
    ends = [iw * (i + 1) // count for i in range(count)]
    return [(start, end - start) for start, end in pairwise([0, *ends])]


def _measure(
    model: nn.Module, x: Tensor, size: int, encoded: Tensor | None, trained: int, kept: dict[str, Tensor]
) -> None:
    """Fill in what is kept of a pass, each [B]; of its particles, x and z nothing outlives it.

    ``log_sum`` and ``log_squares`` are the logarithms of the sum of the first ``trained`` weights and of their squares,
    minus infinity where there are none.
    """
    particles = draw(model, x, size, encoded=encoded)
    loss = bound_diagnostics(particles, 1, size)["loss"]
    log_w = particles.log_w()[:, :trained].double()
    sums = {"log_sum": log_w.logsumexp(1), "log_squares": (2 * log_w).logsumexp(1)}
    for name, values in kept.items():
        values.copy_(sums[name] if name in sums else loss[name])


def _combine(kept: dict[str, Tensor], sizes: list[int], trained: int) -> dict[str, Tensor]:
    """The diagnostics of all particles from those of each pass, [passes, B], in double precision.

    log 1/K sum_k w_k = log sum_i (n_i / K) exp(L_i) over the passes i of n_i particles; ESS = (sum w)^2 / sum w^2.
    """
    shares = kept["L_k"].new_tensor(sizes).unsqueeze(1) / sum(sizes)
    found = {name: (shares * kept[name]).sum(0) for name in ("elbo", "kl", "nll")}
    found["L_k"] = (kept["L_k"] + shares.log()).logsumexp(0)
    found["kl_q_p"] = found["L_k"] - found["elbo"]
    found["ess"] = (2 * kept["log_sum"].logsumexp(0) - kept["log_squares"].logsumexp(0)).exp().clamp(1, trained)
    return found
