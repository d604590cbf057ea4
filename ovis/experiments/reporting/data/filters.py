"""Conditions on settings, ``--filter iw=50,dataset=binmnist``: which runs a report is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ovis.estimators.ids import EstimatorId, parse_estimator
from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.run_folders import canonical_estimator
from ovis.experiments.reporting.data.select import keep_runs
from ovis.experiments.reporting.figures.series import value_text
from ovis.suggestions import did_you_mean

__all__ = ["COLUMNS", "Condition", "filter_runs", "parse_condition", "split_estimators"]

#: What an id may fix. Not ``beta``: that is a training's weight of the KL term.
COLUMNS = ("family", "gamma", "S", "exclusive", "P", "tvo_beta", "integration")

#: The names of these settings in :class:`ovis.estimators.ids.EstimatorId`.
NAMES = {"S": "auxiliary", "P": "partitions", "tvo_beta": "first"}


@dataclass(frozen=True)
class Condition:
    """A setting and the value that it is to have."""

    key: str
    value: str

    def holds(self, value: object) -> bool:
        """Whether a run with this value of the setting is meant: numbers as numbers, names in any spelling."""
        if self.key == "estimator":
            return canonical_estimator(self.value) == value
        text = value_text(value)
        if isinstance(value, str) or not _is_number(text) or not _is_number(self.value):
            return self.value.lower() == text.lower()
        return float(self.value) == float(str(value))


def parse_condition(text: str) -> Condition:
    """Read ``key=value``, e.g. ``iw=50``.

    Raises:
        ValueError: not of this form.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise ValueError(f"--filter: {text!r}: expected key=value, e.g. iw=50")
    return Condition(key, value)


def filter_runs(experiment: ExperimentData, conditions: Sequence[Condition]) -> ExperimentData:
    """The runs whose settings are as wanted: of conditions on one setting any must hold, of several settings all.

    What could not be read stays listed, whatever its settings: they are not known.

    Raises:
        ValueError: no such setting, or a value that no run has.
    """
    for condition in conditions:
        if condition.key not in experiment.settings:
            raise ValueError(
                f"--filter: no setting {condition.key!r}{did_you_mean(condition.key, experiment.settings)}"
            )
        values = list(experiment.runs[condition.key].unique())
        if not any(condition.holds(value) for value in values):
            there = sorted((value_text(value) for value in values), key=lambda text: (len(text), text))
            raise ValueError(f"--filter: no run has {condition.key}={condition.value}; there: {', '.join(there)}")
    kept = [True] * len(experiment.runs)
    for key in dict.fromkeys(condition.key for condition in conditions):
        wanted = [condition for condition in conditions if condition.key == key]
        held = [any(condition.holds(value) for condition in wanted) for value in experiment.runs[key]]
        kept = [one and other for one, other in zip(kept, held, strict=True)]
    return keep_runs(experiment, kept)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_estimators(experiment: ExperimentData) -> ExperimentData:
    """Add the columns :data:`COLUMNS` to the runs: what their estimator's id fixes, empty where it does not.

    ``ovis-S10-exclusive`` has family ovis-S, S 10 and exclusive True; ``tvo-part5-config2`` has P 5 and tvo_beta
    config2. An id that nobody knows is a family of its own.
    """
    if "estimator" not in experiment.runs:
        return experiment
    rows = [_arguments(str(name)) for name in experiment.runs["estimator"]]
    columns = pd.DataFrame({name: pd.Series([row.get(name, "") for row in rows], dtype=object) for name in COLUMNS})
    return dataclasses.replace(experiment, runs=pd.concat([experiment.runs, columns], axis=1))


def _arguments(name: str) -> dict[str, object]:
    try:
        known = parse_estimator(name)
    except ValueError:
        known = EstimatorId(name, name, {})
    found = {column: known.config[NAMES.get(column, column)] for column in COLUMNS if _has(known, column)}
    return {"family": known.family, **found}


def _has(known: EstimatorId, column: str) -> bool:
    return NAMES.get(column, column) in known.config
