"""The verdicts on what the paper says of an experiment: which claims belong to which, and what they are asked of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.verdict import ClaimVerdict, Stated, judge, undecided
from ovis.paper.claims import (
    asymptotic,
    budget,
    efficiency,
    gaussian_mixture,
    gaussian_vae,
    sigmoid_belief_network,
)
from ovis.paper.claims.cost_checks import Costs
from ovis.paper.claims.finished import FinishedRuns, MixedRunsError
from ovis.paper.claims.gradient_checks import Gradients

__all__ = ["base_name", "cost_verdicts", "gradient_verdicts", "training_verdicts"]

#: Smaller or larger variants of an experiment, which the same claims are about.
VARIANTS = re.compile(r"-(mini|excerpt|extended)$")


@dataclass(frozen=True)
class _Training:
    dataset: str
    stated: tuple[Stated[FinishedRuns], ...]


#: By the name of the experiment; the claims of the others are none.
TRAININGS: Mapping[str, _Training] = {
    "gaussian-mixture-model": _Training(gaussian_mixture.DATASET, gaussian_mixture.STATED),
    "sigmoid-belief-network": _Training(sigmoid_belief_network.DATASET, sigmoid_belief_network.STATED),
    "gaussian-vae": _Training(gaussian_vae.DATASET, gaussian_vae.STATED),
    "budget-analysis": _Training(budget.DATASET, budget.GAUSSIAN),
    "budget-analysis-sbm": _Training(budget.DATASET, budget.SIGMOID),
}


def base_name(exp: str) -> str:
    """The experiment that the paper knows: ``gaussian-vae`` of ``gaussian-vae-mini``."""
    return VARIANTS.sub("", exp)


def training_verdicts(experiment: ExperimentData) -> list[ClaimVerdict]:
    """The verdicts on an experiment of trainings, by its name; none where the paper says nothing of it.

    Only runs that are done count. Means over seeds are compared by the 95 % interval of their difference, paired by
    seed where two seeds are the same.

    Args:
        experiment: what was read.
    """
    known = TRAININGS.get(base_name(experiment.name))
    if known is None:
        return []
    runs = FinishedRuns(experiment, known.dataset)
    try:
        runs.check()
    except MixedRunsError as error:
        return [undecided(stated.claim, str(error), "seeds") for stated in known.stated]
    return [judge(stated, runs, "seeds") for stated in known.stated]


def gradient_verdicts(statistics: pd.DataFrame, slopes: pd.DataFrame) -> list[ClaimVerdict]:
    """The verdicts on the asymptotic study, for each toy it holds; ± is the standard error by the draws.

    Args:
        statistics: see :func:`ovis.paper.figure1.statistics.statistics_table`.
        slopes: see :func:`ovis.paper.figure1.statistics.slope_table`.
    """
    toys = list(statistics["toy"].unique())
    verdicts = []
    for toy in toys:
        tables = Gradients(statistics[statistics["toy"] == toy], slopes[slopes["toy"] == toy])
        subject = str(toy) if len(toys) > 1 else ""
        verdicts += [judge(stated, tables, "draws", subject) for stated in asymptotic.STATED]
    return verdicts


def cost_verdicts(costs: pd.DataFrame, device: str = "") -> list[ClaimVerdict]:
    """The verdicts on memory and time, on one device.

    Args:
        costs: see :func:`ovis.paper.efficiency.points.cost_table`.
        device: whose they are, where there are several.
    """
    return [judge(stated, Costs(costs), "repetitions", device) for stated in efficiency.STATED]
