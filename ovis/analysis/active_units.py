"""Active units: the latent dimensions whose posterior mean depends on the datum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from ovis.diagnostics import Diagnostic
from ovis.models.model import Model
from ovis.nests import Nest, count_rows, map_tensors, split_rows

__all__ = ["active_units"]


@torch.no_grad()
def active_units(
    model: Model, x: Nest, mc_samples: int = 1000, threshold: float = 1e-3, max_rows: int = 65536
) -> Diagnostic:
    """Number of active units: dimensions d with Var_x(E_q[z_d | x]) above a threshold.

    Use it to see how many latent dimensions a trained model uses (Burda et al. 2016, https://arxiv.org/abs/1509.00519).
    Only the inference network runs, and each datum is encoded once. E_q[z_d | x] is estimated by the mean of the
    conditional means of q(z_l | z_{l-1}), which is exact for the first layer; the variance due to sampling is
    subtracted.

    Args:
        model: the model.
        x: data, shape [n, *event], n >= 2.
        mc_samples: samples per datum.
        threshold: smallest variance of an active unit.
        max_rows: largest number of samples in memory at once (at least those of one datum).

    Returns:
        ``active_units/`` au, the number over all layers, and au_1, au_2, ... of each, the layer nearest to x first.

    Raises:
        ValueError: fewer than two data, no sample, or a model that is not a ``Model``.
    """
    if not isinstance(model, Model):
        raise ValueError(f"{type(model).__name__} is no Model: its inference network can't be run alone")
    count = count_rows(x)
    if count < 2 or mc_samples < 1:
        raise ValueError(f"a variance over data needs two of them, and a sample of each: got {count} and {mc_samples}")
    batch = max(1, max_rows // mc_samples)
    moments: list[list[tuple[Tensor, Tensor]]] = []
    for rows in split_rows(x, batch):
        h = map_tensors(lambda tensor: tensor.unsqueeze(1), model.encode(rows))
        _, qz = model.infer(h, (count_rows(rows), mc_samples), False, 0.0, None)
        moments.append([_mean_and_error(_means(q)) for q in qz])
    counts = []
    for layer in zip(*moments, strict=True):
        means, errors = (torch.cat(parts) for parts in zip(*layer, strict=True))
        counts.append((means.var(0) - errors.mean(0) > threshold).sum())
    stats = {f"au_{number}": count for number, count in enumerate(counts, start=1)}
    return Diagnostic({"active_units": {"au": torch.stack(counts).sum(), **stats}})


def _means(q: Distribution) -> Tensor:
    """Conditional means, shape [B, S, D]; for class indices, the probabilities of the classes."""
    mean = q.probs if isinstance(q, Categorical) else q.mean
    return mean.flatten(2).double()


def _mean_and_error(means: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the samples and variance of that mean: [B, S, D] -> [B, D] each. With S = 1 the mean is exact."""
    samples = means.shape[1]
    error = means.var(1) / samples if samples > 1 else torch.zeros_like(means[:, 0])
    return means.mean(1), error
