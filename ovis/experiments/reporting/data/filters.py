"""Conditions on settings, ``--filter iw=50,dataset=binmnist``: which runs a report is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovis.experiments.reporting.data.read import Experiment
from ovis.experiments.reporting.data.run_folders import canonical_estimator
from ovis.experiments.reporting.data.select import keep_runs
from ovis.experiments.reporting.figures.series import value_text
from ovis.suggestions import did_you_mean

__all__ = ["Condition", "filter_runs", "parse_condition"]


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


def filter_runs(experiment: Experiment, conditions: Sequence[Condition]) -> Experiment:
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
