"""The verdicts on the paper's claims, by experiment."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from ovis.experiments.reporting.data.read import ExperimentData
from ovis.experiments.reporting.verdict import ClaimVerdict, undecided
from ovis.paper.claims import budget_claims, figure2_claims, figure3_claims, figure4_claims
from ovis.paper.claims.compare import PaperClaim, judge
from ovis.paper.claims.cost_numbers import CostNumbers
from ovis.paper.claims.efficiency_claims import EFFICIENCY
from ovis.paper.claims.figure1_claims import FIGURE1
from ovis.paper.claims.gradient_numbers import GradientNumbers
from ovis.paper.claims.training_numbers import MixedRunsError, TrainingNumbers

__all__ = ["TRAINING_CLAIMS", "base_name", "cost_verdicts", "gradient_verdicts", "training_verdicts"]

#: Suffixes of smaller or larger variants of an experiment, to which the same claims apply.
VARIANTS = re.compile(r"-(mini|excerpt|extended)$")

#: Experiment -> its data set and its claims.
TRAINING_CLAIMS: Mapping[str, tuple[str, tuple[PaperClaim, ...]]] = {
    "gaussian-mixture-model": ("gmm", figure2_claims.FIGURE2),
    "sigmoid-belief-network": ("binmnist", figure3_claims.FIGURE3),
    "gaussian-vae": ("binmnist", figure4_claims.FIGURE4),
    "budget-analysis": ("binmnist", budget_claims.GAUSSIAN),
    "budget-analysis-sbm": ("binmnist", budget_claims.SIGMOID),
}


def base_name(exp: str) -> str:
    """The experiment of the paper that a variant belongs to: ``gaussian-vae`` for ``gaussian-vae-mini``."""
    return VARIANTS.sub("", exp)


def training_verdicts(experiment: ExperimentData) -> list[ClaimVerdict]:
    """The verdicts on an experiment of training runs, by its name; none if the paper makes no claim about it.

    Only runs that are done count. Means over seeds are compared by the 95 % interval of their difference, paired by
    seed where two seeds are the same.
    """
    if base_name(experiment.name) not in TRAINING_CLAIMS:
        return []
    dataset, claims = TRAINING_CLAIMS[base_name(experiment.name)]
    numbers = TrainingNumbers(experiment, dataset)
    try:
        numbers.check()
    except MixedRunsError as error:
        return [undecided(claim, str(error), "seeds") for claim in claims]
    return [judge(claim, numbers, "seeds") for claim in claims]


def gradient_verdicts(statistics: pd.DataFrame, slopes: pd.DataFrame) -> list[ClaimVerdict]:
    """The verdicts on the asymptotic study, for each of its toys; ± is the standard error by the draws.

    Args:
        statistics: see :func:`ovis.paper.figure1.asymptotic_statistics.statistics_table`.
        slopes: see :func:`ovis.paper.figure1.asymptotic_statistics.slope_table`.
    """
    toys = list(statistics["toy"].unique())
    verdicts = []
    for toy in toys:
        numbers = GradientNumbers(statistics[statistics["toy"] == toy], slopes[slopes["toy"] == toy])
        subject = str(toy) if len(toys) > 1 else ""
        verdicts += [judge(claim, numbers, "draws", subject) for claim in FIGURE1]
    return verdicts


def cost_verdicts(costs: pd.DataFrame, device: str = "") -> list[ClaimVerdict]:
    """The verdicts on memory and time, on one device.

    Args:
        costs: see :func:`ovis.paper.efficiency.cost_tables.cost_table`.
        device: whose costs they are, where there are several.
    """
    return [judge(claim, CostNumbers(costs), "repetitions", device) for claim in EFFICIENCY]
