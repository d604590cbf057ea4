"""Estimator ids taken apart into settings of their own, ``--parse_estimator_args``: columns to group and filter by."""

from __future__ import annotations

import dataclasses

import pandas as pd

from ovis.estimators.ids import EstimatorId, parse_estimator
from ovis.experiments.reporting.data.read import Experiment

__all__ = ["COLUMNS", "split_estimators"]

#: What an id may fix. Not ``beta``: that is a training's weight of the KL term.
COLUMNS = ("family", "gamma", "S", "exclusive", "P", "tvo_beta", "integration")

#: The names of these settings in :class:`ovis.estimators.ids.EstimatorId`.
NAMES = {"S": "auxiliary", "P": "partitions", "tvo_beta": "first"}


def split_estimators(experiment: Experiment) -> Experiment:
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
