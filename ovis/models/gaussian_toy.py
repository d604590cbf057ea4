"""Gaussian toy model with a known optimum (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional as F

from ovis.functional.precision import at_least_single
from ovis.models.model import Model
from ovis.models.template import Output

__all__ = ["GaussianToyVAE"]


class GaussianToyVAE(Model):
    """Gaussian toy model whose optimal parameters and exact posterior are known.

    p(z) = N(z; mu, I), p(x|z) = N(x; z, I), q(z|x) = N(z; A x + b, scale^2 I), all in D dimensions (Rainforth et al.
    2018, https://arxiv.org/abs/1802.04537). Use it to study how the signal-to-noise ratio of gradients depends on K.
    The exact posterior is N((x + mu)/2, I/2). For data with mean m the bounds are largest near mu = m, A = I/2,
    b = m/2.

    Args:
        D: dimensions.
        x_mean: mean m of the data, shape [D], which determines the optimum; None: zeros.
        scale: standard deviation of q. With 2/3, as in Figure 1 of Lievin et al. 2020
            (https://arxiv.org/abs/2008.01998), q is narrower than the posterior and the weights are unbounded.
            Rainforth et al. use a *variance* of 2/3, ``scale=(2 / 3) ** 0.5``: a wider q and bounded weights.

    See also:
        :func:`ovis.analysis.closed_form.location_moments`, the moments of its gradients in closed form.
    """

    #: name of the parameter that is added to the location of q: d location / d b = 1
    location = "b"

    data_mean: Tensor

    def __init__(self, D: int = 20, x_mean: Tensor | None = None, scale: float = 2 / 3):
        super().__init__()
        self.scale = scale
        self.mu = nn.Parameter(torch.zeros(D))
        self.A = nn.Parameter(torch.zeros(D, D))
        self.b = nn.Parameter(torch.zeros(D))
        self.register_buffer("data_mean", torch.zeros(D) if x_mean is None else x_mean.detach().float().clone())

    def encode(self, x: Tensor) -> Tensor:
        """Mean of q(z|x): [B, D] -> [B, D]."""
        return F.linear(x.to(self.A.dtype), self.A, self.b)

    def q(self, h: Tensor) -> Distribution:
        """q(z|x) from its mean."""
        return _normal(h, self.scale)

    def p(self, z: Tensor, h: Tensor) -> tuple[Distribution, Distribution]:
        """p(x|z) and p(z)."""
        return _normal(z), _normal(self.mu)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Output:
        prior = _normal(self.mu.expand(bs, -1))
        z = prior.sample()
        return {"px": _normal(z), "z": [z], "pz": [prior]}

    def noise_log_weights(self, x: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z|x) at the samples z = A x + b + scale noise: a quadratic form of the noise.

        Args:
            x: observations, shape [B, D].
            noise: standard normal, shape [B, D, N].

        Returns:
            shape [B, N], in nats.
        """
        mean, s = self.encode(x), self.scale
        constant = -0.5 * ((x - mean).square() + (mean - self.mu).square()).sum(-1) + len(self.mu) * (
            math.log(s) - 0.5 * math.log(2 * math.pi)
        )
        linear = s * self._pull(x, mean)
        product = torch.baddbmm(constant.view(-1, 1, 1), linear.unsqueeze(1), noise).squeeze(1)
        return torch.add(product, noise.square().sum(1), alpha=0.5 - s * s)

    def noise_slopes(self, x: Tensor) -> tuple[Tensor, float]:
        """The gradient of log p(x, z) with respect to z = A x + b + scale noise, which is offset + slope noise.

        Returns:
            offset [B, D] and slope.
        """
        return self._pull(x, self.encode(x)), -2 * self.scale

    def _pull(self, x: Tensor, mean: Tensor) -> Tensor:
        """Gradient of log p(x, z) at the mean of q."""
        return x + self.mu - 2 * mean

    def optimum(self) -> dict[str, Tensor]:
        """The optimal parameters for data with the stored mean, as new tensors, in the order mu, A, b."""
        mean = self.data_mean
        return {"mu": mean.clone(), "A": torch.eye(len(mean), dtype=mean.dtype, device=mean.device) / 2, "b": mean / 2}

    @torch.no_grad()
    def set_optimal_parameters(self, x: Tensor) -> None:
        """Store the mean of the data x [n, D] and set the parameters to the optimum for it."""
        self.data_mean.copy_(x.mean(0))
        for name, value in self.optimum().items():
            self.get_parameter(name).copy_(value)

    @torch.no_grad()
    def perturb(self, epsilon: float, generator: torch.Generator | None = None) -> None:
        """Set the parameters to the optimum + epsilon N(0, 1); calls do not accumulate.

        Args:
            epsilon: standard deviation of the perturbation.
            generator: generator of the noise, which is drawn for mu, A, b in this order, on the generator's device.
        """
        for name, value in self.optimum().items():
            device = value.device if generator is None else generator.device
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=device)
            self.get_parameter(name).copy_(value + epsilon * noise.to(value.device))

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Distances of the parameters to the optimum: L2 norms of the differences, as scalars.

        Args:
            x: observations; the distances do not depend on them.

        Returns:
            under ``gaussian_toy``: ``mse_mu``, ``mse_A``, ``mse_b``.
        """
        return {"gaussian_toy": {f"mse_{k}": (self.get_parameter(k) - v).norm() for k, v in self.optimum().items()}}


def _normal(mean: Tensor, scale: float = 1.0) -> Distribution:
    mean = at_least_single(mean)
    # a plain number would be copied from the host
    return Independent(Normal(mean, mean.new_full((), scale), validate_args=False), 1, validate_args=False)
