"""Draw and score particles, and check the model's output. Estimators call models only here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.optim.swa_utils import AveragedModel

from ovis.estimators.types import Particles
from ovis.models.bernoulli_data import bernoulli_values, check_first_batch
from ovis.models.distributions import BernoulliVector, detach_parameters, has_known_density, log_density
from ovis.models.masked import Masked
from ovis.models.model import Model
from ovis.nests import Nest, count_rows, map_tensors

__all__ = ["draw", "encode", "observations", "score", "score_dreams", "unwrapped"]

_NO_RSAMPLE = (
    "this estimator needs reparameterized samples, and {} {}: use a q with rsample (or relaxed samples, tau > 0), or a "
    "score-function estimator"
)


#: Wrappers whose ``module`` is the model.
_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile(model)``, DistributedDataParallel, DataParallel or AveragedModel."""
    while True:
        inner = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def encode(model: nn.Module, x: Nest) -> Nest | None:
    """The model's encoding of x, from which :func:`draw` draws any number of particles.

    Args:
        model: a :class:`ovis.models.Model`, any module written to ``Template``, or a wrapper around it.
        x: observations, shape [B, *event], or a nest of such tensors.

    Returns:
        shape [B, *features], or a nest of such tensors; None for a model that takes x repeated.

    Raises:
        ValueError: no data; something in x, or in the encoding, that is no tensor or has not B rows.
    """
    rows = count_rows(x)
    inner = unwrapped(model)
    if not isinstance(inner, Model):
        return None
    encoded = inner.encode(x)
    if not isinstance(encoded, Tensor) and count_rows(encoded, "the encoding") != rows:
        raise ValueError(f"the encoding of {type(inner).__name__} must have {rows} rows, one for each datum")
    return encoded


def observations(model: nn.Module, x: Nest) -> Tensor:
    """What px scores, the model's ``target(x)``; x itself for a module without that method.

    Args:
        model: the model, unwrapped.
        x: observations, shape [B, *event], or a nest of such tensors.

    Returns:
        shape [B, *event].

    Raises:
        ValueError: it is no tensor.
    """
    target = getattr(model, "target", None)
    observed = target(x) if callable(target) else x
    if isinstance(observed, Tensor):
        if len(observed) != (rows := count_rows(x)):
            raise ValueError(f"{type(model).__name__}.target(x) has {len(observed)} rows for {rows} data")
    else:
        name, keys = type(model).__name__, ", ".join(map(repr, x)) if isinstance(x, Mapping) else "its parts"
        raise ValueError(
            f"{name}.target(x) must return the tensor that px scores, one of {keys}; got {type(observed).__name__}"
        )
    return observed


def draw(
    model: nn.Module,
    x: Nest,
    particles: int,
    *,
    encoded: Nest | None = None,
    reparameterize: bool = False,
    tau: float = 0.0,
    detach_q: bool = False,
    mixed: bool = False,
) -> Particles:
    """Sample and score particles.

    Args:
        model: a :class:`ovis.models.Model`, or any module written to ``Template``, which is given x
            repeated.
        x: observations, shape [B, *event], or a nest of such tensors.
        particles: N, samples for each datum.
        encoded: the result of :func:`encode`.
        reparameterize: keep the graph from the samples to the parameters of q.
        tau: temperature of relaxed discrete samples.
        detach_q: score with the parameters of q detached, so that log q is differentiated through z alone; with
            ``mixed``, those of the layers whose samples carry a graph.
        mixed: with ``reparameterize``, draw exact samples of layers that can't be reparameterized.

    Returns:
        the particles, [B, N].

    Raises:
        ValueError: samples that can't be reparameterized, or are though ``reparameterize`` is False; an output that
            lacks an entry or has the wrong shape, e.g. a density that broadcasts over other rows; Bernoulli
            observations outside [0, 1], in the model's first batch; detached parameters in a hierarchy.
    """
    inner = unwrapped(model)
    observed = observations(inner, x)
    rows = len(observed)
    try:
        if isinstance(inner, Model):
            output = model(x, zgrads=reparameterize, particles=particles, tau=tau, encoded=encoded, mixed=mixed)
            scored = observed.unsqueeze(1)
        else:
            repeated = map_tensors(lambda tensor: tensor.repeat_interleave(particles, 0), x)
            output = model(repeated, **_keywords(inner, reparameterize, tau))
            scored = repeated if observed is x else observed.repeat_interleave(particles, 0)
    except NotImplementedError as error:  # torch's rsample raises it without a message
        if not reparameterize:
            raise
        raise ValueError(_NO_RSAMPLE.format(type(inner).__name__, "has a q without rsample")) from error
    _check_output(inner, output)
    bits = bernoulli_values(output["px"], scored)
    if bits is not None:
        check_first_batch(inner, bits)
    if not mixed:
        _check_graph(inner, output, reparameterize)
    detached = [detach_q and (z.requires_grad or not mixed) for z in output["z"]]
    if sum(detached) > 1 or (detach_q and not mixed and len(detached) != 1):
        kind = "pathwise" if mixed else "stochastic"
        remedy = "use +iwae" if mixed else "use pathwise-iwae"
        raise ValueError(f"stl and dreg need one {kind} layer, the model has {sum(detached)}; {remedy}")
    return score(output, scored, (rows, particles), detached)


