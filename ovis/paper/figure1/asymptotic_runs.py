"""Reads an experiment of the asymptotic study: draws of gradients, the parts of one K joined.

A run's files are those of :mod:`ovis.paper.figure1.asymptotic_study`. Of an unfinished run, the draws saved so far are
read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovis.experiments.reporting.data.run_folders import (
    Skipped,
    canonical_estimator,
    count_states,
    read_config,
    read_runs,
    read_state,
)
from ovis.experiments.reporting.figures.style import style_order
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import SettingsError
from ovis.paper.figure1.asymptotic_settings import GRADIENTS, PARTIAL, RESULTS, AsymptoticSettings

__all__ = ["GradientStudy", "Sample", "join_samples", "read_study", "select_estimators", "toy_name"]

#: Settings of the toy model and of its draws; draws that differ in one of them are never pooled.
TOY = ("epsilon", "D", "npoints", "q_scale", "seed", "key_filter", "id")
SYMBOLS = {"epsilon": "ε", "npoints": "N", "key_filter": "key", "q_scale": "2/3 ="}


@dataclass(frozen=True)
class Sample:
    """Draws of the gradient by one estimator at one K.

    Attributes:
        toy: the settings of the model and its data, by name: those of :data:`TOY`.
        estimator: canonical id.
        iw: K.
        numbers: of the draws, int [n], ascending; equal numbers share their random numbers.
        draws: float [n, D].
        theory: closed-form statistics at this K, by name; empty where there are none.
    """

    toy: Mapping[str, Any]
    estimator: str
    iw: int
    numbers: NDArray[np.int64]
    draws: NDArray[np.floating[Any]]
    theory: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str, int]:
        """Identifies a sample; equal for its parts."""
        return json.dumps(self.toy, sort_keys=True, default=str), self.estimator, self.iw


@dataclass(frozen=True)
class GradientStudy:
    """The data of one experiment.

    Attributes:
        samples: one for each toy, estimator and K, in this order; estimators as in the legends.
        runs: how many runs have draws.
        states: how many runs there are in each state.
        skipped: folders and queued runs without draws.
        notes: remarks for readers of the figures, a line each.
    """

    samples: tuple[Sample, ...]
    runs: int
    states: Mapping[str, int]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def read_study(folder: Path) -> GradientStudy:
    """Read the draws of every run of an experiment; what is broken, foreign or empty is listed in ``skipped``.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    entries: dict[tuple[str, str, int], int] = {}
    read, skipped = read_runs(folder, lambda run, queued: _read_run(run, queued, entries))
    samples = join_samples(sample for parts, _, _ in read for sample in parts)
    states = count_states([*(state for _, state, _ in read), *(item.state for item in skipped)])
    return GradientStudy(tuple(samples), len(read), states, skipped, tuple(note for _, _, note in read if note))


def select_estimators(study: GradientStudy, include: Iterable[str], exclude: Iterable[str]) -> list[Sample]:
    """The samples of estimators whose id holds one of ``include`` (none given: any) and none of ``exclude``."""
    wanted, unwanted = list(include), list(exclude)
    return [
        sample
        for sample in study.samples
        if (not wanted or any(word in sample.estimator for word in wanted))
        and not any(word in sample.estimator for word in unwanted)
    ]


def join_samples(samples: Iterable[Sample]) -> list[Sample]:
    """Join the parts of each toy, estimator and K; a draw that is in several of them counts once."""
    groups: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.key, []).append(sample)
    joined = [_join(parts) for parts in groups.values()]
    return sorted(joined, key=lambda s: (s.key[0], style_order(s.estimator), s.iw))


def _join(parts: list[Sample]) -> Sample:
    first = parts[0]
    numbers, first_index = np.unique(np.concatenate([part.numbers for part in parts]), return_index=True)
    draws = np.concatenate([part.draws for part in parts])[first_index]
    theory = next((part.theory for part in parts if part.theory), {})
    return Sample(first.toy, first.estimator, first.iw, numbers, draws, theory)


