"""Selection of runs by ``--filter iw=50,dataset=binmnist``, and the settings in estimator ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ovis.estimators.ids import parse_estimator
from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.data.run_folders import canonical_estimator
from ovis.experiments.reporting.data.select import keep_runs
from ovis.experiments.reporting.figures.series import value_text
from ovis.suggestions import did_you_mean

__all__ = ["COLUMNS", "Condition", "filter_runs", "parse_condition", "split_estimators"]

#: Settings that an id may contain. The TVO's beta is ``tvo_beta``; ``beta`` is the weight of the KL term.
COLUMNS = ("family", "gamma", "S", "exclusive", "P", "tvo_beta", "integration")

#: The names of these settings in :class:`ovis.estimators.ids.EstimatorId`.
NAMES = {"S": "auxiliary", "P": "partitions", "tvo_beta": "first"}


@dataclass(frozen=True)
class Condition:
    """A setting and its required value."""

    key: str
    value: str

    def holds(self, value: object) -> bool:
        """Whether a run with this value is selected: numbers are compared as numbers, names in any case."""
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
    """The runs that fulfil the conditions: any of those on one setting, and all settings.

    Runs that could not be read stay listed, as their settings are not known.

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
    kept = np.full(len(experiment.runs), True)
    for key in {condition.key for condition in conditions}:
        alternatives = [condition for condition in conditions if condition.key == key]
        kept &= [any(condition.holds(value) for condition in alternatives) for value in experiment.runs[key]]
    return keep_runs(experiment, kept.tolist())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_estimators(experiment: ExperimentData) -> ExperimentData:
    """Add the columns :data:`COLUMNS` to the runs: what their estimator's id fixes, empty where it does not.

    ``ovis-S10-exclusive`` has family ovis-S, S 10 and exclusive True; ``tvo-part5-config2`` has P 5 and tvo_beta
    config2. An unknown id is a family of its own.
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
        return {"family": name}
    settings = {column: known.config.get(NAMES.get(column, column)) for column in COLUMNS}
    return {"family": known.family, **{column: value for column, value in settings.items() if value is not None}}