def score_dreams(model: nn.Module, count: int) -> Tensor:
    """log q(z | x) of pairs drawn from the model itself, (x, z) ~ p, for the sleep phase.

    Args:
        model: a model that draws from its prior and scores given samples: a Model; a module whose ``forward``
            takes the keyword ``z``; or one with a single layer, whose q(z|x) does not depend on the samples.
        count: number of pairs.

    Returns:
        shape [count], with the graph of q.

    Raises:
        ValueError: the model can't draw from its prior or score given samples, or its q has the wrong shape.
    """
    inner = unwrapped(model)
    name = type(inner).__name__
    if not hasattr(inner, "sample_from_prior"):
        raise ValueError(f"wake-sleep draws from the model: {name} has no sample_from_prior(bs)")
    with torch.no_grad():
        dream = inner.sample_from_prior(count)  # type: ignore[operator]
        x, z = dream["px"].sample(), dream["z"]
    if isinstance(inner, Model) or "z" in inspect.signature(inner.forward).parameters:
        output = model(x, z=z)
        if not all(a is b or torch.equal(a, b) for a, b in zip(output.get("z", z), z, strict=True)):
            raise ValueError(f"{name}.forward was given z, and returned other samples")
    elif len(z) == 1:
        output = model(x, **_keywords(inner, False, 0.0))
    else:
        raise ValueError(
            f"wake-sleep scores given samples: {name}.forward must take the keyword z (a list of samples, one for each "
            "layer) and then return their qz instead of drawing"
        )
    return torch.stack([_joint("qz", q, sample, (count,)) for q, sample in zip(output["qz"], z, strict=True)]).sum(0)


def _keywords(model: nn.Module, reparameterize: bool, tau: float) -> dict[str, Any]:
    """The settings that the model's forward accepts; ``zgrads`` and ``reparam`` are two names of the same one."""
    parameters = inspect.signature(model.forward).parameters
    settings = {"zgrads": reparameterize, "reparam": reparameterize, "tau": tau}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return settings
    return {name: value for name, value in settings.items() if name in parameters}


def _check_output(model: nn.Module, output: Any) -> None:
    name = type(model).__name__
    missing = {"px", "z", "qz", "pz"} - output.keys() if isinstance(output, Mapping) else {"px", "z", "qz", "pz"}
    if missing:
        raise ValueError(f"{name}.forward must return a dict with px, z, qz, pz; missing: {', '.join(sorted(missing))}")
    sizes = {key: len(output[key]) if isinstance(output[key], Sequence) else None for key in ("z", "qz", "pz")}
    if None in sizes.values() or len(set(sizes.values())) != 1:
        raise ValueError(f"{name}.forward must return lists z, qz, pz of one length, one entry a layer; got {sizes}")


def _check_graph(model: nn.Module, output: Mapping[str, Any], reparameterize: bool) -> None:
    if not torch.is_grad_enabled():
        return
    name = type(model).__name__
    z, qz = output["z"], output["qz"]
    # (samples of a q without trained parameters have no graph, either)
    if reparameterize and any(
        not sample.requires_grad and q.log_prob(sample).requires_grad for q, sample in zip(qz, z, strict=True)
    ):
        raise ValueError(_NO_RSAMPLE.format(name, "returned z without graph"))
    if not reparameterize and any(sample.requires_grad for sample in z):
        raise ValueError(
            f"this estimator needs exact samples without graph, and {name} returned reparameterized ones: sample under "
            "zgrads=False with sample(), not rsample()"
        )


def score(
    output: dict[str, Any], observed: Tensor, shape: tuple[int, int], detach_q: Sequence[bool] | None = None
) -> Particles:
    """The log-densities of a model's samples, computed and summed at least in single precision.

    Args:
        output: the model's output: px, z, qz and pz.
        observed: the observations that px scores, shape [B, 1, *event] or [B N, *event].
        shape: (B, N).
        detach_q: for each layer, whether the parameters of q are detached; None: of no layer.

    Returns:
        the particles, [B, N].

    Raises:
        ValueError: a density without a row for each particle, or one that broadcasts over other rows.
    """
    z: Sequence[Tensor] = output["z"]
    detached = detach_q or [False] * len(z)
    qz = [detach_parameters(q) if each else q for q, each in zip(output["qz"], detached, strict=True)]
    return Particles(
        log_px=_joint("px", output["px"], observed, shape),
        log_pz=torch.stack([_joint(_layer("pz", i, z), p, z[i], shape) for i, p in enumerate(output["pz"])], -1),
        log_qz=torch.stack([_joint(_layer("qz", i, z), q, z[i], shape) for i, q in enumerate(qz)], -1),
        output=output,
    )


