"""The contract between models and estimators.

There are two kinds of models. A :class:`Template` gets a batch in which every datum is repeated once per particle. A
:class:`ParticleModel` encodes each datum once and draws its particles from the encoding, as all models of this package
do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict, final

from torch import Tensor, nn
from torch.distributions import Distribution

from ovis.models.bernoulli_data import check_first_batch

__all__ = ["Output", "ParticleModel", "Template"]


class Output(TypedDict, total=False):
    """Output of a model; the lists have one entry for each stochastic layer, the one nearest to x first."""

    px: Distribution  # p(x|z)
    z: list[Tensor]  # samples
    qz: list[Distribution]  # q(z_l | ...), absent in samples from the prior
    pz: list[Distribution]  # p(z_l | ...)


class Template(nn.Module, ABC):
    """A latent-variable model p(x, z) with its inference network q(z|x).

    Subclass it if a model can't be split into stages; prefer :class:`ParticleModel`, which encodes each datum once.
    Let the names of q's modules contain ``inference_network``: the gradient analysis selects parameters by name.
    """

    @abstractmethod
    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        """Sample z ~ q(z|x) once for every row of x and return the distributions.

        Args:
            x: observations, shape [R, *event]; an estimator with mc x iw particles repeats each datum mc x iw times.
            zgrads: reparameterize the samples (``rsample``); False for score-function estimators.
            kwargs: further settings of the call, such as the temperature ``tau``.

        Returns:
            a dict with ``px``, ``z``, ``qz``, ``pz``, see :class:`Output`.
        """

    @abstractmethod
    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        """Sample latents from the prior.

        Args:
            bs: number of samples.
            kwargs: further settings of the call, as in :meth:`forward`.

        Returns:
            a dict with ``px``, ``z``, ``pz``, see :class:`Output`; the leading shape is [bs].
        """


class ParticleModel(Template):
    """A model that encodes x once and draws any number of particles from the encoding.

    Subclass it for a new model: it defines three stages, :meth:`encode`, :meth:`infer` and :meth:`generate`, which
    :meth:`forward` connects, and :meth:`sample_from_prior`. ``lead`` below is [B], or [B, N] with particles.
    """

    #: Whether x are Bernoulli variables: values outside [0, 1] are then rejected.
    bernoulli: ClassVar[bool] = False

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The features of x that q depends on, computed once for all particles of a datum.

        Args:
            x: observations, shape [B, *event].

        Returns:
            shape [B, *features].
        """

    @abstractmethod
    def infer(
        self, features: Tensor, lead: tuple[int, ...], zgrads: bool, tau: float, given: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        """Sample every stochastic layer, or use ``given`` samples, and return the samples and their distributions q.

        Args:
            features: the encoding, shape [B, *features], or [B, 1, *features] with particles: broadcast it to ``lead``.
            lead: leading dimensions of the samples.
            zgrads: reparameterize.
            tau: temperature of relaxed discrete samples, 0 for exact ones.
            given: samples to score instead of drawing, each [*lead, *event].

        Returns:
            samples, each [*lead, *event], and distributions q(z_l | ...), the layer nearest to x first.

        Raises:
            ValueError: reparameterized samples of a discrete q with tau = 0.
        """

    @abstractmethod
    def generate(self, z: Sequence[Tensor], tau: float) -> tuple[Distribution, list[Distribution]]:
        """The distributions of the generative model at given samples.

        Args:
            z: the samples of each layer, the one nearest to x first, each [*lead, *event].
            tau: temperature of relaxed discrete samples, 0 for exact ones.

        Returns:
            p(x|z), and p(z_l | ...) of each layer.
        """

    @final  # type: ignore[misc]  # nn.Module declares forward as an attribute
    def forward(
        self,
        x: Tensor,
        zgrads: bool = False,
        *,
        particles: int | None = None,
        tau: float = 0.0,
        encoded: Tensor | None = None,
        z: Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> Output:
        """Draw particles from q(z|x), or score given ones.

        Args:
            x: observations, shape [B, *event].
            zgrads: reparameterize the samples.
            particles: N, samples for each datum: everything then has leading shape [B, N]; None: one, shape [B].
            tau: temperature of relaxed discrete samples, 0 for exact ones.
            encoded: the result of :meth:`encode`, if it is already known.
            z: samples to score instead of drawing, each [B, *event], or [B, N, *event] with particles.
            kwargs: ignored, because a :class:`Template` may be passed settings of other models.

        Returns:
            ``px``, ``z``, ``qz``, ``pz``, see :class:`Output`.

        Raises:
            ValueError: Bernoulli observations outside [0, 1], in the model's first batch.
        """
        if self.bernoulli:
            check_first_batch(self, x)
        features = self.encode(x) if encoded is None else encoded
        lead: tuple[int, ...] = (len(x),)
        if particles is not None:
            features, lead = features.unsqueeze(1), (len(x), particles)
        samples, qz = self.infer(features, lead, zgrads, tau, z)
        px, pz = self.generate(samples, tau if zgrads else 0.0)
        return {"px": px, "z": samples, "qz": qz, "pz": pz}
