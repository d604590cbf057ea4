"""The finished runs of an experiment as claims read them: one number per seed of a configuration at one K."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ovis.experiments.reporting.data.aggregate import run_values
from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.select import how_evaluated, mixed_settings
from ovis.experiments.reporting.metrics import Evaluated, Pivot, parse_pivot
from ovis.experiments.reporting.verdict import Cell
from ovis.paper.claims.compare import Configuration, Reading
from ovis.paper.claims.uncertainty import mean_estimate

__all__ = ["MixedRunsError", "TrainingNumbers"]

#: Settings that distinguish configurations; all others must be equal in the runs that a claim averages.
KEYS = ("dataset", "estimator", "iw", "alpha", "warmup", "id")

#: Largest distance of an evaluation from the requested fraction of the training.
NEAR = 0.05

#: In the name of a quantity, the text between a metric and the fraction of the training at which it is read.
AFTER = " after "

#: Settings that an older run may lack, and their values there.
DEFAULTS = {"alpha": 0.0, "warmup": 0}


class MixedRunsError(ValueError):
    """Runs that a claim would average differ in more than the seed."""


@dataclass
class TrainingNumbers:
    """The finished runs on one data set.

    Quantities are pivots, ``max:train:loss/L_k``, or metrics during the training, ``train:loss/L_k after 40%``.
    Metrics on logarithmic axes (errors, SNR, variance) are compared by their ratio, all others by their difference.

    Attributes:
        experiment: all runs.
        dataset: the only data set that counts; empty: all.
    """

    experiment: ExperimentData
    dataset: str = ""
    _runs: pd.DataFrame = field(init=False)
    _values: dict[str, pd.Series[float]] = field(init=False, default_factory=dict)
    _readings: dict[tuple[str, Configuration, int], Reading] = field(init=False, default_factory=dict)

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

    def reading(self, quantity: str, who: Configuration, iw: int) -> Reading:
        key = quantity, who, iw
        if key not in self._readings:  # claims ask for the same numbers again and again
            self._readings[key] = self._read(quantity, who, iw)
        return self._readings[key]

    def particles(self, quantity: str, who: Configuration | None = None) -> list[int]:
        runs = self._runs if who is None else self._runs[self._is(who)]
        runs = runs[runs["run"].isin(self._by_run(quantity).index)]
        return sorted(int(iw) for iw in runs["iw"].unique())

    @cached_property
    def _evaluated(self) -> Evaluated:
        return how_evaluated(self.experiment)

    def _read(self, quantity: str, who: Configuration, iw: int) -> Reading:
        metric, _, share = quantity.partition(AFTER)
        pivot = parse_pivot(f"last:{metric}" if share else quantity, self._evaluated)
        values = self._by_seed(quantity, who, iw)
        name = pivot.metric.text
        heading = f"{name}{AFTER}{share} of the training" if share else f"{pivot.aggregate} {name}"
        cell = Cell(heading, f"K = {iw}" if iw else "any K", who.label, _text(values, pivot), len(values))
        kind = pivot.metric.kind
        return Reading(values, (cell,), kind.log, kind.sign or 1, f"{AFTER}{share}" if share else "")

    def _by_seed(self, quantity: str, who: Configuration, iw: int) -> pd.Series[float]:
        """The mean over the runs of each seed; empty where there is no such run, or none has the metric."""
        values = self._by_run(quantity)
        runs = self._runs[self._is(who) & (self._column("iw") == iw)]
        runs = runs[runs["run"].isin(values.index)]
        selected = pd.Series(values.reindex(runs["run"]).to_numpy(np.float64), index=runs["seed"].to_numpy())
        return selected.groupby(level=0).mean()

    def _by_run(self, quantity: str) -> pd.Series[float]:
        """The quantity of every run that has it; computed once."""
        if quantity not in self._values:
            metric, _, share = quantity.partition(AFTER)
            self._values[quantity] = (
                self._during(metric, float(share.rstrip("%")) / 100)
                if share
                else run_values(self.experiment, parse_pivot(quantity, self._evaluated))
            )
        return self._values[quantity]

    def _during(self, metric: str, share: float) -> pd.Series[float]:
        """The value of every run at the evaluation nearest to a fraction of the training, if one is close enough."""
        curves = self.experiment.curves
        progress = curves["step"] / curves.groupby("run", observed=True)["step"].transform("max")
        off = (progress - share).abs()
        rows = curves.assign(off=off)[(curves["metric"] == metric) & (off <= NEAR)]
        nearest = rows.sort_values("off", kind="stable").drop_duplicates("run")
        return pd.Series(nearest["value"].to_numpy(np.float64), index=nearest["run"].astype(str).to_numpy())

    def _is(self, who: Configuration) -> pd.Series[bool]:
        matches = self._column("estimator") == who.estimator
        matches &= np.isclose(self._column("alpha").astype(float), who.alpha)
        return matches & ((self._column("warmup") > 0) == who.warmup)

    def _column(self, name: str) -> pd.Series[Any]:
        if name in self._runs:
            column = self._runs[name]
            return column.fillna(DEFAULTS[name]) if name in DEFAULTS else column
        return pd.Series([DEFAULTS.get(name)] * len(self._runs), index=self._runs.index)


def _text(values: pd.Series[float], pivot: Pivot) -> str:
    """Mean and standard error."""
    if not len(values):
        return "no runs"
    estimate, digits = mean_estimate(values), pivot.metric.kind.digits
    return format(estimate.value, digits) + ("" if math.isnan(estimate.se) else f" ± {format(estimate.se, digits)}")
