"""Evaluation of the bound with many particles, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from ovis.analysis.module_state import evaluation_mode
from ovis.analysis.progress_bar import progress_bar
from ovis.analysis.seeding import own_seed
from ovis.diagnostics import Diagnostic
from ovis.estimators.base import bound_diagnostics
from ovis.estimators.chunk_sizes import keep_freed_memory
from ovis.estimators.sampling import draw, encode
from ovis.functional.log_weights import effective_sample_size
from ovis.nests import Nest, count_rows, first_tensor, map_tensors, split_rows, tensors_of

__all__ = ["Evaluation", "Mean", "evaluate", "evaluate_batch"]

#: Kept of each chunk of particles.
KEPT = ("L_k", "elbo", "kl", "nll", "log_sum", "log_squares")

#: Values of x that the decoder may produce at once: on the CPU 4 MB in float32, about the size of its caches; elsewhere
#: about 128 MB, including what is computed from them.
CPU_VALUES, DEVICE_VALUES = 2**20, 2**23


class Mean(NamedTuple):
    """A mean over data.

    Attributes:
        mean: the mean.
        standard_error: its standard error, which includes the noise of the particles; NaN for a single datum.
    """

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`; ``print`` it for a table.

    Attributes:
        iw: K.
        per_datum: the values of each datum, in the order of the data: ``L_k``, ``elbo``, ``kl``, ``kl_q_p``, ``nll``,
            ``ess``, shape [n] each, float64, on the CPU. See :func:`ovis.estimators.base.bound_diagnostics`.
    """

    iw: int
    per_datum: dict[str, Tensor]

    @property
    def count(self) -> int:
        """n, the number of data."""
        return len(self.per_datum["L_k"])

    @property
    def L_k(self) -> Mean:
        """The bound log 1/K sum_k w_k, in nats: on average at most log p(x), which it tends to as K grows."""
        return self._mean("L_k")

    @property
    def elbo(self) -> Mean:
        """The evidence lower bound, the mean of log w, in nats."""
        return self._mean("elbo")

    @property
    def kl(self) -> Mean:
        """KL(q(z|x) || p(z)), the mean of log q(z|x) - log p(z), in nats."""
        return self._mean("kl")

    @property
    def kl_q_p(self) -> Mean:
        """L_K - ELBO, in nats, which tends to KL(q(z|x) || p(z|x)) as K grows."""
        return self._mean("kl_q_p")

    @property
    def nll(self) -> Mean:
        """The reconstruction error, the mean of -log p(x|z), in nats."""
        return self._mean("nll")

    @property
    def ess(self) -> Mean:
        """The effective sample size, in particles."""
        return self._mean("ess")

    @property
    def diagnostic(self) -> Diagnostic:
        """The values by group and name, e.g. for ``evaluation.diagnostic.log(tensorboard_writer, step)``."""
        return Diagnostic({"loss": self.per_datum})

    def _mean(self, name: str) -> Mean:
        values = self.per_datum[name]
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Mean(values.mean().item(), error)

    def __str__(self) -> str:
        rows = {
            f"L_{self.iw}": (self.L_k, "nats"),
            "ELBO": (self.elbo, "nats"),
            "KL(q(z|x) || p(z))": (self.kl, "nats"),
            f"L_{self.iw} - ELBO": (self.kl_q_p, "nats, about KL(q(z|x) || p(z|x)) if the ESS is large"),
            "-log p(x|z)": (self.nll, "nats"),
            "ESS": (self.ess, f"of {self.iw:,} particles"),
        }
        lines = [f"  {name:<20}{_text(value)} {unit}" for name, (value, unit) in rows.items()]
        data = f"{self.count:,} data" if self.count > 1 else "one datum"
        return "\n".join([f"{self.iw:,} particles, {data}", *lines])


