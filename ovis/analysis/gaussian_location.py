"""Fast gradients with respect to the location of a Gaussian q: without a graph, many draws at once.

With z_k = m + s e_k, every estimator's gradient with respect to m is, for its factors a_k of grad log p and b_k of
grad log q,

    score function     sum_k b_k e_k / s
    reparameterized    sum_k a_k c_k grad_z log p(x, z_k) + sum_k b_k (1 - c_k) e_k / s

where c_k scales the gradient into z_k (1; DReG: v_k) and the last sum, for a q that is detached (STL, DReG), is
- sum_k b_k c_k e_k / s. Where grad_z log p is affine in e, these are products of factors [estimators, K] with noise
[K, D]; the noise and the log-weights are shared, only the factors differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ovis.analysis.seeding import fill_normal, seeded_generator
from ovis.estimators.base import EstimatorInput, GradientEstimator
from ovis.estimators.reinforce import ReinforceBaseline
from ovis.estimators.wake_sleep import WakeSleep

__all__ = ["LocationGradientSampler", "LocationModel", "has_plain_factors"]

#: Particles in memory at once: few enough for a CPU's cache, many enough for a GPU's long kernels.
PARTICLES = {"cpu": 2**15, "cuda": 2**22}

#: The rows whose noise is drawn in one call are a multiple of this. Then chunks get the same numbers as the whole,
#: because torch's CPU generator makes normals in blocks of 16.
ROWS = 16


@runtime_checkable
class LocationModel(Protocol):
    """A model with q(z|x) = N(m(x), scale^2 I) and one parameter that is added to m."""

    scale: float
    location: str  # name of that parameter, shape [D]

    def noise_log_weights(self, x: Tensor, noise: Tensor) -> Tensor:
        """Log-weights of the particles z = m(x) + scale noise.

        Args:
            x: observations, shape [B, D].
            noise: standard normal, shape [B, D, N].

        Returns:
            shape [B, N], in nats.
        """

    def noise_slopes(self, x: Tensor) -> tuple[Tensor, float]:
        """grad_z log p(x, z) = offset + slope noise at z = m(x) + scale noise.

        Args:
            x: observations, shape [B, D].

        Returns:
            offset [B, D] and slope.
        """


def has_plain_factors(estimators: Mapping[str, GradientEstimator], **config: Any) -> bool:
    """Whether :class:`LocationGradientSampler` supports these estimators: equal mc and iw, plain factors.

    Factors are plain without beta, free bits, and additional terms of the loss (wake-sleep, REINFORCE with a baseline).

    Args:
        estimators: estimators by name.
        config: settings of all of them for the draws.
    """
    settings = [estimator.configured(**config) for estimator in estimators.values()]
    plain = all(getattr(s, "beta", 1) == 1 and getattr(s, "freebits", None) is None for s in settings)
    special = any(isinstance(estimator, WakeSleep | ReinforceBaseline) for estimator in estimators.values())
    return plain and not special and len({(s.mc, s.iw) for s in settings}) == 1


class LocationGradientSampler:
    """Samples gradients of the mean loss of x with respect to the location, for several estimators.

    Draw number i depends on (seed, i) alone, and the auxiliary samples of OVIS_MC come from a separate generator for
    each S, so a study of several estimators has exactly the draws of separate ones. (On a GPU, where the numbers of a
    call depend on its size, this holds for equal ``samples_per_batch``.)

    Args:
        estimators: estimators by name, all with the same mc and iw.
        model: the model.
        x: data, shape [B, D].
        seed: seed of the random numbers.
        samples_per_batch: largest number of particles in memory at once, at least 31 mc iw; None: what suits the
            device.
        config: settings of all estimators for these draws.

    Raises:
        ValueError: :func:`has_plain_factors` is false.
    """

    def __init__(
        self,
        estimators: Mapping[str, GradientEstimator],
        model: LocationModel,
        x: Tensor,
        seed: int = 0,
        samples_per_batch: int | None = None,
        **config: Any,
    ):
        self.estimators, self.model, self.x, self.seed = dict(estimators), model, x, seed
        self.settings = {name: e.configured(**config) for name, e in self.estimators.items()}
        first = next(iter(self.settings.values()))
        self.mc, self.iw = first.mc, first.iw
        if not has_plain_factors(self.estimators, **config):
            raise ValueError("these estimators differ in mc or iw, or one is more than factors of log-densities")
        self.particles = samples_per_batch or PARTICLES.get(x.device.type, PARTICLES["cpu"])

    @torch.no_grad()
    def __call__(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the draws with numbers start, ..., stop - 1 in order, a few at a time: [n, E, D] in float64."""
        rows, each = len(self.x), self.mc * self.iw
        batch = max(1, self.particles // (rows * each))
        size = rows if batch > 1 else min(rows, max(1, self.particles // (each * ROWS)) * ROWS)
        for first in range(start, stop, batch):
            numbers = range(first, min(first + batch, stop))
            generators = {
                count: [seeded_generator(self.x.device, self.seed, count, i) for i in numbers]
                for count in self._sample_counts()
            }
            total = torch.zeros(len(numbers), len(self.estimators), self.x.shape[1], dtype=torch.float64)
            total = total.to(self.x.device)
            for piece in self.x.split(_pieces(rows, size)):
                sums = self._sums(piece.repeat(len(numbers), 1), generators)
                total += sums.view(len(numbers), len(piece), *sums.shape[1:]).sum(1, dtype=torch.float64)
            yield total / -rows

    def _sample_counts(self) -> list[int]:
        """Keys of the generators: 0 for the particles, S for the S auxiliary samples of OVIS_MC."""
        return sorted({0} | {s.count for s in self.settings.values() if getattr(s, "exclusive", False)})

    def _sums(self, x: Tensor, generators: Mapping[int, list[torch.Generator]]) -> Tensor:
        """The gradient of each bound, summed over its particles: rows x [R, D] -> [R, E, D]."""

        def draw(key: int, count: int) -> Tensor:
            noise = x.new_empty(len(x), x.shape[1], self.mc * count)
            return fill_normal(noise, generators[key])

        def auxiliary_log_w(count: int) -> Tensor:
            return self.model.noise_log_weights(x, draw(count, count)).view(-1, self.mc, count)

        noise = draw(0, self.iw)
        log_w = self.model.noise_log_weights(x, noise).view(-1, self.mc, self.iw)
        offset, slope = self.model.noise_slopes(x)
        of_noise, of_offset = [], []
        for name, estimator in self.estimators.items():
            sample = EstimatorInput(cast(nn.Module, self.model), x, log_w, self.settings[name], auxiliary_log_w)
            estimate = estimator.estimate(sample)
            joint, score = (f.flatten(1) / self.mc for f in (estimate.factors.log_p, estimate.factors.log_q))
            if not estimator.reparameterized:
                of_noise.append(score / self.model.scale)
                of_offset.append(x.new_zeros(len(x)))
                continue
            path = 1.0 if estimate.path is None else estimate.path.flatten(1)
            explicit = -path if estimator.detached_q else 1 - path
            of_noise.append(joint * path * slope + score * explicit / self.model.scale)
            of_offset.append((joint * path).sum(-1))
        sums = torch.stack(of_noise, 1) @ noise.transpose(1, 2)
        return sums + torch.stack(of_offset, 1).unsqueeze(2) * offset.unsqueeze(1)


def _pieces(rows: int, size: int) -> list[int]:
    """Sizes of the chunks of ``rows`` rows; fewer than ``ROWS`` rows at the end belong to the chunk before them.

    torch's CPU generator makes fewer than 16 normals, as a small last chunk may have, in another way than more.
    """
    whole, rest = divmod(rows, size)
    if whole and rest < ROWS:
        return [size] * (whole - 1) + [size + rest]
    return [size] * whole + [rest]
