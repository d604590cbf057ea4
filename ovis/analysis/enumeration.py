"""Exact gradients of models with few discrete latents, by summing over all values of all particles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, OneHotCategorical
from torch.func import functional_call, grad, vmap
from torch.nn.parameter import UninitializedParameter

from ovis.analysis.gradient_samples import NUMBERS, select_parameters
from ovis.analysis.module_state import batch_norm_modules, no_argument_validation, restored_buffers
from ovis.analysis.random_inputs import check_repeatable, record_random_inputs
from ovis.estimators.base import GradientEstimator
from ovis.estimators.sampling import observations, score, unwrapped
from ovis.functional.log_weights import iw_bound
from ovis.models.bernoulli_data import bernoulli_values, check_unit_interval
from ovis.models.distributions import BernoulliVector
from ovis.models.model import Model
from ovis.nests import Nest, count_rows, first_tensor, rows_of, split_rows

__all__ = [
    "ExactMoments",
    "NotEnumerableError",
    "exact_gradient",
    "exact_moments",
    "joint_states",
    "latent_states",
    "log_densities",
]

#: Largest number of combinations of particles that is enumerated.
MAX_TUPLES = 2**18

#: Largest number of combinations whose gradients are in memory at once.
BATCH = 2**12


class NotEnumerableError(ValueError):
    """The sum over all values of the latents does not exist, has too many terms, or can't be computed here."""


class ExactMoments(NamedTuple):
    """Mean and variance, without sampling noise, of one draw of the gradient of the mini-batch's mean loss.

    Attributes:
        mean: shape [D], float64.
        variance: variance of each entry, shape [D], float64.
    """

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def latent_states(model: Model, x: Nest) -> list[Tensor]:
    """Every joint value of a model's discrete latents.

    Use it to sum over the latents by hand; :func:`exact_gradient` and :func:`exact_moments` do so for gradients.

    Args:
        model: a model whose latents are Bernoulli or categorical.
        x: one datum, shape [1, *event]; it fixes the shapes of the latents.

    Returns:
        for each stochastic layer the values, shape [n, *event]; row i of all layers is one joint value.

    Raises:
        NotEnumerableError: the model is not a :class:`~ovis.models.Model`, so need not score given samples; a
            latent is neither Bernoulli nor categorical; or there are more than 2^18 values.
    """
    model = _check_model(model)
    with torch.random.fork_rng(), restored_buffers(model):
        output = model(x, particles=1)
    return joint_states(output["qz"], [z[0, 0] for z in output["z"]])


def joint_states(qz: Sequence[Distribution], samples: Sequence[Tensor]) -> list[Tensor]:
    """Every joint value of discrete variables.

    Args:
        qz: a distribution for each layer, Bernoulli or categorical.
        samples: a sample of each layer, shape [*event].

    Returns:
        for each layer the values, shape [n, *event]; row i of all layers is one joint value.

    Raises:
        NotEnumerableError: as :func:`latent_states`.
    """
    choices: list[Tensor] = []  # for each variable, one row per value
    shapes = []
    for sample, q in zip(samples, qz, strict=True):
        event = sample.shape
        values = _values(q, sample)
        count = event.numel() // values[0].numel()
        choices += [values] * count
        shapes.append((event, count))
    total = torch.Size(len(values) for values in choices).numel()
    if total > MAX_TUPLES:
        raise NotEnumerableError(f"the latents have {total} values: too many to enumerate")
    index = torch.cartesian_prod(*(torch.arange(len(values)) for values in choices)).view(total, -1)
    columns = [values[index[:, i].to(values.device)] for i, values in enumerate(choices)]
    states, start = [], 0
    for event, count in shapes:
        states.append(torch.stack(columns[start : start + count], 1).reshape(total, *event))
        start += count
    return states


