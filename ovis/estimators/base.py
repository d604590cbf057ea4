"""The base of all gradient estimators: one final forward; a leaf adds one method and declares what it is."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from ovis.diagnostics import Diagnostic
from ovis.estimators.records import Estimate, Particles
from ovis.estimators.sampling import draw, encode
from ovis.functional.log_weights import Alpha, check_alpha, effective_sample_size, log_mean_exp
from ovis.functional.surrogates import attach, scale_gradient

__all__ = ["BoundSettings", "Draw", "GradientEstimator", "ParticleSettings", "RenyiSettings"]


@dataclass(frozen=True)
class ParticleSettings:
    """Settings of every estimator; each may be given at construction and again at any call.

    Attributes:
        mc: M, independent copies of the bound that are averaged.
        iw: K, particles of each.
    """

    mc: int = 1
    iw: int = 1

    def __post_init__(self) -> None:
        for name in ("mc", "iw"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


@dataclass(frozen=True)
class BoundSettings(ParticleSettings):
    """Settings of the estimators of a bound on log p(x).

    Attributes:
        beta: weight of the KL term: log w = log p(x|z) - beta (log q(z|x) - log p(z)).
        tau: temperature of relaxed discrete samples; 0 for exact samples.
        freebits: floor of each layer's log q - log p, per sample, in nats; None for none.
    """

    beta: Alpha = 1.0
    tau: float = 0.0
    freebits: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, got {self.tau}")
        for name in ("beta", "freebits"):
            value = getattr(self, name)
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{name} must be a number, got {value}")


@dataclass(frozen=True)
class RenyiSettings(BoundSettings):
    """Settings of the estimators of the importance-weighted Renyi bound.

    Attributes:
        alpha: order of the bound, below 1; 0 is the importance-weighted bound.
    """

    alpha: Alpha = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha)


@dataclass(frozen=True)
class Draw:
    """What a leaf sees of one call: the weights of the particles, and the means to draw more."""

    model: nn.Module
    x: Tensor  # [B, *event]
    log_w: Tensor  # [B, M, K], detached
    settings: Any  # of the leaf's settings class
    auxiliary_log_w: Callable[[int], Tensor]  # S -> log-weights of S more samples of q, [B, M, S], without graph


class GradientEstimator(nn.Module, ABC):
    """A gradient estimator of a multi-sample bound.

    Args:
        settings: the fields of ``Settings``.

    Raises:
        TypeError: a setting that this estimator does not have; the message lists those it has.
        ValueError: a value it can't work with, e.g. too few particles.
    """

    #: The settings class: what may be given at construction and at every call.
    Settings: ClassVar[type[ParticleSettings]]
    #: Whether the samples carry a graph to the parameters of q.
    reparameterized: ClassVar[bool]
    #: Whether log q is scored with the parameters of q detached.
    detached_q: ClassVar[bool] = False
    #: The smallest iw.
    min_particles: ClassVar[int] = 1

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = self._settings(self.Settings(), settings)

    @property
    @abstractmethod
    def unbiased_for(self) -> str | None:
        """The bound of which the phi-gradient is unbiased: "L_K" (for any alpha), "L_{K-S}", "ELBO", or None."""

    @abstractmethod
    def estimate(self, sample: Draw) -> Estimate:
        """The factors of the log-densities' gradients, computed from detached log-weights."""

    @final  # type: ignore[misc]  # nn.Module declares forward as an attribute
    def forward(
        self, model: nn.Module, x: Tensor, backward: bool = False, return_diagnostics: bool = True, **overrides: Any
    ) -> tuple[Tensor, Diagnostic, dict[str, Any]]:
        """One loss: its value is minus the bound, its gradient is the estimator's.

        Args:
            model: a model written to :class:`ovis.models.Template`.
            x: observations, shape [B, *event].
            backward: call ``loss.mean().backward()`` here.
            return_diagnostics: measure the bound, too.
            overrides: settings for this call only, e.g. ``alpha=0.5``.

        Returns:
            loss: shape [B], in nats, averaged over the mc bounds.
            diagnostics: ``loss/`` L_k, elbo, kl, kl_q_p, nll, ess, each [B], from untempered weights.
            output: what the model returned.

        Raises:
            TypeError: an override that is no setting of this estimator.
            ValueError: a setting or a model that this estimator can't work with.
        """
        settings = self.configured(**overrides)
        encoded = encode(model, x)
        particles = self.draw(model, x, encoded, settings)
        loss = self.loss(model, x, encoded, particles, settings)
        diagnostics = Diagnostic()
        if return_diagnostics:
            diagnostics.update(bound_diagnostics(particles, settings.mc, settings.iw))
        if backward:
            loss.mean().backward()
        return loss, diagnostics, particles.output

    @final
    def draw(self, model: nn.Module, x: Tensor, encoded: Tensor | None, settings: Any) -> Particles:
        """The particles of a call: mc iw for each datum of x, which ``encode(model, x)`` has encoded."""
        return draw(
            model,
            x,
            settings.mc * settings.iw,
            encoded=encoded,
            reparameterize=self.reparameterized,
            tau=getattr(settings, "tau", 0.0),
            detach_q=self.detached_q,
        )

    @final
    def loss(self, model: nn.Module, x: Tensor, encoded: Tensor | None, particles: Particles, settings: Any) -> Tensor:
        """The loss [B] of given particles, which other estimators may share that draw theirs in the same way."""
        beta, freebits = getattr(settings, "beta", 1.0), getattr(settings, "freebits", None)
        log_w = particles.log_w(beta, freebits).view(len(x), settings.mc, settings.iw)

        @torch.no_grad()
        def auxiliary_log_w(count: int) -> Tensor:
            fresh = draw(model, x, settings.mc * count, encoded=encoded)
            return fresh.log_w(beta, freebits).view(len(x), settings.mc, count)

        estimate = self.estimate(Draw(model, x, log_w, settings, auxiliary_log_w))
        return _surrogate(particles, estimate, beta, freebits)

    def configured(self, **overrides: Any) -> Any:
        """The settings of a call with these overrides.

        Raises:
            TypeError, ValueError: as :meth:`forward`.
        """
        return self._settings(self.settings, overrides) if overrides else self.settings

    def _settings(self, current: ParticleSettings, changes: dict[str, Any]) -> Any:
        valid = [item.name for item in dataclasses.fields(self.Settings)]
        unknown = [name for name in changes if name not in valid]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}; valid: {', '.join(valid)}")
        settings = dataclasses.replace(current, **changes)
        if settings.iw < self.min_particles:
            raise ValueError(
                f"{type(self).__name__} leaves one particle out: iw must be at least {self.min_particles}, "
                f"got {settings.iw}"
            )
        if not self.reparameterized and getattr(settings, "tau", 0.0) > 0:
            raise ValueError(f"{type(self).__name__} needs exact samples: tau must be 0, got {settings.tau}")  # type: ignore[attr-defined]
        return settings


