"""Gaussian mixture with a learned prior (Le et al. 2019, https://arxiv.org/abs/1805.10469, section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from ovis.functional.precision import at_least_single
from ovis.models.layers import mlp
from ovis.models.template import Output, ParticleModel

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


class GaussianMixture(ParticleModel):
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

    def infer(
        self, features: Tensor, lead: tuple[int, ...], zgrads: bool, tau: float, given: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        if zgrads:
            raise ValueError("a Gaussian mixture has no reparameterized samples: use a score-function estimator")
        logits = at_least_single(features)
        posterior: Distribution = _Classes(logits=logits, validate_args=False)
        if given is not None:
            return [given[0]], [posterior]
        # one distribution per datum, from which all its particles are drawn
        z = posterior.sample() if len(lead) == 1 else posterior.sample(torch.Size(lead[1:])).squeeze(-1).T
        return [z.to(logits.dtype)], [posterior]

    def generate(self, z: Sequence[Tensor], tau: float) -> tuple[Distribution, list[Distribution]]:
        return self._observation(z[0]), [_Classes(logits=at_least_single(self.theta), validate_args=False)]

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
