"""The estimators once more, as a textbook writes them: loops over particles, float64, autograd of an objective.

Nothing of the package is used. An objective is ascended, and its gradient is the estimate; numbers that come from
:func:`number` are constants. With the bound L = 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha) as a function of all
parameters and signals s_k = d_k - c_k, the score-function gradient to phi is

    grad E[L] = E[sum_k (L - v_k - c_k) grad log q_k + grad L at fixed samples] + E[sum_k v_k grad log q_k],

whose last terms cancel where log w contains - log q, and do not with beta or free bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Particle:
    """Log-densities of one sample, with graph."""

    px: Tensor
    pz: list[Tensor]
    qz: list[Tensor]
    z: list[Tensor] = field(default_factory=list)
    pathwise: Sequence[bool] = ()  # which layers are functions of the noise; none by default

    @property
    def log_q(self) -> Tensor:
        """Of the layers whose score is needed: those that are not pathwise."""
        pathwise = self.pathwise or [False] * len(self.qz)
        return sum((q for q, other in zip(self.qz, pathwise, strict=True) if not other), torch.zeros(()).double())

    @property
    def kl(self) -> float:
        return sum(number(q) - number(p) for p, q in zip(self.pz, self.qz, strict=True))

    def log_w(self, beta: float = 1.0, freebits: float | None = None) -> Tensor:
        total = self.px
        for p, q in zip(self.pz, self.qz, strict=True):
            gap = q - p
            if freebits is not None and number(gap) < freebits:
                gap = torch.tensor(freebits, dtype=torch.float64)
            total = total - beta * gap
        return total


@dataclass(frozen=True)
class Settings:
    alpha: float = 0.0
    beta: float = 1.0
    freebits: float | None = None


@dataclass(frozen=True)
class Objective:
    """One bound of one datum."""

    value: float
    theta: Tensor  # its gradient to theta is the estimate
    phi: Tensor  # its gradient to phi
    baseline: Tensor | float = 0.0  # its gradient to the parameters of the baseline
    size: float = 1.0  # how large the factors of the log-densities are


def number(value: Tensor) -> float:
    return float(value.detach())


def log_sum_exp(values: Sequence[float]) -> float:
    top = max(values, default=-math.inf)
    return top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in values))


def softmax(values: Sequence[float]) -> list[float]:
    total = log_sum_exp(values)
    return [math.exp(value - total) for value in values]


def bound_of(log_w: Sequence[Tensor], alpha: float) -> Tensor:
    """1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha); weights of zero add nothing."""
    terms = [(1 - alpha) * each for each in log_w if number(each) > -math.inf]
    if not terms:
        return torch.tensor(-math.inf, dtype=torch.float64)
    return (torch.stack(terms).logsumexp(0) - math.log(len(log_w))) / (1 - alpha)


# --------------------------------------------------------------------------------------------------- control variates

Variate = Callable[[list[float], int, list[float], float], float]


def without(values: Sequence[float], k: int) -> list[float]:
    return [value for i, value in enumerate(values) if i != k]


def no_variate(log_w: list[float], k: int, extra: list[float], alpha: float) -> float:
    return 0.0


def vimco_arithmetic(log_w: list[float], k: int, extra: list[float], alpha: float) -> float:
    others = [(1 - alpha) * each for each in without(log_w, k)]
    return (log_sum_exp(others) - math.log(len(others))) / (1 - alpha)


def vimco_geometric(log_w: list[float], k: int, extra: list[float], alpha: float) -> float:
    others = [(1 - alpha) * each for each in without(log_w, k)]
    return (log_sum_exp([*others, sum(others) / len(others)]) - math.log(len(log_w))) / (1 - alpha)


def ovis_asymptotic(gamma: float) -> Variate:
    def variate(log_w: list[float], k: int, extra: list[float], alpha: float) -> float:
        share = softmax([(1 - alpha) * each for each in log_w])[k]
        constant = math.log(1 - 1 / len(log_w))
        return vimco_arithmetic(log_w, k, extra, alpha) - gamma * share + (1 - gamma) * constant

    return variate


def ovis_monte_carlo(log_w: list[float], k: int, extra: list[float], alpha: float) -> float:
    """The prefactor with each auxiliary sample in the place of particle k."""
    total = 0.0
    for other in extra:
        replaced = [(1 - alpha) * each for each in (*log_w[:k], other, *log_w[k + 1 :])]
        total += (log_sum_exp(replaced) - math.log(len(log_w))) / (1 - alpha) - softmax(replaced)[k]
    return total / len(extra)


# ---------------------------------------------------------------------------------------------------------- estimators


def score(
    particles: Sequence[Particle],
    extra: Sequence[Particle],
    settings: Settings,
    variate: Variate,
    baseline: Tensor | float = 0.0,
) -> Objective:
    """A score-function estimator; of mixed latents, where some layers are functions of the noise."""
    log_w = [each.log_w(settings.beta, settings.freebits) for each in particles]
    values = [number(each) for each in log_w]
    auxiliary = [number(each.log_w(settings.beta, settings.freebits)) for each in extra]
    shares = softmax([(1 - settings.alpha) * value for value in values])
    bound = bound_of(log_w, settings.alpha)
    phi: Tensor = bound
    fit: Tensor | float = 0.0
    size = 0.0
    for k, particle in enumerate(particles):
        d = number(bound) - shares[k]
        signal = d - variate(values, k, auxiliary, settings.alpha)
        if isinstance(baseline, Tensor):
            signal -= number(baseline)
            fit = fit - (d - baseline) ** 2 / 2 / len(particles)
        phi = phi + (signal + shares[k]) * particle.log_q
        size += abs(signal) + shares[k]
    return Objective(number(bound), bound, phi, fit, size)


def leave_one_out(particles: Sequence[Particle], settings: Settings) -> Objective:
    """REINFORCE of the ELBO, with the mean log-weight of the other particles as the baseline.

    The log-weight's own term in log q, of which E[grad log q] = 0 is known, is left out.
    """
    log_w = [each.log_w(settings.beta) for each in particles]
    values, count = [number(each) for each in log_w], len(particles)
    mean = torch.stack(log_w).mean()
    phi, size = mean, 1.0
    for k, particle in enumerate(particles):
        signal = (values[k] - sum(without(values, k)) / (count - 1)) / count
        phi = phi + (signal + settings.beta / count) * particle.log_q
        size += abs(signal)
    return Objective(number(mean), mean, phi, size=size)


def ovis_inclusive(auxiliary: int) -> Callable[[Sequence[Particle], Settings], Objective]:
    """OVIS_MC within a budget: the last particles are the auxiliary samples of phi; theta's bound has all."""

    def objective(particles: Sequence[Particle], settings: Settings) -> Objective:
        split = len(particles) - auxiliary
        whole = score(particles, [], settings, no_variate)
        part = score(particles[:split], particles[split:], settings, ovis_monte_carlo)
        return Objective(whole.value, whole.theta, part.phi, size=part.size)

    return objective


