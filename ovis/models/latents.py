"""Families of latent variables of one stochastic layer: normal, Bernoulli and categorical.

A family turns a vector of parameters into a distribution. The encoder's output is such a vector, q(z|x), and so is the
prior's, p(z); zeros give N(0, I) or the uniform distribution.

Relaxed discrete samples (Maddison, Mnih and Teh 2017, https://arxiv.org/abs/1611.00712) stay unconstrained: z is the
logit of the relaxed Bernoulli, or the logarithm of the relaxed one-hot vector, with the densities of these. In float32
the values themselves soon round to 0 or 1, where their density is lost; the change of variables is the same for q and
p, so log p(z) - log q(z|x) is what the densities of the relaxed values would give (their appendix C.3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from ovis.functional.precision import at_least_single
from ovis.models.distributions import BernoulliVector, OneHotVector

__all__ = ["BernoulliLatents", "CategoricalLatents", "Latents", "NormalLatents", "latents"]


@dataclass(frozen=True)
class Latents(ABC):
    """A family of N latent variables.

    Args:
        N: number of variables.

    See also:
        :func:`latents`, which selects a family by its name.
    """

    N: int

    #: dimensions of one sample
    event_dims = 1
    #: whether exact samples can be reparameterized
    continuous = False

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters of a distribution."""

    @property
    def width(self) -> int:
        """Number of features that the decoder gets of a sample, after :meth:`embedding`."""
        return self.N

    @abstractmethod
    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        """The distribution with these parameters.

        Args:
            parameters: shape [..., P], with P = :attr:`parameters`.
            tau: temperature of a relaxed distribution; 0: exact.

        Returns:
            a distribution of batch shape [...] whose event is all N variables, at least in single precision.
        """

    @abstractmethod
    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        """The decoder's input for a sample.

        Args:
            z: a sample, shape [..., *event].
            tau: temperature with which it was drawn; 0: exact.

        Returns:
            the shape of ``z``.
        """

    def embedding(self) -> nn.Module:
        """The decoder's first module: values [..., *event] -> [..., width]."""
        return nn.Identity()


class NormalLatents(Latents):
    """N independent normal variables; the parameters are the means, then the logarithms of the standard deviations."""

    continuous = True

    @property
    def parameters(self) -> int:
        return 2 * self.N

    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        loc, log_scale = at_least_single(parameters).chunk(2, -1)
        return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False)

    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        return z


class BernoulliLatents(Latents):
    """N independent Bernoulli variables; the parameters are the logits, the decoder gets 2z - 1."""

    @property
    def parameters(self) -> int:
        return self.N

    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        if tau == 0:
            return BernoulliVector(parameters, finite=True)
        parameters = at_least_single(parameters)
        relaxed = LogitRelaxedBernoulli(parameters.new_full((), tau), logits=parameters, validate_args=False)
        return Independent(relaxed, 1, validate_args=False)

    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        return 2 * (z.sigmoid() if tau else z) - 1


@dataclass(frozen=True)
class CategoricalLatents(Latents):
    """N independent variables of K categories as one-hot vectors, shape [N, K]; the parameters are their N K logits.

    Args:
        N: number of variables.
        K: categories of each.
        kdim: size of a learned embedding of the categories; 0: the decoder gets the one-hot vectors.
    """

    K: int = 8
    kdim: int = 0

    event_dims = 2

    @property
    def parameters(self) -> int:
        return self.N * self.K

    @property
    def width(self) -> int:
        return self.N * (self.kdim or self.K)

    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        logits = parameters.reshape(*parameters.shape[:-1], self.N, self.K)
        if tau == 0:
            return Independent(OneHotVector(logits), 1, validate_args=False)
        logits = at_least_single(logits)
        relaxed = ExpRelaxedCategorical(logits.new_full((), tau), logits=logits, validate_args=False)
        return Independent(relaxed, 1, validate_args=False)

    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        return z.exp() if tau else z

    def embedding(self) -> nn.Module:
        flat = nn.Flatten(-2)
        return nn.Sequential(nn.Linear(self.K, self.kdim, bias=False), flat) if self.kdim else flat


def latents(prior: str, N: int, K: int = 8, kdim: int = 0) -> Latents:
    """The family of latent variables with a name.

    Args:
        prior: normal, categorical or bernoulli.
        N: number of variables.
        K: categories of a variable; used by the categorical family.
        kdim: size of a category's embedding, 0: one-hot; used by the categorical family.

    Raises:
        ValueError: an unknown name.
    """
    if prior == "normal":
        return NormalLatents(N)
    if prior == "bernoulli":
        return BernoulliLatents(N)
    if prior == "categorical":
        return CategoricalLatents(N, K, kdim)
    raise ValueError(f"unknown prior {prior!r}; valid: normal, categorical, bernoulli")