def _text(value: Mean) -> str:
    """The mean to the second significant digit of its standard error."""
    if not value.standard_error > 0:
        return f"{value.mean:.6g}"
    digits = max(0, 1 - math.floor(math.log10(value.standard_error)))
    return f"{value.mean:.{digits}f} +- {value.standard_error:.{digits}f}"


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Nest | Iterable[Nest],
    iw: int = 5000,
    batch_size: int = 100,
    *,
    seed: int | None = None,
    progress: bool = True,
    ess_particles: int | None = None,
    max_values: int | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Evaluate L_K, the KL divergence and the effective sample size of a model on data.

    Use it for the test likelihood of a trained model, L_5000 in most papers. The model is run in evaluation mode
    (without dropout), without graph; afterwards each of its modules has the mode that it had before.

        >>> import ovis
        >>> from ovis.models import SigmoidBeliefNetwork
        >>> result = ovis.evaluate(SigmoidBeliefNetwork((3,), N=2, depth=1), torch.ones(10, 3), iw=50, seed=0)
        >>> result.L_k.mean < 0, result.ess.mean <= 50, result.per_datum["L_k"].shape
        (True, True, torch.Size([10]))

    Data on another device than the model are moved to it, batch by batch. The particles of a batch are drawn in chunks
    of which only sums are kept, so memory does not depend on K or on the number of data. With a ``seed``, the result is
    reproducible on the same device for the same batches; with other batches or another ``max_values`` it differs by
    Monte Carlo noise.

    Args:
        model: a :class:`ovis.models.Model` or :class:`ovis.models.Template`, or a wrapper around it.
        data: x, shape [n, *event], or a dict, list or tuple of such tensors; or batches of x: a ``DataLoader``, or
            another iterable that is no list or tuple. A batch that is a list of one entry, as of a ``TensorDataset``,
            stands for that entry. Where a ``DataLoader`` yields several, say which of them is x:
            ``evaluate(model, (x for x, label in loader))``.
        iw: K.
        batch_size: data per batch, if ``data`` is x.
        seed: seed of the particles, which leaves torch's global random state unchanged; None: they are drawn from it.
        progress: show a progress bar if stderr is a terminal and tqdm is installed.
        ess_particles: number of particles for the ESS (e.g. that of training); None: all.
        max_values: largest number of values of x, or of its encoding, in one chunk (at least those of one particle of
            each datum of a batch); None: what is fast on the device.
        on_batch: called after each batch.

    Returns:
        the values of each datum, their means and standard errors.

    Raises:
        TypeError: ``data`` is neither x nor an iterable of batches.
        ValueError: no data, no particle, batches that may be (x, label), or a model that can't be run.

    See also:
        :func:`ovis.check_model` for a new model, :func:`ovis.analysis.importance_weights.pareto_k` for the reliability
        of the weights.
    """
    if iw < 1 or batch_size < 1:
        raise ValueError(f"iw and batch_size must be at least 1, got {iw} and {batch_size}")
    batches, total = _batches(data, batch_size)
    device = _device(model)
    parts: list[dict[str, Tensor]] = []
    keep_freed_memory()
    bar = progress_bar("evaluate", total, "terminal" if progress else False, "batch")
    with evaluation_mode(model), own_seed(seed, device), bar as advance:
        for x in batches:
            x = x if device is None else map_tensors(lambda tensor: tensor.to(device), x)
            parts.append(evaluate_batch(model, x, iw, ess_particles, max_values)["loss"])
            advance(1)
            if on_batch is not None:
                on_batch()
    if not parts:
        raise ValueError("there are no data: the iterable has no batches (an iterator can be read only once)")
    return Evaluation(iw, {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]})


def _batches(data: Any, batch_size: int) -> tuple[Iterator[Nest], int | None]:
    """The batches of x, and how many there are, if that is known."""
    if isinstance(data, Tensor) or not pytree.tree_all(lambda leaf: leaf is data, data):
        return split_rows(data, batch_size), math.ceil(count_rows(data, "data") / batch_size)
    if not isinstance(data, Iterable):
        raise TypeError(
            "data must be x, a tensor or a dict, list or tuple of tensors, or an iterable of batches such as a "
            f"DataLoader; got {type(data).__name__}"
        )
    try:
        total = len(data)  # type: ignore[arg-type]
    except TypeError:
        total = None
    return (_input_of(batch, isinstance(data, DataLoader)) for batch in data), total


def _input_of(batch: Any, of_loader: bool) -> Nest:
    """x of a batch.

    Raises:
        ValueError: a list or tuple of several entries of a ``DataLoader``, which may be labels.
    """
    if type(batch) in (list, tuple) and len(batch) == 1:
        return batch[0]
    if of_loader and type(batch) in (list, tuple):
        raise ValueError(
            f"the batches of the DataLoader are a {type(batch).__name__} of {len(batch)}: say what x is, with "
            "evaluate(model, (x for x, label in loader)), or evaluate(model, map(tuple, loader)) if it is all of them"
        )
    return batch


def _device(model: nn.Module) -> torch.device | None:
    """The device of all parameters and buffers; None if there is none, or several."""
    devices = {tensor.device for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    return devices.pop() if len(devices) == 1 else None


@torch.no_grad()
def evaluate_batch(
    model: nn.Module, x: Nest, iw: int, ess_particles: int | None = None, max_values: int | None = None
) -> dict[str, dict[str, Tensor]]:
    """:func:`evaluate` of one batch, in the model's mode: ``loss/`` L_k, ..., each [B]."""
    rows, device = count_rows(x), first_tensor(x).device
    if max_values is None:
        max_values = CPU_VALUES if device.type == "cpu" else DEVICE_VALUES
    encoded = encode(model, x)
    widest = max(_size(x), 0 if encoded is None else _size(encoded))  # of one particle of each datum
    chunks = _chunks(iw, max(1, max_values // widest))
    trained = iw if ess_particles is None else min(ess_particles, iw)
    if len(chunks) == 1:
        particles = draw(model, x, iw, encoded=encoded)
        loss = bound_diagnostics(particles, 1, iw)["loss"]
        return {"loss": {**loss, "ess": effective_sample_size(particles.log_w()[:, :trained])}}
    # allocated before the first chunk: a result that outlives its chunk would fragment the memory of the next one
    kept = {name: torch.empty(len(chunks), rows, dtype=torch.float64, device=device) for name in KEPT}
    for i, (start, size) in enumerate(chunks):
        _measure(model, x, size, encoded, max(0, min(size, trained - start)), {n: kept[n][i] for n in KEPT})
    return {"loss": _combine(kept, [size for _, size in chunks], trained)}


def _size(nest: Nest) -> int:
    """Number of values."""
    return sum(tensor.numel() for tensor in tensors_of(nest))


def _chunks(iw: int, largest: int) -> list[tuple[int, int]]:
    """First particle and size of each chunk; the sizes are nearly equal, at most ``largest``."""
    count = math.ceil(iw / largest)
    ends = [iw * (i + 1) // count for i in range(count)]
    return [(start, end - start) for start, end in pairwise([0, *ends])]


def _measure(model: nn.Module, x: Nest, size: int, encoded: Nest | None, trained: int, kept: dict[str, Tensor]) -> None:
    """Fill in what is kept of a chunk, [B] each; its particles are freed.

    ``log_sum`` and ``log_squares`` are the logarithms of the sum of the first ``trained`` weights and of their squares,
    minus infinity where there are none.
    """
    particles = draw(model, x, size, encoded=encoded)
    loss = bound_diagnostics(particles, 1, size)["loss"]
    log_w = particles.log_w()[:, :trained].double()
    sums = {"log_sum": log_w.logsumexp(1), "log_squares": (2 * log_w).logsumexp(1)}
    for name, values in kept.items():
        values.copy_(sums[name] if name in sums else loss[name])


def _combine(kept: dict[str, Tensor], sizes: list[int], trained: int) -> dict[str, Tensor]:
    """The diagnostics of all particles from those of the chunks, [chunks, B], in double precision.

    log 1/K sum_k w_k = log sum_i (n_i / K) exp(L_i) over the chunks i of n_i particles; ESS = (sum w)^2 / sum w^2.
    """
    shares = kept["L_k"].new_tensor(sizes).unsqueeze(1) / sum(sizes)
    loss = {name: (shares * kept[name]).sum(0) for name in ("elbo", "kl", "nll")}
    loss["L_k"] = (kept["L_k"] + shares.log()).logsumexp(0)
    loss["kl_q_p"] = loss["L_k"] - loss["elbo"]
    loss["ess"] = (2 * kept["log_sum"].logsumexp(0) - kept["log_squares"].logsumexp(0)).exp().clamp(1, trained)
    return loss