def exact_gradient(
    model: Model,
    x: Nest,
    iw: int,
    alpha: float = 0.0,
    key_filter: str = "inference_network",
    beta: float = 1.0,
    freebits: float | None = None,
) -> Tensor:
    """Exact gradient of minus the bound L_K^alpha, averaged over the data: the mean of an unbiased estimator.

    Use it as the true gradient of a small model. It differentiates, including q's probabilities,

        L_K^alpha = sum over all z_1 ... z_K of prod_k q(z_k|x) 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha),
        log w = log p(x|z) - beta sum_l max(log q_l - log p_l, freebits).

    Values z to which q gives probability 0, such as masked categories, are left out, because their terms are 0. K = 1
    is the ELBO; alpha = 0 is the bound of Burda et al. 2016 (https://arxiv.org/abs/1509.00519), other alphas are the
    Renyi bounds of Li and Turner 2016 (https://arxiv.org/abs/1602.02311).

    Args:
        model: a model with few joint values of its discrete latents, n: n^iw is at most 2^18.
        x: data, shape [B, *event], or a nest of such tensors.
        iw: K.
        alpha: order of the Renyi bound.
        key_filter: selects parameters by name.
        beta: weight of the KL term.
        freebits: floor of each layer's log q - log p, in nats; None: no floor.

    Returns:
        the gradient with respect to the selected parameters, shape [D], zero for those the bound does not depend on.

    Raises:
        NotEnumerableError: too many combinations; latents that are not discrete; a model that is not a
            ``Model``, or that is not a function of x and z alone, as with dropout in training mode.
        ValueError: no parameter with such a name; iw < 1; Bernoulli observations outside [0, 1]; or an infinite bound,
            which has no gradient.

    See also:
        :func:`exact_moments`, :func:`ovis.analysis.oracle.check_estimator`.
    """
    model = _check_model(model)
    if iw < 1:
        raise ValueError(f"iw must be an integer of at least 1, got {iw}")
    parameters = list(select_parameters(model, key_filter).values())
    bounds = []
    for row in split_rows(x, 1):
        log_px, log_pz, log_qz = log_densities(model, row, _possible_states(model, row))
        gaps = log_qz - log_pz
        log_w = log_px - beta * (gaps if freebits is None else gaps.clamp(min=freebits)).sum(-1)
        index = _tuples(len(log_w), iw, first_tensor(x).device)
        probability = log_qz.sum(-1)[index].sum(-1).exp()
        bound = iw_bound(log_w[index], alpha)
        mean = (probability * bound).sum().detach()
        if not mean.isfinite():
            raise ValueError(
                f"the bound of {type(model).__name__} is {mean.item()}, which has no gradient: q(z|x) must be 0 where "
                "p(x, z) is 0, and no log-density may be NaN"
            )
        bounds.append((probability * (bound - mean)).sum())  # a constant would only add rounding errors
    loss = -torch.stack(bounds).mean()
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters, strict=True)]
    )