def toy_name(toy: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> str:
    """The name of a row of panels: epsilon, and every other setting in which the toy models differ."""
    toys = [toy, *others]
    differing = [name for name in TOY if name == "epsilon" or any(t.get(name) != toy.get(name) for t in toys)]
    return ", ".join(f"{SYMBOLS.get(name, name)} {toy.get(name)}".replace("ε ", "ε = ") for name in differing)


def _read_run(
    run: RunPaths, queued: str | None, entries: dict[tuple[str, str, int], int]
) -> tuple[list[Sample], str, str] | Skipped:
    """A run's samples, its state, and a note where it has not all its draws; or why there are none.

    Args:
        run: its folder.
        queued: its state in the queue.
        entries: the length of the gradients of each sample read so far, which that of its other parts must equal.
    """
    settings = read_config(run, queued)
    if isinstance(settings, Skipped):
        return settings
    if "estimators" not in settings:
        return Skipped(run.name, "no run of the asymptotic study", "foreign")
    try:
        toy, iw = _read_toy(settings)
    except SettingsError as error:
        return Skipped(run.name, f"config.json: {error}", "unreadable")
    state, message = read_state(run, queued)
    path = next((run.folder / name for name in (GRADIENTS, PARTIAL) if (run.folder / name).is_file()), None)
    if path is None:
        return Skipped(run.name, f"no draws yet{f': {message}' if message else ''}", state)
    try:
        samples = _read_draws(path, toy, iw, _read_theory(run.folder / RESULTS))
    except Exception as error:  # NumPy reports a broken file in half a dozen ways
        return Skipped(run.name, f"{path.name} can't be read ({type(error).__name__}: {error})", "unreadable")
    count = len(samples[0].numbers) if samples else 0
    if not count:
        return Skipped(run.name, f"{path.name} holds no draw", state)
    for sample in samples:
        size = sample.draws.shape[1]
        if entries.setdefault(sample.key, size) != size:
            reason = f"gradients of {size} entries, other parts have {entries[sample.key]}"
            return Skipped(run.name, reason, "unreadable")
    note = "" if path.name == GRADIENTS else f"{run.name}: {count} draws so far ({message or state})"
    return samples, state, note


def _read_toy(settings: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The toy of a run, with today's defaults where an older version had no such option, and K.

    Raises:
        SettingsError: a value that no run can have.
    """
    known = {item.name for item in fields(AsymptoticSettings)} - {"estimators"}  # those are in the file of the draws
    options = AsymptoticSettings(**{name: value for name, value in settings.items() if name in known})
    return {name: getattr(options, name) for name in TOY}, options.iw


def _read_draws(path: Path, toy: Mapping[str, Any], K: int, theory: Mapping[str, Mapping[str, float]]) -> list[Sample]:
    """The samples in one file.

    Raises:
        ValueError, KeyError, OSError ...: it is broken, or not what a run leaves.
    """
    with np.load(path, allow_pickle=False) as file:
        draws, first, iw = np.asarray(file["draws"]), int(file["first"]), int(file["iw"])
        names = [canonical_estimator(str(name)) for name in file["estimators"]]
    if draws.ndim != 3 or draws.shape[1] != len(names) or draws.dtype.kind != "f" or not draws.shape[2]:
        raise ValueError(f"draws of shape {draws.shape} and type {draws.dtype}, of {len(names)} estimators")
    if iw != K:
        raise ValueError(f"K = {iw}, but config.json says {K}")
    numbers = np.arange(first, first + len(draws), dtype=np.int64)
    return [Sample(toy, name, iw, numbers, draws[:, i], theory.get(name, {})) for i, name in enumerate(names)]


def _read_theory(path: Path) -> dict[str, dict[str, float]]:
    """Estimator -> closed-form statistics; empty where there are none, or they can't be read."""
    try:
        theory = json.loads(path.read_bytes())["theory"]
        return {str(n): {str(k): float(v) for k, v in entry["statistics"].items()} for n, entry in theory.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
