"""The finished runs of an experiment, as the claims ask for them: one number per seed of an estimator at one K."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.aggregate import run_values
from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.select import how_evaluated, mixed_settings
from ovis.experiments.reporting.figures.style import estimator_look
from ovis.experiments.reporting.metrics import Evaluated, Pivot, parse_pivot

__all__ = ["FinishedRuns", "MixedRunsError", "Who"]

#: Settings by which the claims tell configurations apart; everything else must be the same in the runs they average.
KEYS = ("dataset", "estimator", "iw", "alpha", "warmup", "id")

#: How far an evaluation on the way may be from where it is asked for, as a share of the training.
NEAR = 0.05

#: Settings that an older run may lack, and what it had.
DEFAULTS = {"alpha": 0.0, "warmup": 0}


class MixedRunsError(ValueError):
    """Runs that a claim would average differ in more than the seed."""


@dataclass(frozen=True)
class Who:
    """A configuration that a claim is about.

    Attributes:
        estimator: its canonical id.
        alpha: order of the bound at the end of the training.
        warmup: whether alpha went there from a larger one.
    """

    estimator: str
    alpha: float = 0.0
    warmup: bool = False

    @property
    def label(self) -> str:
        alpha = f", α={self.alpha:g}" if self.alpha else ""
        return f"{estimator_look(self.estimator).label}{alpha}{', warm-up' if self.warmup else ''}"


@dataclass
class FinishedRuns:
    """Runs that are done, of one data set.

    Attributes:
        experiment: what was read.
        dataset: the only data set that counts; empty: all.
    """

    experiment: ExperimentData
    dataset: str = ""
    _runs: pd.DataFrame = field(init=False)
    _evaluated: Evaluated | None = field(init=False, default=None)
    _values: dict[str, pd.Series[float]] = field(init=False, default_factory=dict)
    _found: dict[tuple[str, Who, int], pd.Series[float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        runs = self.experiment.runs
        kept = runs["state"] == "done"
        if self.dataset and "dataset" in runs:
            kept &= runs["dataset"] == self.dataset
        self._runs = runs[kept]

    def check(self) -> None:
        """Make sure that runs of one configuration differ in their seed only.

        Raises:
            MixedRunsError: they differ in other settings, which it names.
        """
        finished = ExperimentData(self.experiment.name, self._runs, self.experiment.curves)
        mixed = mixed_settings(finished, [key for key in KEYS if key in self._runs]) if len(self._runs) else []
        if mixed:
            raise MixedRunsError(f"runs of one configuration differ in {', '.join(mixed)}: narrow them with --include")

    def pivot(self, text: str) -> Pivot:
        """``agg:metric`` as this experiment evaluated it: a bound says with how many particles."""
        if self._evaluated is None:
            self._evaluated = how_evaluated(self.experiment)
        return parse_pivot(text, self._evaluated)

    def by_seed(self, pivot: Pivot, who: Who, iw: int) -> pd.Series[float]:
        """One number per seed; empty where there is no such run, or none has the metric."""
        key = pivot.name, who, iw
        if key not in self._found:  # claims ask for the same numbers again and again
            self._found[key] = self._over_runs(self._all_values(pivot), who, iw)
        return self._found[key]

    def on_the_way(self, metric: str, share: float, who: Who, iw: int) -> pd.Series[float]:
        """One number per seed: the value at the evaluation nearest to a share of the training.

        Runs without an evaluation within :data:`NEAR` of the training from there are not in it.
        """
        curves = self.experiment.curves
        progress = curves["step"] / curves.groupby("run", observed=True)["step"].transform("max")
        off = (progress - share).abs()
        rows = curves.assign(off=off)[(curves["metric"] == metric) & (off <= NEAR)]
        nearest = rows.sort_values("off", kind="stable").drop_duplicates("run")
        values = pd.Series(nearest["value"].to_numpy(np.float64), index=nearest["run"].astype(str).to_numpy())
        return self._over_runs(values, who, iw)

    def _over_runs(self, values: pd.Series[float], who: Who, iw: int) -> pd.Series[float]:
        """The mean over the runs of each seed of a configuration at one K; ``values`` by the run's name."""
        runs = self._runs[self._is(who) & (self._column("iw") == iw)]
        runs = runs[runs["run"].isin(values.index)]
        found = pd.Series(values.reindex(runs["run"]).to_numpy(np.float64), index=runs["seed"].to_numpy())
        return found.groupby(level=0).mean()

    def particles(self, who: Who) -> list[int]:
        """The K at which there are runs of a configuration, ascending."""
        return sorted(int(iw) for iw in self._runs.loc[self._is(who), "iw"].unique())

    def _is(self, who: Who) -> pd.Series[bool]:
        matches = self._column("estimator") == who.estimator
        matches &= np.isclose(self._column("alpha").astype(float), who.alpha)
        return matches & ((self._column("warmup") > 0) == who.warmup)

    def _column(self, name: str) -> pd.Series[Any]:
        if name in self._runs:
            column = self._runs[name]
            return column.fillna(DEFAULTS[name]) if name in DEFAULTS else column
        return pd.Series([DEFAULTS.get(name)] * len(self._runs), index=self._runs.index)

    def _all_values(self, pivot: Pivot) -> pd.Series[float]:
        """Of every run; each pivot is computed once."""
        if pivot.name not in self._values:
            self._values[pivot.name] = run_values(self.experiment, pivot)
        return self._values[pivot.name]
