"""Reliability of importance weights: effective sample size and Pareto shape of their tail."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ovis.diagnostics import Diagnostic
from ovis.estimators.sampling import draw, encode
from ovis.functional.log_weights import effective_sample_size
from ovis.nests import Nest, split_rows

__all__ = ["pareto_k", "pareto_shape", "weight_diagnostics"]

#: Smallest number of weights in a tail whose shape is estimated.
MIN_TAIL = 5


def pareto_k(log_w: Tensor) -> Tensor:
    """Pareto shape k of the largest importance weights: k-hat of PSIS.

    Use it to judge whether importance weights can be trusted. Weights have finite moments of orders below 1/k: their
    means are reliable for k < 0.7, their variance is finite for k < 0.5 (Vehtari et al. 2024,
    https://arxiv.org/abs/1507.02646). A generalized Pareto distribution is fitted to the tail: the
    min(K/5, 3 sqrt(K)) largest weights minus the largest weight that is not among them. Of these differences only the
    positive ones count; others are zero where weights tie.

    Args:
        log_w: log-weights, shape [..., K].

    Returns:
        shape [...], float64; infinite where the tail has fewer than 5 weights (K < 21, or ties), as in ArviZ;
        -infinite where all weights are equal; NaN where a log-weight is NaN or the largest weight is 0 or infinite.

    See also:
        :func:`weight_diagnostics` for the weights of a model.
    """
    log_w = log_w.detach().double()
    count = log_w.shape[-1]
    tail = min(math.ceil(count / 5), math.ceil(3 * math.sqrt(count)))
    shapes = torch.full(log_w.shape[:-1], torch.inf, dtype=torch.float64, device=log_w.device)
    if tail >= MIN_TAIL:
        top = log_w.topk(tail + 1).values
        weights = (top - top[..., :1]).exp()
        excess = (weights[..., :-1] - weights[..., -1:]).flip(-1)
        above = (excess > 0).sum(-1)
        for n in above[above >= MIN_TAIL].unique().tolist():
            shapes[above == n] = pareto_shape(excess[above == n][:, -n:])
    largest, smallest = log_w.amax(-1), log_w.amin(-1)  # NaN, if there is one
    shapes = torch.where(largest == smallest, -torch.inf, shapes)
    return torch.where(largest.isfinite(), shapes, torch.nan)


def pareto_shape(excess: Tensor) -> Tensor:
    """Shape k of a generalized Pareto distribution fitted to samples.

    Use :func:`pareto_k` for importance weights; this is its fit. The empirical Bayes estimate of Zhang and Stephens
    (2009, https://doi.org/10.1198/tech.2009.08017) is shrunk towards 1/2 as by ten prior observations,
    (n k + 5)/(n + 10), as in PSIS (Vehtari et al. 2024, https://arxiv.org/abs/1507.02646, appendix G).

    Args:
        excess: positive distances of samples to a threshold, in ascending order, shape [..., n].

    Returns:
        shape [...], float64.
    """
    excess = excess.double()
    n = excess.shape[-1]
    grid = 30 + math.isqrt(n)
    steps = torch.arange(1, grid + 1, dtype=torch.float64, device=excess.device) - 0.5
    quartile = excess[..., max(n // 4 + (n % 4 >= 2) - 1, 0), None]
    largest = excess[..., -1:]
    theta = 1 / largest + (1 - (grid / steps).sqrt()) / (3 * quartile)

    def shape_of(theta: Tensor) -> Tensor:
        return torch.log1p(-theta.unsqueeze(-1) * excess.unsqueeze(-2)).mean(-1)

    shape = shape_of(theta)
    log_likelihood = n * ((-theta / shape).log() - shape - 1)
    posterior = (log_likelihood.softmax(-1) * theta).sum(-1, keepdim=True)
    k = shape_of(posterior).squeeze(-1)
    return (n * k + 5) / (n + 10)


@torch.no_grad()
def weight_diagnostics(model: nn.Module, x: Nest, iw: int, max_rows: int = 65536) -> Diagnostic:
    """Effective sample size and Pareto k of the importance weights of newly drawn particles.

    Use it to see whether K is large enough for this q. ESS = (sum_k w_k)^2 / sum_k w_k^2 with w_k = p(x, z_k)/q(z_k|x).

    Args:
        model: the model.
        x: data, shape [n, *event], or a nest of such tensors.
        iw: K, particles of each datum.
        max_rows: largest number of particles in memory at once (at least those of one datum).

    Returns:
        ``weights/`` ess (in particles) and pareto_k, shape [n] each, and pareto_k_above_0.7, the share of the data
        whose k is above 0.7.

    See also:
        :func:`pareto_k`, :func:`ovis.functional.log_weights.effective_sample_size`.
    """
    ess, shapes = [], []
    for rows in split_rows(x, max(1, max_rows // iw)):
        log_w = draw(model, rows, iw, encoded=encode(model, rows)).log_w()
        ess.append(effective_sample_size(log_w))
        shapes.append(pareto_k(log_w))
    k = torch.cat(shapes)
    return Diagnostic({"weights": {"ess": torch.cat(ess), "pareto_k": k, "pareto_k_above_0.7": (k > 0.7).double()}})
