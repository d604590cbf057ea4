"""The functions in extended precision, by their definitions: every sum runs over l != k, none is a difference.

An infinite log-weight stands for a limit: a huge number or, for a weight of zero, a far more huge negative one. So
equal infinities tie, and whatever exceeds every finite log-weight comes back as an infinity.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from mpmath import mp, mpf

mp.dps = 80

HUGE, NOTHING, INFINITE = mpf(10) ** 8, -(mpf(10) ** 14), mpf(10) ** 7


def oracle(log_w: torch.Tensor, alpha: float = 0.0, aux: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Every function of every row of log_w [B, K], with auxiliary log-weights [B, S], by name; in float64."""
    extra = [()] * len(log_w) if aux is None else [tuple(row.tolist()) for row in aux]
    rows = [of_row(tuple(row.tolist()), alpha, s) for row, s in zip(log_w, extra, strict=True)]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


@lru_cache(maxsize=4096)
def of_row(row: tuple[float, ...], alpha: float, aux: tuple[float, ...]) -> dict[str, list[float] | float]:
    log_w, fresh, r = [exact(x) for x in row], [exact(x) for x in aux], 1 - mpf(alpha)
    count = len(row)
    w, u, plain = ([mp.exp(c * x) for x in xs] for c, xs in ((r, log_w), (r, fresh), (1, log_w)))
    total = mp.fsum(w)
    bound = mp.log(total / count) / r
    v = [x / total for x in w]
    others = [mp.fsum(w[:k] + w[k + 1 :]) for k in range(count)]  # T_k

    c: dict[str, list[mpf]] = {"reinforce": [mpf(0)] * count}
    if u:
        c["ovis-S"] = [mp.fsum(mp.log((t + s) / count) / r - s / (t + s) for s in u) / len(u) for t in others]
    if count > 1:
        means = [mp.fsum(log_w[:k] + log_w[k + 1 :]) / (count - 1) for k in range(count)]
        c["vimco"] = [mp.log(t / (count - 1)) / r for t in others]
        c["vimco-geometric"] = [mp.log((t + mp.exp(r * m)) / count) / r for t, m in zip(others, means, strict=True)]
        for gamma in (mpf(0), mpf("0.5"), mpf(1)):
            constant = (1 - gamma) * mp.log(1 - mpf(1) / count)
            c[f"ovis-gamma{float(gamma):g}"] = [a - gamma * x + constant for a, x in zip(c["vimco"], v, strict=True)]

    result: dict[str, list[mpf]] = {f"control variate {name}": values for name, values in c.items()}
    for name, values in c.items():
        result[f"signal {name}"] = [bound - x - y for x, y in zip(v, values, strict=True)]
    result |= {"weights": v, "prefactor": [bound - x for x in v], "signal rws": v}
    ess = mp.fsum(plain) ** 2 / mp.fsum(x * x for x in plain)
    per_row = {"bound": rounded(bound), "ess": rounded(ess)}
    return per_row | {name: [rounded(x) for x in values] for name, values in result.items()}


def exact(value: float) -> mpf:
    """A float as it is, without rounding."""
    return HUGE if value == math.inf else NOTHING if value == -math.inf else mpf(value)


def rounded(value: mpf) -> float:
    return float(value) if abs(value) < INFINITE else math.copysign(math.inf, value)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error, relative or absolute, whichever is smaller; infinite for a NaN or another infinity."""
    difference = (actual.double() - expected).abs() / expected.abs().clamp(min=1.0)
    difference = torch.where(actual.double() == expected, 0.0, difference)
    return difference.nan_to_num(nan=math.inf).max().item()
