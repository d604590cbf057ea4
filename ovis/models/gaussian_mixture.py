"""Gaussian mixture with a learned prior (Le et al. 2019, https://arxiv.org/abs/1805.10469, section 5.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from ovis.functional.precision import at_least_single
from ovis.models.layers import mlp
from ovis.models.model import Model
from ovis.models.template import Output

__all__ = ["GaussianMixture"]


class _Classes(Categorical):
    """A categorical distribution whose probabilities are shared by all particles of a datum.

    torch's Categorical copies the probabilities for each particle, in the backward pass too.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of class indices [B, N], from logits [B, 1, C] or [C]: [B, N]."""
        index, table = value.long(), self.logits
        if table.dim() == 1 and index.dim() > 0:
            table = table.expand(*index.shape[:-1], -1)
        elif table.dim() == index.dim() + 1 and table.shape[-2] == 1:
            table = table.squeeze(-2)
        else:
            log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
            return log_prob
        return table.gather(-1, index)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's default)
        """Class indices, as numbers of the logits' precision."""
        index: Tensor = super().sample(sample_shape)  # type: ignore[no-untyped-call]
        return index.to(self.logits.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The distribution of all particles, which draws those of a datum from one copy of its probabilities."""
        shape = torch.Size(batch_shape)
        if len(shape) == 2 and self.batch_shape == (shape[0], 1):
            return _Particles(self, shape)
        wide: Distribution = super().expand(shape, _instance)  # type: ignore[no-untyped-call]
        return wide


class _Particles(Distribution):
    """N draws from each of B categorical distributions of batch shape [B, 1]."""

    def __init__(self, classes: _Classes, shape: torch.Size):
        super().__init__(shape, validate_args=False)
        self.classes = classes

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Class indices, shape [B, N]."""
        return self.classes.sample(self.batch_shape[1:]).squeeze(-1).T


class GaussianMixture(Model):
    """Gaussian mixture model with a learned prior, whose exact posterior is known.

    p(z) = softmax(theta)_z with z in {0..N-1}, p(x|z) = N(x; 10 z, 5^2), q(z|x) = softmax(phi(x))_z (Le et al. 2019,
    https://arxiv.org/abs/1805.10469, section 5.2). Use it to measure how far estimators bring prior and posterior from
    the true ones, see :meth:`diagnostics`. The data come from p*(z) proportional to 5 + z. A sample z is its class
    index as a float without event dimensions, because one-hot vectors would save nothing. Observations have shape
    [B, 1].

    Args:
        N: number of classes.
        hdim: hidden units of phi, a perceptron 1-hdim(tanh)-N.
    """

    #: distance of the means of neighbouring classes, and standard deviation of each class
    spacing = 10.0
    scale = 5.0

    true_logits: Tensor

    def __init__(self, N: int = 20, hdim: int = 16):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(N))
        self.phi = mlp(1, N, hdim, layers=1)
        self.register_buffer("true_logits", torch.log(5 + torch.arange(N, dtype=torch.get_default_dtype())))

    def encode(self, x: Tensor) -> Tensor:
        """Logits of q(z|x): [B, 1] -> [B, N]."""
        logits: Tensor = self.phi(x.to(self.theta.dtype))
        return logits

    def q(self, h: Tensor) -> Distribution:
        """q(z|x) from its logits."""
        return _Classes(logits=at_least_single(h), validate_args=False)

    def p(self, z: Tensor, h: Tensor) -> tuple[Distribution, Distribution]:
        """p(x|z) and p(z)."""
        return self._observation(z), _Classes(logits=at_least_single(self.theta), validate_args=False)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Output:
        logits = at_least_single(self.theta)
        prior: Distribution = Categorical(logits=logits.expand(bs, -1), validate_args=False)
        z = prior.sample().to(logits.dtype)
        return {"px": self._observation(z), "z": [z], "pz": [prior]}

    def true_posterior(self, x: Tensor) -> Tensor:
        """p*(z|x) proportional to (5 + z) N(x; 10 z, 5^2), exactly: [B, 1] -> [B, N]."""
        classes = torch.arange(len(self.theta), device=x.device, dtype=x.dtype)
        log_likelihood = -0.5 * ((x - self.spacing * classes) / self.scale) ** 2
        return torch.softmax(self.true_logits + log_likelihood, -1)

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Distances of q and of the prior to the true ones: L2 norms of differences of the N class probabilities.

        Args:
            x: observations, shape [B, 1].

        Returns:
            under ``gmm``: ``posterior_mse``, |q(.|x) - p*(.|x)|, shape [B]; ``prior_mse``, |p - p*|, a scalar.
        """
        posterior = torch.softmax(self.encode(x), -1) - self.true_posterior(x)
        prior = torch.softmax(self.theta, -1) - torch.softmax(self.true_logits, -1)
        return {"gmm": {"posterior_mse": posterior.norm(dim=-1), "prior_mse": prior.norm()}}

    def _observation(self, z: Tensor) -> Distribution:
        means = self.spacing * z.unsqueeze(-1)
        scale = means.new_full((), self.scale)  # a plain number would be copied from the host
        return Independent(Normal(means, scale, validate_args=False), 1, validate_args=False)