def _surrogate(particles: Particles, estimate: Estimate, beta: Alpha, freebits: float | None) -> Tensor:
    """Loss [B]: minus the mean of the bounds, with the gradient of the factors.

    log w holds beta (log p(z) - log q(z)) where it is not clamped: the factor of log p(z) is a beta, and that of log q
    is b + a (1 - beta), for a, b the factors at beta = 1 (so nothing is subtracted there; a is that of phi's bound).
    """
    factors = estimate.factors
    batch, mc = factors.value.shape
    if estimate.path is not None and particles.z[0].requires_grad:
        z, path = particles.z[0], estimate.path.flatten(1)
        scale_gradient(z, path if z.shape[:2] == path.shape else path.flatten())
    scale = -1 / mc
    joint = (scale * factors.log_p).view(batch, -1)
    score = (scale * factors.log_q).view(batch, -1)
    pairs = [(joint, particles.log_px)]
    if freebits is None and isinstance(beta, float | int) and beta == 1:
        pairs += [(joint, particles.log_pz.sum(-1)), (score, particles.log_qz.sum(-1))]
    else:
        free = beta * torch.ones_like(particles.log_pz.detach())
        if freebits is not None:
            free = free * (particles.log_qz.detach() - particles.log_pz.detach() >= freebits)
        layered = joint.unsqueeze(-1)
        phi = layered if estimate.phi_weights is None else (scale * estimate.phi_weights).view(batch, -1, 1)
        pairs += [(layered * free, particles.log_pz), (score.unsqueeze(-1) + phi * (1 - free), particles.log_qz)]
    loss = attach(-factors.value.mean(1), *pairs)
    if estimate.extra is not None:
        loss = attach(loss, (torch.ones_like(loss), loss), (torch.ones_like(loss), estimate.extra))
    return loss


@torch.no_grad()
def bound_diagnostics(particles: Particles, mc: int, iw: int) -> dict[str, dict[str, Tensor]]:
    """What is known of the bound from K untempered weights.

    Returns:
        ``loss/``, each [B], averaged over the mc bounds: L_k = log 1/K sum w; elbo = mean log w; kl = mean
        log q(z|x) - log p(z); kl_q_p = L_k - elbo, which tends to KL(q(z|x) || p(z|x)) as K grows; nll = - mean
        log p(x|z); in nats; ess, the effective sample size, in particles.
    """
    log_w = particles.log_w().view(-1, mc, iw)
    bound = log_mean_exp(log_w).mean(1)
    elbo = log_w.mean((1, 2))
    return {
        "loss": {
            "L_k": bound,
            "elbo": elbo,
            "kl": (particles.log_qz - particles.log_pz).sum(-1).mean(1),
            "kl_q_p": bound - elbo,
            "nll": -particles.log_px.mean(1),
            "ess": effective_sample_size(log_w).mean(1),
        }
    }
