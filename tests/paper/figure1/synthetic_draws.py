"""Synthetic runs of the asymptotic study: folders with draws of known moments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovis.paper.figure1.asymptotic_settings import AsymptoticSettings

Array = NDArray[np.float64]

#: The default settings of a run of the study.
SETTINGS = {"seed": 10, "mc_samples": 200, "npoints": 100, "D": 3, "epsilon": 0.01, "key_filter": "b", "q_scale": "std"}


def standard_draws(n: int, D: int, seed: int = 0) -> Array:
    """Normal draws [n, D] whose sample means are 0 and sample variances 1, exactly."""
    z = np.random.default_rng(seed).standard_normal((n, D))
    z -= z.mean(0)
    z /= z.std(0, ddof=1)
    return z


def write_draws(
    root: Path,
    iw: int,
    draws: Mapping[str, Array],
    *,
    first: int = 0,
    file: str = "gradients.npz",
    status: str | None = "success",
    message: str = "",
    theory: Mapping[str, Mapping[str, float]] | None = None,
    **settings: Any,
) -> Path:
    """Write a run: ``draws`` of each estimator, [n, D]."""
    chosen = {**SETTINGS, "iw": iw, "estimators": ",".join(draws), **settings}
    AsymptoticSettings(**chosen)  # such a run could be
    folder = root / f"asymptotic-iw{iw}-{len(list(root.iterdir())):012x}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"settings": chosen}))
    if file:
        stacked = np.stack(list(draws.values()), axis=1)
        np.savez(folder / file, draws=stacked, first=first, estimators=np.array(list(draws)), iw=iw)
    if theory is not None:
        result = {name: {"statistics": values, "mean": [], "variance": []} for name, values in theory.items()}
        (folder / "asymptotic.json").write_text(json.dumps({"theory": result}))
    if status:
        outcome = {"status": status, "attempt": 1, "exit": 0, "signal": None, "message": message, "t": 1.0}
        (folder / "outcome.json").write_text(json.dumps(outcome))
    return folder


def power_law(iw: int, snr: Sequence[float], variance: Sequence[float], n: int = 200, D: int = 3) -> Array:
    """Draws whose SNR and variance are c K^p exactly, in every entry; both are (c, p)."""
    sd = np.sqrt(variance[0] * iw ** variance[1])
    return sd * (snr[0] * iw ** snr[1] + standard_draws(n, D, seed=iw))
