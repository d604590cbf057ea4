"""Active units: the latent dimensions of which the posterior mean depends on the datum."""

from __future__ import annotations

import torch
from torch import Tensor

from ovis.diagnostics import Diagnostic
from ovis.models.template import ParticleModel

__all__ = ["active_units"]


@torch.no_grad()
def active_units(
    model: ParticleModel, x: Tensor, mc_samples: int = 1000, threshold: float = 1e-3, max_rows: int = 65536
) -> Diagnostic:
    """Number of dimensions d with Var_x(E_q[z_d | x]) above a threshold (Burda et al. 2016, sec. 5.2).

    Only the inference network runs, and each datum is encoded once.

    Args:
        model: the model.
        x: data, shape [n, *event], n >= 2.
        mc_samples: samples of each datum.
        threshold: on the variance.
        max_rows: samples held at once.

    Returns:
        ``active_units/`` au, over all layers, and au_1, au_2, ... of each, the one nearest to x first.
    """
    batch = max(1, max_rows // mc_samples)
    means: list[list[Tensor]] = []
    for rows in x.split(batch):
        z, _ = model.infer(model.encode(rows).unsqueeze(1), (len(rows), mc_samples), False, 0.0, None)
        means.append([sample.mean(1).flatten(1).double() for sample in z])
    layers = [torch.cat(parts) for parts in zip(*means, strict=True)]
    counts = [(layer.var(0) > threshold).sum() for layer in layers]
    stats = {f"au_{number}": count for number, count in enumerate(counts, start=1)}
    return Diagnostic({"active_units": {"au": torch.stack(counts).sum(), **stats}})