def wake_wake(particles: Sequence[Particle], settings: Settings) -> Objective:
    log_w = [each.log_w() for each in particles]
    shares = softmax([(1 - settings.alpha) * number(each) for each in log_w])
    bound = bound_of(log_w, settings.alpha)
    phi = torch.stack([v * each.log_q for v, each in zip(shares, particles, strict=True)]).sum()
    return Objective(number(bound), bound, phi)


def wake_sleep(particles: Sequence[Particle], dreams: Sequence[Tensor], settings: Settings) -> Objective:
    """``dreams`` are log q(z|x) of pairs (x, z) of the model, as many as particles."""
    bound = bound_of([each.log_w() for each in particles], settings.alpha)
    return Objective(number(bound), bound, torch.stack(list(dreams)).mean())


def tvo(partitions: int, first: float, rule: str = "left") -> Callable[[Sequence[Particle], Settings], Objective]:
    """sum_b D_b (E_b grad log w + K/(K - 1) Cov_b(log w, grad log pi_b)), log pi_b = log q + b log w."""
    inner = [first ** (1 - i / (partitions - 1)) for i in range(partitions - 1)]
    knots = [0.0, *inner, 1.0]

    def objective(particles: Sequence[Particle], settings: Settings) -> Objective:
        log_w = [each.log_w(settings.beta, settings.freebits) for each in particles]
        values, count = [number(each) for each in log_w], len(particles)
        total, value, size = torch.zeros((), dtype=torch.float64), 0.0, 0.0
        for low, high in itertools.pairwise(knots):
            nodes = {"left": [low], "right": [high], "trapz": [low, high]}[rule]
            for b in nodes:
                width = (high - low) / len(nodes)
                shares = softmax([b * each for each in values])
                mean = sum(v * each for v, each in zip(shares, values, strict=True))
                log_pi = [each.log_q + b * w for each, w in zip(particles, log_w, strict=True)]
                centre = torch.stack([v * each for v, each in zip(shares, log_pi, strict=True)]).sum()
                value += width * mean
                for v, w, number_w, pi in zip(shares, log_w, values, log_pi, strict=True):
                    total = total + width * v * w
                    total = total + width * count / (count - 1) * v * (number_w - mean) * (pi - centre)
                    size += width * v * (1 + abs(number_w - mean))
        return Objective(value, total, total, size=size)

    return objective


