"""The base class of all gradient estimators, which implements everything but the estimate."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from ovis.diagnostics import Diagnostic
from ovis.estimators.chunk_sizes import ChunkSizes
from ovis.estimators.chunked import ChunkedTerm, check_same_particles, chunked_loss, compute_in_chunks, independent_term
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.forward_context import ForwardContext, check_eager, independent_particles
from ovis.estimators.ids import EstimatorFacts, parse_estimator
from ovis.estimators.sampling import draw, encode
from ovis.estimators.surrogate import share_of_loss, surrogate, with_gradient_of
from ovis.estimators.types import Estimate, Particles
from ovis.functional.log_weights import effective_sample_size, log_mean_exp
from ovis.nests import Nest, first_tensor

__all__ = ["EstimatorInput", "GradientEstimator", "bound_diagnostics"]


@dataclass(frozen=True)
class EstimatorInput:
    """The input of :meth:`GradientEstimator.estimate`: the particles' log-weights, and a way to draw more particles.

    Attributes:
        model: the model.
        x: observations, shape [B, *event], or a nest of such tensors.
        log_w: log-weights, shape [B, M, K], detached.
        settings: of the estimator's settings class.
        auxiliary_log_w: S -> log-weights of S more samples of q for each bound, shape [B, M, S], without graph.
    """

    model: nn.Module
    x: Nest
    log_w: Tensor
    settings: Any
    auxiliary_log_w: Callable[[int], Tensor]


class GradientEstimator(nn.Module, ABC):
    """A gradient estimator of a multi-sample bound.

    A subclass sets ``facts`` and ``unbiased_for`` and computes an :class:`~ovis.estimators.types.Estimate` from
    detached log-weights; sampling, scoring, weights and the loss are implemented here. CONTRIBUTING.md describes the
    steps.

    Args:
        settings: the fields of ``Settings``, without those in ``facts.lacks``.

    Raises:
        TypeError: a setting that this estimator does not have; the message lists the valid ones.
        ValueError: an invalid value, e.g. too few particles.

    See also:
        :func:`ovis.estimator`, which builds an estimator from its id.
    """

    #: Its row in :data:`ovis.estimators.ids.ESTIMATORS`.
    facts: ClassVar[EstimatorFacts]
    #: The settings class, whose fields may be given at construction and at every call.
    Settings: ClassVar[type[EstimatorSettings]] = EstimatorSettings
    #: Whether log q is scored with the parameters of q detached.
    detached_q: ClassVar[bool] = False
    #: Whether layers that can't be reparameterized are scored, beside layers that can.
    mixed: ClassVar[bool] = False

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = self._settings(self.Settings(), settings)
        self.chunk_sizes = ChunkSizes()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _constructor_signature(cls)  # type: ignore[attr-defined]

    @property
    def id(self) -> str:
        """The id, from which :func:`ovis.estimator` builds this estimator, e.g. ``ovis-gamma1``."""
        family, grammar = self.facts.family, self.facts.grammar
        return family if grammar is None else grammar.finish(family, self._settings_of_id()).canonical

    def _settings_of_id(self) -> dict[str, Any]:
        """The settings that the id fixes."""
        examples = map(parse_estimator, self.facts.grammar.examples if self.facts.grammar else ())
        names = {name for example in examples if example.family == self.facts.family for name in example.config}
        return {name: getattr(self.settings, name) for name in names}

    def extra_repr(self) -> str:
        """The id and the settings that differ from the defaults, as torch shows them in the representation."""
        fixed = self._settings_of_id()
        settings = {name: value for name, value in self.settings.changed().items() if name not in fixed}
        return ", ".join(f"{name}={value!r}" for name, value in {"id": self.id, **settings}.items())

    @property
    def reparameterized(self) -> bool:
        """Whether the samples carry a graph to the parameters of q."""
        return self.facts.reparameterized

    @property
    @abstractmethod
    def unbiased_for(self) -> str | None:
        """The bound whose phi-gradient it estimates without bias: "L_K" (any alpha), "L_{K-S}", "ELBO", or None."""

    @abstractmethod
    def estimate(self, inputs: EstimatorInput) -> Estimate:
        """Compute the factors of the log-densities' gradients from detached log-weights: what a subclass defines.

        Args:
            inputs: log-weights [B, M, K], settings, and what else an estimator may need.

        Returns:
            factors with value [B, M] and log_p, log_q [B, M, K], and additional terms of the loss.

        See also:
            :func:`ovis.functional.surrogates.score_factors` and :func:`~ovis.functional.surrogates.pathwise_factors`,
            which make the factors of most estimators.
        """

    @final  # type: ignore[misc]  # nn.Module declares forward as an attribute
    def forward(
        self, model: nn.Module, x: Nest, backward: bool = False, return_diagnostics: bool = True, **overrides: Any
    ) -> tuple[Tensor, Diagnostic, dict[str, Any]]:
        """Compute a loss whose value is minus the bound and whose gradient is the estimator's.

        Args:
            model: a :class:`ovis.models.Model` or :class:`ovis.models.Template`, or a wrapper around it
                (``torch.compile``, DistributedDataParallel, DataParallel, AveragedModel).
            x: observations, shape [B, *event], or a dict, list or tuple of such tensors.
            backward: call ``loss.mean().backward()`` here.
            return_diagnostics: also compute the diagnostics of the bound.
            overrides: settings for this call only, e.g. ``alpha=0.5``, ``particles_per_pass=1000``.

        Returns:
            loss: shape [B], in nats, averaged over the mc bounds.
            diagnostics: ``loss/`` L_k, elbo, kl, kl_q_p, nll, ess, each [B], from untempered weights.
            output: what the model returned; empty if the particles were split into chunks, which are not kept.

        Raises:
            TypeError: an override that is not a setting of this estimator.
            ValueError: a setting or a model that this estimator does not support.
        """
        settings = self.configured(**overrides)
        encoded = encode(model, x)
        size = None if settings.particles_per_pass is None else self._chunk_size(model, x, encoded, settings)
        output: dict[str, Any] = {}
        if size is None:
            particles = self.draw(model, x, encoded, settings)
            loss, output = self.loss(model, x, encoded, particles, settings), particles.output
            measured = bound_diagnostics(particles, settings.mc, settings.iw) if return_diagnostics else {}
        else:
            loss, measured = self._loss_in_chunks(model, x, encoded, settings, size, return_diagnostics)
        if backward:
            loss.mean().backward()
        return loss, Diagnostic(measured), output

    @final
    def draw(
        self, model: nn.Module, x: Nest, encoded: Nest | None, settings: Any, count: int | None = None
    ) -> Particles:
        """Draw and score the particles of each datum, as :meth:`forward` does.

        Args:
            model: the model.
            x: observations, as for :meth:`forward`.
            encoded: the result of :func:`ovis.estimators.sampling.encode` for the model and x.
            settings: the result of :meth:`configured`.
            count: N, particles of each datum; None: mc iw.

        Returns:
            the particles, [B, N].

        Raises:
            ValueError: as :func:`ovis.estimators.sampling.draw`.
        """
        return draw(
            model,
            x,
            settings.mc * settings.iw if count is None else count,
            encoded=encoded,
            reparameterize=self.reparameterized,
            tau=settings.tau,
            detach_q=self.detached_q,
            mixed=self.mixed,
        )

    @final
    def loss(self, model: nn.Module, x: Nest, encoded: Nest | None, particles: Particles, settings: Any) -> Tensor:
        """The loss of given particles, which estimators that draw particles in the same way can share.

        Args:
            model: the model.
            x: observations, as for :meth:`forward`.
            encoded: the result of :func:`ovis.estimators.sampling.encode` for the model and x.
            particles: the result of :meth:`draw`, [B, mc iw].
            settings: the result of :meth:`configured`.

        Returns:
            shape [B], in nats, averaged over the mc bounds.
        """
        log_w = particles.log_w(settings.beta, settings.freebits)
        estimate = self._estimate(model, x, encoded, log_w, settings)
        loss = surrogate(particles, estimate, settings.beta, settings.freebits)
        extra = estimate.extra
        if estimate.extra_share is not None:
            extra = estimate.extra_share(settings.mc * settings.iw)
        return loss if extra is None else with_gradient_of(loss, extra)

    def _chunk_size(self, model: nn.Module, x: Nest, encoded: Nest | None, settings: Any) -> int | None:
        """Particles per chunk; None: all in one chunk."""
        size, count = settings.particles_per_pass, settings.mc * settings.iw
        if size == "auto":
            size = self.chunk_sizes.of(model, x, lambda count: self.draw(model, x, encoded, settings, count))
        return size if size < count else None

    def _loss_in_chunks(
        self, model: nn.Module, x: Nest, encoded: Nest | None, settings: Any, size: int, return_diagnostics: bool
    ) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        """The loss [B] of a call with ``size`` particles in memory at once, and the diagnostics, if requested."""
        check_eager()
        beta, freebits, count = settings.beta, settings.freebits, settings.mc * settings.iw
        device = first_tensor(x).device
        context = ForwardContext(model, device)

        def score(count: int) -> list[Tensor]:
            particles = self.draw(model, x, encoded, settings, count)
            log_w = particles.log_w(beta, freebits)
            return [log_w, particles.log_px, particles.gap] if return_diagnostics else [log_w]

        def share(chunk: slice, x: Nest, encoded: Nest | None) -> Tensor:
            particles = self.draw(model, x, encoded, settings, chunk.stop - chunk.start)
            check_same_particles(particles.log_w(beta, freebits), log_w[:, chunk], model)
            return share_of_loss(particles, chunk, estimate, beta, freebits)

        with independent_particles(model), context.autocast():
            log_w, *densities = compute_in_chunks(count, size, score)
            estimate = self._estimate(model, x, encoded, log_w, settings, size)
            terms = [ChunkedTerm(context, count, size, share)]
            if estimate.extra_share is not None:
                terms.append(independent_term(estimate.extra_share, count, size, ForwardContext(model, device)))
        loss = chunked_loss(-estimate.factors.value.mean(1), terms, model, x, encoded)
        if estimate.extra is not None:
            loss = with_gradient_of(loss, estimate.extra)
        if not return_diagnostics:
            return loss, {}
        return loss, bound_diagnostics(Particles.without_samples(*densities), settings.mc, settings.iw)

    def _estimate(
        self, model: nn.Module, x: Nest, encoded: Nest | None, log_w: Tensor, settings: Any, size: int | None = None
    ) -> Estimate:
        """The estimate from log-weights [B, M K]. Additional particles are drawn in chunks of ``size``."""

        def auxiliary_log_w(count: int) -> Tensor:
            count *= settings.mc

            def log_weights(n: int) -> list[Tensor]:
                return [draw(model, x, n, encoded=encoded).log_w(settings.beta, settings.freebits)]

            (log_w,) = compute_in_chunks(count, size or count, log_weights)
            return log_w.view(len(log_w), settings.mc, -1)

        log_w = log_w.view(len(log_w), settings.mc, settings.iw)
        return self.estimate(EstimatorInput(model, x, log_w, settings, auxiliary_log_w))

    def configured(self, **overrides: Any) -> Any:
        """The settings of a call with these overrides.

        Args:
            overrides: settings to change, e.g. ``alpha=0.5``; those of the estimator are left as they are.

        Raises:
            TypeError, ValueError: as :meth:`forward`.
        """
        return self._settings(self.settings, overrides) if overrides else self.settings

    def _settings(self, current: EstimatorSettings, changes: dict[str, Any]) -> Any:
        lacks = self.facts.lacks
        valid = [
            name for name in self.Settings.__dataclass_fields__ if name not in lacks
        ]  # torch.compile can trace this
        for name in changes:
            if name not in valid:
                reason = f" ({lacks[name]})" if name in lacks else ""
                raise TypeError(f"{type(self).__name__} has no setting {name!r}{reason}; valid: {', '.join(valid)}")
        settings = dataclasses.replace(current, **changes)
        if self.facts.needs_two_particles and settings.iw < 2:
            raise ValueError(f"{type(self).__name__} leaves one particle out: iw must be at least 2, got {settings.iw}")
        if not self.reparameterized and settings.tau > 0:
            raise ValueError(f"{type(self).__name__} needs exact samples: tau must be 0, got {settings.tau}")
        return settings


def _constructor_signature(cls: type[GradientEstimator]) -> inspect.Signature:
    """The parameters of ``__init__`` with the settings of the class, by name, in place of ``**settings``."""
    own = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD and hasattr(cls, "facts"):
        named = {parameter.name for parameter in own} | cls.facts.lacks.keys()
        own[-1:] = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in dataclasses.fields(cls.Settings)
            if field.name not in named
        ]
    return inspect.Signature(own)


@torch.no_grad()
def bound_diagnostics(particles: Particles, mc: int, iw: int) -> dict[str, dict[str, Tensor]]:
    """Diagnostics of the bound from K untempered weights.

    Args:
        particles: scored samples, [B, mc iw].
        mc: M, number of bounds.
        iw: K, particles of each.

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
