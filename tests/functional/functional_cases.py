"""Log-weights that are hard on floating point, and every function of them by the name that the oracle gives it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ovis.functional import (
    effective_sample_size,
    iw_bound,
    learning_signal,
    leave_one_out_log_mean_exp,
    log_mean_exp,
    normalized_weights,
    prefactor,
)

SPREADS = (0.0, 1e-3, 1.0, 30.0, 1e3, 1e4)
OFFSETS = (0.0, -300.0, 1e4)
DTYPES = (torch.float32, torch.float64)

#: Every method that multiplies grad log q by a factor of its own.
SIGNALS = ("reinforce", "vimco", "vimco-geometric", "ovis-gamma0", "ovis-gamma0.5", "ovis-gamma1", "ovis-S", "rws")

#: Every method of multisample_loss, as (id, whether it takes log_w_aux).
LOSSES = (
    *(("reinforce", False), ("vimco", False), ("vimco-geometric", False), ("rws", False), ("ovis-gamma0", False)),
    *(("ovis-gamma0.5", False), ("ovis-gamma1", False), ("ovis-S2", False), ("ovis-S3-exclusive", True)),
    *(("tvo-part1", False), ("tvo-part2-config1", False), ("tvo-part5-config2-right", False)),
    *(("tvo-part3-beta1-trapz", False), ("vae", False), ("iwae", False), ("stl", False)),
)

#: name -> f(log_w, alpha, log_w_aux)
Function = Callable[[Tensor, float | Tensor, Tensor], Tensor]
FUNCTIONS: dict[str, Function] = {
    "bound": lambda w, alpha, aux: iw_bound(w, alpha),
    "weights": lambda w, alpha, aux: normalized_weights(w, alpha),
    "ess": lambda w, alpha, aux: effective_sample_size(w),
    "prefactor": lambda w, alpha, aux: prefactor(w, alpha),
    **{f"signal {method}": lambda w, alpha, aux, m=method: signal(w, m, alpha, aux) for method in SIGNALS},
}

#: Functions without alpha, which the oracle knows under another name.
PLAIN_FUNCTIONS: dict[str, Function] = {
    "bound": lambda w, alpha, aux: log_mean_exp(w),
    "control variate vimco": lambda w, alpha, aux: leave_one_out_log_mean_exp(w),
}


def signal(log_w: Tensor, method: str, alpha: float | Tensor, aux: Tensor) -> Tensor:
    if method == "ovis-S":
        return learning_signal(log_w, f"ovis-S{aux.shape[-1]}-exclusive", alpha, aux)
    return learning_signal(log_w, method, alpha)


def control_variate(log_w: Tensor, method: str, alpha: float = 0.0, aux: Tensor | None = None) -> Tensor:
    """c_k of the signal that runs: exact where the log-weights are moderate."""
    aux = torch.zeros_like(log_w[..., :1]) if aux is None else aux
    return prefactor(log_w, alpha) - signal(log_w, method, alpha, aux)


def awkward_log_weights(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of log-weights [B, K] and of auxiliary ones [B, 3]."""
    generator = torch.Generator().manual_seed(count)
    unit = torch.rand(count, generator=generator, dtype=torch.float64)
    unit = (unit - unit.min()) / (unit.max() - unit.min())  # from 0 to 1
    rows = [
        unit[torch.randperm(count, generator=generator)] * spread + offset for spread in SPREADS for offset in OFFSETS
    ]

    def row(scale=1.0, **entries):
        """``unit`` with some entries replaced: first, last, half (the first half), most (all but the last)."""
        where = {"first": 0, "last": -1, "half": slice(count // 2), "most": slice(-1), "all": slice(None)}
        values = unit * scale
        for name, value in entries.items():
            values[where[name]] = value
        return values

    inf = math.inf
    rows += [
        row(scale=0.0, first=1e4),
        row(scale=0.0, last=20.0),
        row(scale=0.0, last=-30.0),
        row(first=2.0, last=2.0),
        row(half=0.5),
        row(first=-inf),
        row(half=-inf, scale=30.0),
        row(most=-inf),
        row(all=-inf),
        row(first=inf),
        row(first=inf, last=inf),
        row(first=inf, last=-inf),
        row(all=inf),
    ]
    log_w = torch.stack(rows).to(dtype)
    near = log_w.gather(1, torch.randint(count, (len(log_w), 3), generator=generator))
    aux = near + torch.randn(near.shape, generator=generator).to(dtype)
    aux[::3, 0] = 0.7
    aux[::7, 1] = -inf
    aux[::11, 2] += 500.0
    # where both infinities are among the auxiliary samples, their mean may be undefined
    both = aux.isposinf().any(-1, keepdim=True) & aux.isneginf()
    return log_w, aux.masked_fill(both, 0.7)


def moderate_log_weights(*shape: int, seed: int = 0) -> Tensor:
    """Log-weights in float64 on which the textbook formulas lose nothing."""
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