def pathwise_iwae(particles: Sequence[Particle], settings: Settings) -> Objective:
    """Also STL, with particles that are scored with the parameters of q detached."""
    bound = bound_of([each.log_w(settings.beta, settings.freebits) for each in particles], settings.alpha)
    return Objective(number(bound), bound, bound)


def pathwise_vae(particles: Sequence[Particle], settings: Settings) -> Objective:
    mean = torch.stack([each.log_w(settings.beta, settings.freebits) for each in particles]).mean()
    return Objective(number(mean), mean, mean)


def dreg(particles: Sequence[Particle], settings: Settings) -> Objective:
    """The score of q is reparameterized again: - beta v_k grad log q gives - beta dv_k/dz_k, by autograd of v_k."""
    log_w = [each.log_w(settings.beta) for each in particles]
    bound = bound_of(log_w, settings.alpha)
    shares = torch.stack([(1 - settings.alpha) * each for each in log_w]).softmax(0)
    phi = torch.zeros((), dtype=torch.float64)
    for share, w, particle in zip(shares, log_w, particles, strict=True):
        (z,) = particle.z
        slope = torch.autograd.grad(w, z, retain_graph=True)[0]
        again = torch.autograd.grad(share, z, retain_graph=True)[0]
        phi = phi + ((number(share) * slope - settings.beta * again).detach() * z).sum()
    return Objective(number(bound), bound, phi)


# ----------------------------------------------------------------------------------------------------------- densities


def log_normal_density(value: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    return -(((value - location) / scale) ** 2) / 2 - scale.log() - math.log(2 * math.pi) / 2


def log_density(family: str, value: Tensor, first: Tensor, second: Tensor, logits: Tensor) -> Tensor:
    """Log-density of one value [*event], summed over all variables; parameters as of random_models.parameters."""
    if family == "bernoulli":
        density = torch.where(value == 1, torch.sigmoid(logits), torch.sigmoid(-logits)).log()
    elif family in ("one-hot", "category"):
        index = value.argmax(-1) if family == "one-hot" else value
        density = logits.gather(-1, index.unsqueeze(-1)).squeeze(-1) - logits.exp().sum(-1).log()
    elif family == "normal":
        density = log_normal_density(value, first, second)
    elif family == "lognormal":
        density = log_normal_density(value.log(), first, second) - value.log()
    elif family == "gamma":
        density = first * second.log() + (first - 1) * value.log() - second * value - torch.lgamma(first)
    elif family == "beta":
        constant = torch.lgamma(first) + torch.lgamma(second) - torch.lgamma(first + second)
        density = (first - 1) * value.log() + (second - 1) * (1 - value).log() - constant
    else:
        assert family == "mixture"
        weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
        density = (weights * log_normal_density(value.unsqueeze(-1), first, second).exp()).sum(-1).log()
    return density.sum()


def reparameterized(family: str, value: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The same value as a function of its parameters, at fixed noise."""
    if family == "normal":
        noise = ((value - first) / second).detach()
        return first + second * noise
    if family == "lognormal":
        noise = ((value.log() - first) / second).detach()
        return (first + second * noise).exp()
    assert family == "gamma"
    # value * rate has the distribution function P(first, .), and keeps its quantile: d = - (dP/da) / density
    standard, step = (value * second).detach(), 1e-4
    a = first.detach()
    slope = (torch.special.gammainc(a + step, standard) - torch.special.gammainc(a - step, standard)) / (2 * step)
    density = ((a - 1) * standard.log() - standard - torch.lgamma(a)).exp()
    return (standard - slope / density * (first - a)) / second