def _layer(name: str, index: int, z: Sequence[Tensor]) -> str:
    return f"{name}[{index}]" if len(z) > 1 else name


def _joint(name: str, distribution: Distribution, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """log-density summed over everything but the particles, at least in single precision.

    Raises:
        ValueError: a log-density without a row for each particle; one that scores more numbers than the value has, or
            has a larger dimension: parameters and value were broadcast with each other, so that rows are scored against
            other rows.
    """
    event = tuple(getattr(distribution, "event_shape", ()))
    batch = tuple(getattr(distribution, "batch_shape", ()))
    try:
        log_prob = log_density(distribution, value)
    except (ValueError, RuntimeError) as error:
        if _broadcast(batch + event, value.shape):
            raise
        raise ValueError(
            f"{name}: {type(distribution).__name__} of batch shape {batch} and event shape {event} can't score a value "
            f"of shape {tuple(value.shape)}; the batch shape may start with {shape} or "
            f"{(shape[0], *(1,) * (len(shape) - 1))}, and layers have one order in z, qz and pz"
        ) from error
    masked = isinstance(_inside(distribution), Masked)
    usual = log_prob.shape == shape and value.shape in ((*shape, *event), (shape[0], 1, *event))
    if usual and (len(batch) != 1 or batch == (1,)) and not masked:  # the most frequent case
        return log_prob
    rows = math.prod(shape)
    lead = _leading(log_prob.shape, shape)
    if lead is None:
        raise ValueError(
            f"log_prob of {type(distribution).__name__} has shape {tuple(log_prob.shape)}; it must start with {shape} "
            f"or [{rows}], one row for each particle ({name}, whose value has shape {tuple(value.shape)})"
        )
    known = has_known_density(distribution)
    # (a user's density may take flat events)
    scored = value.shape[: max(value.dim() - len(event), 0 if known else 1)]
    scored_lead = _leading(scored, shape, shared=True)
    if (
        scored_lead is None
        or _is_larger(log_prob.shape[lead:], event, scored[scored_lead:], value.shape[scored_lead:])
        or (known and any(_crosses(declared, value.shape, shape) for declared in _declared(distribution)))
    ):
        raise ValueError(
            f"{name}: log_prob of {type(distribution).__name__} has shape {tuple(log_prob.shape)} and events of shape "
            f"{event} for a value of shape {tuple(value.shape)}: they were broadcast, so that rows are scored against "
            f"other rows; give distribution{', mask' if masked else ''} and value the same dimensions"
        )
    return log_prob.reshape(*shape, -1).sum(-1)


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether shapes can be broadcast with each other."""
    return all(1 in (a, b) or a == b for a, b in zip(reversed(first), reversed(second), strict=False))


def _inside(distribution: Distribution) -> Distribution:
    """The distribution without ``Independent`` around it."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _declared(distribution: Distribution) -> list[tuple[int, ...]]:
    """The shapes of parameters and masks that meet the value, those of their events included."""
    distribution = _inside(distribution)
    event = distribution.event_shape
    if isinstance(distribution, Masked):
        return [(*distribution.mask.shape, *event), *_declared(distribution.distribution)]
    if isinstance(distribution, BernoulliVector):  # which flattens its events, and compares as many numbers
        event = torch.Size(1 for _ in event)
    return [(*distribution.batch_shape, *event)]


def _leading(dims: torch.Size, shape: tuple[int, ...], shared: bool = False) -> int | None:
    """How many of the first dimensions number the particles; ``shared``: also a row for each datum, [B, 1]."""
    if dims[: len(shape)] == shape or (shared and dims[:2] == (*shape[:1], 1)):
        return len(shape)
    return 1 if dims[:1] == (math.prod(shape),) else None


def _is_larger(rest: torch.Size, event: tuple[int, ...], scored: torch.Size, datum: torch.Size) -> bool:
    """Whether the log-density of a row has more numbers than its value, or as many dimensions and a larger one.

    A user's density may flatten, permute, sum, or leave out dimensions.
    """
    if math.prod(rest) * math.prod(event) > math.prod(datum):
        return True
    return len(rest) == len(scored) and any(a > b for a, b in zip(sorted(rest), sorted(scored), strict=True))


def _crosses(declared: tuple[int, ...], value: torch.Size, shape: tuple[int, ...]) -> bool:
    """Whether parameters of this shape meet values of other rows, by torch's rules of broadcasting."""
    if len(shape) == 2 and value[:2] in (shape, (shape[0], 1)):
        if len(declared) == len(value) - 1 and declared[0] == shape[0] == shape[1] > 1:
            return True  # with as many data as particles, the parameters of datum k would score particle k
        value = torch.Size((*shape, *value[2:]))
    compared: tuple[int, ...] = torch.broadcast_shapes(declared, value)
    return math.prod(compared) > math.prod(value)
