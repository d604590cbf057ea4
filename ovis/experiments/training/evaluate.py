"""Evaluation of the bound with many particles, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
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

#: Kept of each chunk of particles.
KEPT = ("L_k", "elbo", "kl", "nll", "log_sum", "log_squares")

#: Values of x that the decoder may produce at once: on the CPU 4 MB in float32, about the size of its caches; elsewhere
#: about 128 MB, including what is computed from them.
CPU_VALUES, DEVICE_VALUES = 2**20, 2**23


@torch.no_grad()
def evaluate(
    model: nn.Module,
    x: Tensor,
    iw: int,
    batch_size: int,
    ess_particles: int | None = None,
    max_values: int | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Diagnostic:
    """Evaluate L_K and the other diagnostics of K untempered weights. The model's mode is restored afterwards.

    Args:
        model: the model; evaluated without dropout.
        x: data, shape [n, *event].
        iw: K. The particles are drawn in chunks of which only sums are kept: memory does not depend on K.
        batch_size: data per batch.
        ess_particles: number of particles for the ESS (that of training); None: all.
        max_values: largest number of values of x, or of parameters of q, in one chunk; None: what is fast on the
            device.
        on_batch: called after each batch.

    Returns:
        means over the data, ``loss/`` L_k, elbo, kl, kl_q_p, nll in nats, ess in particles: see
        :func:`ovis.estimators.base.bound_diagnostics`.
    """
    agg, training = Aggregator(), model.training
    keep_freed_memory()
    model.eval()
    try:
        for rows in x.split(batch_size):
            agg.update(evaluate_batch(model, rows, iw, ess_particles, max_values))
            if on_batch is not None:
                on_batch()
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
    chunks = _chunks(iw, max(1, max_values // widest))
    trained = iw if ess_particles is None else min(ess_particles, iw)
    if len(chunks) == 1:
        particles = draw(model, rows, iw, encoded=encoded)
        loss = bound_diagnostics(particles, 1, iw)["loss"]
        return {"loss": {**loss, "ess": effective_sample_size(particles.log_w()[:, :trained])}}
    # allocated before the first chunk: a result that outlives its chunk would fragment the memory of the next one
    kept = {name: rows.new_empty(len(chunks), len(rows), dtype=torch.float64) for name in KEPT}
    for i, (start, size) in enumerate(chunks):
        _measure(model, rows, size, encoded, max(0, min(size, trained - start)), {n: kept[n][i] for n in KEPT})
    return {"loss": _combine(kept, [size for _, size in chunks], trained)}


def _chunks(iw: int, largest: int) -> list[tuple[int, int]]:
    """First particle and size of each chunk; the sizes are nearly equal, at most ``largest``."""
    count = math.ceil(iw / largest)
    ends = [iw * (i + 1) // count for i in range(count)]
    return [(start, end - start) for start, end in pairwise([0, *ends])]


def _measure(
    model: nn.Module, x: Tensor, size: int, encoded: Tensor | None, trained: int, kept: dict[str, Tensor]
) -> None:
    """Fill in what is kept of a chunk, [B] each; its particles are freed.

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
    """The diagnostics of all particles from those of the chunks, [chunks, B], in double precision.

    log 1/K sum_k w_k = log sum_i (n_i / K) exp(L_i) over the chunks i of n_i particles; ESS = (sum w)^2 / sum w^2.
    """
    shares = kept["L_k"].new_tensor(sizes).unsqueeze(1) / sum(sizes)
    loss = {name: (shares * kept[name]).sum(0) for name in ("elbo", "kl", "nll")}
    loss["L_k"] = (kept["L_k"] + shares.log()).logsumexp(0)
    loss["kl_q_p"] = loss["L_k"] - loss["elbo"]
    loss["ess"] = (2 * kept["log_sum"].logsumexp(0) - kept["log_squares"].logsumexp(0)).exp().clamp(1, trained)
    return loss
