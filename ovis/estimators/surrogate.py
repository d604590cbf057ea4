"""The loss whose gradient is an estimator's: log-densities with the factors of their gradients attached."""

from __future__ import annotations

import torch
from torch import Tensor

from ovis.estimators.types import Estimate, Particles
from ovis.functional.attach import UNKNOWN, attach, constant
from ovis.functional.log_weights import Alpha
from ovis.functional.surrogates import scale_gradient

__all__ = ["share_of_loss", "surrogate", "with_gradient_of"]

Pairs = list[tuple[Tensor, Tensor]]


def surrogate(particles: Particles, estimate: Estimate, beta: Alpha, freebits: float | None) -> Tensor:
    """The loss of all particles: minus the mean of the M bounds, with the gradient of the factors.

    Args:
        particles: scored samples with their graph, [B, M K].
        estimate: the factors, for M bounds of K particles.
        beta: weight of the KL term.
        freebits: smallest KL term of a layer, in nats; None: no limit.

    Returns:
        shape [B], in nats.
    """
    rule = constant if estimate.factors.constant else UNKNOWN
    return attach(-estimate.factors.value.mean(1), *_pairs(particles, estimate, beta, freebits), rule=rule)


def share_of_loss(
    particles: Particles, chunk: slice, estimate: Estimate, beta: Alpha, freebits: float | None
) -> Tensor:
    """A term of value 0 whose gradient is the contribution of some of the particles to that of :func:`surrogate`.

    Args:
        particles: scored samples of the chunk with their graph, [B, n].
        chunk: which n of the M K particles they are.
        estimate, beta, freebits: as for :func:`surrogate`.

    Returns:
        shape [B].
    """
    return attach(torch.zeros_like(estimate.factors.value[:, 0]), *_pairs(particles, estimate, beta, freebits, chunk))


def with_gradient_of(loss: Tensor, extra: Tensor) -> Tensor:
    """The value of ``loss`` with the sum of the gradients of both losses.

    Args:
        loss: shape [B].
        extra: shape [B]; only its gradient is used.

    Returns:
        shape [B].
    """
    ones = torch.ones_like(loss)
    return attach(loss, (ones, loss), (ones, extra), rule=constant)


def _pairs(
    particles: Particles, estimate: Estimate, beta: Alpha, freebits: float | None, chunk: slice | None = None
) -> Pairs:
    """Log-densities and the factors of their gradients in the loss.

    log w contains beta (log p(z) - log q(z)) where it is not clamped: the factor of log p(z) is a beta, and that of
    log q is b + a (1 - beta), for a, b the factors at beta = 1 (so nothing is subtracted there; a is that of phi's
    bound).
    """
    factors = estimate.factors
    scale = -1 / factors.value.shape[1]

    def of_these(values: Tensor) -> Tensor:  # [B, M, K] -> [B, n]
        values = values.flatten(1)
        return values if chunk is None else values[:, chunk]

    if estimate.path is not None and particles.z[0].requires_grad:
        z, path = particles.z[0], of_these(estimate.path)
        scale_gradient(z, path if z.shape[:2] == path.shape else path.flatten())
    joint, score = scale * of_these(factors.log_p), scale * of_these(factors.log_q)
    phi = joint if estimate.phi_weights is None else scale * of_these(estimate.phi_weights)
    if estimate.pathwise_log_q is not None:
        pathwise = [z.requires_grad for z in particles.z]
        score = _per_layer(pathwise, scale * of_these(estimate.pathwise_log_q), score)
        phi = _per_layer(pathwise, joint, phi)
    pairs = [(joint, particles.log_px)]
    if freebits is None and isinstance(beta, float | int) and beta == 1:
        log_q = particles.log_qz if score.dim() == particles.log_qz.dim() else particles.log_qz.sum(-1)
        return [*pairs, (joint, particles.log_pz.sum(-1)), (score, log_q)]
    free = beta * torch.ones_like(particles.log_pz.detach())
    if freebits is not None:
        free = free * (particles.log_qz.detach() - particles.log_pz.detach() >= freebits)
    score, phi = (part if part.dim() == free.dim() else part.unsqueeze(-1) for part in (score, phi))
    return [*pairs, (joint.unsqueeze(-1) * free, particles.log_pz), (score + phi * (1 - free), particles.log_qz)]


def _per_layer(pathwise: list[bool], of_pathwise: Tensor, of_scored: Tensor) -> Tensor:
    """The factors of each layer, [B, n, L]; [B, n] where all layers are of one kind."""
    if len(set(pathwise)) == 1:
        return of_pathwise if pathwise[0] else of_scored
    return torch.stack([of_pathwise if each else of_scored for each in pathwise], -1)
