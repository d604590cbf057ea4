"""Families of latent variables of one stochastic layer: normal, Bernoulli and categorical.

A family turns a vector of parameters into a distribution. The encoder's output is such a vector, q(z|x), and so is the
prior's, p(z); zeros stand for N(0, I) or for the uniform distribution.

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

from ovis.models.distributions import BernoulliVector, OneHotVector

__all__ = ["BernoulliLatents", "CategoricalLatents", "Latents", "NormalLatents", "latents"]


@dataclass(frozen=True)
class Latents(ABC):
    """A family of N latent variables.

    Args:
        N: how many variables.
    """

    N: int

    #: dimensions of one sample
    event_dims = 1
    #: whether exact samples can be reparameterized
    continuous = False

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Numbers that fix a distribution."""

    @property
    def width(self) -> int:
        """Features of a sample that the decoder sees, after :meth:`embedding`."""
        return self.N

    @abstractmethod
    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        """The distribution, [..., parameters] -> batch [...]; ``tau`` > 0: relaxed at this temperature."""

    @abstractmethod
    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        """What the decoder sees of a sample, same shape; ``tau`` > 0: the sample is a relaxed one."""

    def embedding(self) -> nn.Module:
        """Values, [..., *event] -> [..., width]: the decoder's first module."""
        return nn.Identity()


class NormalLatents(Latents):
    """N independent normal variables; the parameters are the means, then the logarithms of the standard deviations."""

    continuous = True

    @property
    def parameters(self) -> int:
        return 2 * self.N

    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        loc, log_scale = parameters.chunk(2, -1)
        return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False)

    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        return z


class BernoulliLatents(Latents):
    """N independent Bernoulli variables; the parameters are the logits, the decoder sees 2z - 1."""

    @property
    def parameters(self) -> int:
        return self.N

    def distribution(self, parameters: Tensor, tau: float = 0.0) -> Distribution:
        if tau == 0:
            return BernoulliVector(parameters)
        relaxed = LogitRelaxedBernoulli(parameters.new_full((), tau), logits=parameters, validate_args=False)
        return Independent(relaxed, 1, validate_args=False)

    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        return 2 * (z.sigmoid() if tau else z) - 1


@dataclass(frozen=True)
class CategoricalLatents(Latents):
    """N independent variables of K categories as one-hot vectors, shape [N, K]; the parameters are their N K logits.

    Args:
        N: how many variables.
        K: categories of each.
        kdim: size of a learned embedding of the categories; 0: the decoder sees the one-hot vectors.
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
        relaxed = ExpRelaxedCategorical(parameters.new_full((), tau), logits=logits, validate_args=False)
        return Independent(relaxed, 1, validate_args=False)

    def values(self, z: Tensor, tau: float = 0.0) -> Tensor:
        return z.exp() if tau else z

    def embedding(self) -> nn.Module:
        flat = nn.Flatten(-2)
        return nn.Sequential(nn.Linear(self.K, self.kdim, bias=False), flat) if self.kdim else flat


def latents(prior: str, N: int, K: int = 8, kdim: int = 0) -> Latents:
    """The family of a name.

    Args:
        prior: normal, categorical or bernoulli.
        N: variables.
        K: categories, of a categorical family.
        kdim: size of a category's embedding, of a categorical family; 0: one-hot.

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
