"""The contract between models and estimators.

There are two kinds of models. A :class:`Template` gets a batch in which every datum is repeated once per particle. A
:class:`ovis.models.Model` encodes each datum once and draws its particles from the encoding, as all models of this
package do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypedDict

from torch import Tensor, nn
from torch.distributions import Distribution

from ovis.nests import Nest

__all__ = ["Output", "Template"]


class Output(TypedDict, total=False):
    """Output of a model; the lists have one entry for each stochastic layer, the one nearest to x first."""

    px: Distribution  # p(x|z)
    z: list[Tensor]  # samples
    qz: list[Distribution]  # q(z_l | ...), absent in samples from the prior
    pz: list[Distribution]  # p(z_l | ...)


class Template(nn.Module, ABC):
    """A latent-variable model p(x, z) with its inference network q(z|x).

    Subclass it if a model can't be split into stages; prefer :class:`ovis.models.Model`, which encodes each datum once.
    Let the names of q's modules contain ``inference_network``: the gradient analysis selects parameters by name.
    """

    @abstractmethod
    def forward(self, x: Nest, zgrads: bool = False, **kwargs: Any) -> Any:
        """Sample z ~ q(z|x) once for every row of x and return the distributions.

        Args:
            x: observations, shape [R, *event], or a dict, list or tuple of such tensors; an estimator with mc x iw
                particles repeats each datum mc x iw times.
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

    def target(self, x: Nest) -> Tensor:
        """The part of x that px scores: x itself, unless a subclass selects a part of a dict or converts it.

        Args:
            x: observations, shape [B, *event], or a nest of tensors.

        Returns:
            shape [B, *event].
        """
        target: Tensor = x
        return target