def exact_moments(
    estimator: GradientEstimator,
    model: Model,
    x: Nest,
    auxiliary: int | None = 0,
    key_filter: str = "inference_network",
    **config: Any,
) -> ExactMoments:
    """Exact mean and variance of one draw of an estimator's gradient.

    Use it to compare the bias and the variance of estimators without sampling noise. The estimator is run on every
    combination of particles z, with gradient g(z): the mean is sum_z q(z|x) g(z), the variance of an entry
    sum_z q(z|x) (g(z) - mean)^2.

    Args:
        estimator: a score-function estimator.
        model: a model with few joint values of its discrete latents, n: n^(mc iw + mc auxiliary) is at most 2^18.
        x: data, shape [B, *event], or a nest of such tensors.
        auxiliary: S, samples that the estimator draws in addition to its particles (``ovis-S<s>-exclusive``: s). None:
            as many as it draws in a call.
        key_filter: selects parameters by name.
        config: settings of the estimator, e.g. ``alpha``.

    Returns:
        the moments of the gradient of the mean loss of x, shape [D] each.

    Raises:
        NotEnumerableError: a model as in :func:`exact_gradient`; too many combinations; an estimator that draws from
            the prior, or reparameterized or unannounced samples; an estimator or a model that ``torch.func`` can't map.
        ValueError: no parameter with such a name; an estimator whose parameters are not initialized yet; or Bernoulli
            observations outside [0, 1].

    See also:
        :func:`exact_gradient`, :func:`ovis.analysis.closed_form.location_moments` for the Gaussian toy model.
    """
    model = _check_model(model)
    if any(isinstance(parameter, UninitializedParameter) for parameter in estimator.parameters()):
        raise ValueError(f"{type(estimator).__name__} makes its parameters at its first batch: call it once before")
    settings = estimator.configured(**config)
    if settings.particles_per_pass is not None:
        config["particles_per_pass"] = None  # the gradient is the same
    holder = _Holder(estimator, _Scripted(model))
    if auxiliary is None:
        _, sizes = record_random_inputs(lambda: holder.particles_drawn(rows_of(x, slice(1)), config))
    else:
        sizes = [settings.mc * settings.iw] + ([settings.mc * auxiliary] if auxiliary else [])
    constant = {name: value.detach() for name, value in holder.named_parameters()}
    selected = {
        f"model.inner.{name}": constant.pop(f"model.inner.{name}") for name in select_parameters(model, key_filter)
    }
    batch = max(1, min(BATCH, NUMBERS // sum(value.numel() for value in selected.values())))
    means, variances = [], []
    for row in split_rows(x, 1):
        states = _possible_states(model, row)
        log_q = log_densities(model, row, states)[2].sum(-1).detach()
        index = _tuples(len(log_q), sum(sizes), first_tensor(x).device)
        probability = log_q[index].sum(-1).exp().double()

        def one(chosen: Tensor, row: Nest = row, states: list[Tensor] = states) -> Tensor:
            script = [[layer[part].unsqueeze(0) for layer in states] for part in chosen.split(sizes)]
            grads = grad(lambda values: functional_call(holder, {**constant, **values}, (row, script, config)))(
                selected
            )
            return torch.cat([item.flatten() for item in grads.values()])

        try:
            with no_argument_validation(), restored_buffers(holder):
                mean, variance = _weighted_moments(one, index, probability, batch)
        except RuntimeError as error:
            raise NotEnumerableError(f"torch.func can't map the estimator and the model: {error}") from error
        means.append(mean)
        variances.append(variance)
    return ExactMoments(torch.stack(means).mean(0), torch.stack(variances).mean(0) / count_rows(x))


def _weighted_moments(
    gradient: Callable[[Tensor], Tensor], index: Nest, probability: Tensor, batch: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance [D] of the gradients of all combinations, of which ``batch`` are in memory at once."""
    origin = gradient(index[0]).double()  # moments about it lose no digits if the gradient hardly varies
    first, second = torch.zeros_like(origin), torch.zeros_like(origin)
    for part, weights in zip(index.split(batch), probability.split(batch), strict=True):
        distances = vmap(gradient)(part).double() - origin
        first += weights @ distances
        second += weights @ distances.square()
    return origin + first, (second - first.square()).clamp(min=0)


@torch.no_grad()
def _possible_states(model: Model, x: Nest) -> list[Tensor]:
    """Those of :func:`latent_states` that q(z|x) does not exclude, for a model that is a function of x and z alone."""
    states = latent_states(model, x)

    def scored() -> list[Tensor]:
        with restored_buffers(model):
            return list(log_densities(model, x, states))

    requests, (_, _, log_qz) = record_random_inputs(scored)
    if requests:
        raise NotEnumerableError(f"{type(model).__name__} draws random numbers for given samples: call model.eval()")
    check_repeatable(model, scored)
    possible = (log_qz != -torch.inf).all(-1)
    return [layer[possible] for layer in states]


def _check_model(model: nn.Module) -> Model:
    """Reject a module written to ``Template``, which may ignore given samples and draw others, and batch statistics."""
    model = unwrapped(model)
    name = type(model).__name__
    if not isinstance(model, Model):
        raise NotEnumerableError(
            f"{name} can't be enumerated, as it need not score the samples it is given: write it as an "
            "ovis.models.Model"
        )
    if batch_norm_modules(model):
        raise NotEnumerableError(f"{name} can't be enumerated with the batch's statistics: call model.eval()")
    return model


class _Scripted(Model):
    """A model whose samples are given, one list of layers for each call; without a script it counts what is drawn."""

    def __init__(self, inner: Model):
        super().__init__()
        self.inner = inner
        self.script: list[list[Tensor]] | None = None
        self.drawn: list[int] = []

    def encode(self, x: Nest) -> Nest:
        return self.inner.encode(x)

    def target(self, x: Nest) -> Tensor:
        return self.inner.target(x)

    def infer(
        self, h: Nest, lead: tuple[int, ...], zgrads: bool, tau: float, given: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        if zgrads:
            raise NotEnumerableError("reparameterized samples can't be enumerated: give a score-function estimator")
        if given is None and self.script is None:
            self.drawn.append(lead[1])
        elif given is None:
            if not self.script:
                raise NotEnumerableError(
                    "the estimator draws more samples than its particles: say how many with auxiliary"
                )
            given = self.script.pop(0)
        return self.inner.infer(h, lead, False, tau, given)

    def generate(self, z: Sequence[Tensor], h: Nest, tau: float) -> tuple[Distribution, list[Distribution]]:
        return self.inner.generate(z, h, tau)

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotEnumerableError("samples of the prior can't be enumerated here")


class _Holder(nn.Module):
    def __init__(self, estimator: GradientEstimator, model: _Scripted):
        super().__init__()
        self.estimator, self.model = estimator, model

    def forward(self, x: Nest, script: list[list[Tensor]], config: dict[str, Any]) -> Tensor:
        self.model.script = script
        loss, _, _ = self.estimator(self.model, x, return_diagnostics=False, **config)
        total: Tensor = loss.sum()
        return total

    def particles_drawn(self, x: Nest, config: dict[str, Any]) -> list[int]:
        """How many particles each draw of a call has."""
        self.model.script, self.model.drawn = None, []
        with restored_buffers(self):
            self.estimator(self.model, x, return_diagnostics=False, **config)
        return self.model.drawn


def log_densities(model: Model, x: Nest, states: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x|z) [n], log p(z_l|...) and log q(z_l|...) [n, L], of one datum in all states."""
    count = len(states[0])
    output = model(x, particles=count, z=[layer.unsqueeze(0) for layer in states])
    observed = observations(model, x).unsqueeze(1)
    bits = bernoulli_values(output["px"], observed)
    if bits is not None:
        check_unit_interval(bits)
    particles = score(output, observed, (1, count))
    return particles.log_px[0], particles.log_pz[0], particles.log_qz[0]


def _tuples(values: int, length: int, device: torch.device) -> Tensor:
    """Every tuple of indices, [values ** length, length]."""
    if values**length > MAX_TUPLES:
        raise NotEnumerableError(f"{values} values of {length} particles are {values**length} combinations: too many")
    return torch.cartesian_prod(*[torch.arange(values, device=device)] * length).view(-1, length)


def _values(q: Distribution, sample: Tensor) -> Tensor:
    """The values of one variable of q, one row each, as the model draws them."""
    while isinstance(q, Independent):
        q = q.base_dist
    if isinstance(q, Bernoulli | BernoulliVector):
        return torch.arange(2, device=sample.device).to(sample.dtype)
    if isinstance(q, OneHotCategorical):
        return torch.eye(q.event_shape[0], device=sample.device, dtype=sample.dtype)
    if isinstance(q, Categorical):
        return torch.arange(q.logits.shape[-1], device=sample.device).to(sample.dtype)
    raise NotEnumerableError(f"{type(q).__name__} latents can't be enumerated: they must be Bernoulli or categorical")
