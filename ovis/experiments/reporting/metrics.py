"""Metrics by their names: label, unit, whether larger is better, and format."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ovis.experiments.reporting.figures.style import figure_text
from ovis.suggestions import did_you_mean

__all__ = [
    "AGGREGATES",
    "PARTICLES",
    "Evaluated",
    "Metric",
    "Pivot",
    "is_known",
    "make_metric",
    "parse_limits",
    "parse_pivot",
]

#: Aggregates, which reduce the values of a run over its training to one number.
AGGREGATES = {"max": "max", "min": "min", "mean": "mean", "last": "final"}


#: Split -> the setting with the number of particles of its evaluation, which differs from the K of training.
PARTICLES = {"train": "iw_test", "valid": "iw_valid", "test": "iw_test"}

#: Of a bound, in its symbol and in its text: with how many particles it is evaluated.
COUNT = "<K>"


@dataclass(frozen=True)
class MetricKind:
    """Properties of all metrics of one kind.

    Attributes:
        symbol: for figures (mathtext); :data:`COUNT` stands for the number of particles.
        text: the same in plain letters.
        unit: e.g. nats; empty for a plain number.
        sign: 1 where more is better, -1 where less is, 0 where neither.
        log: draw it on a logarithmic axis.
        digits: format of a value in a table.
    """

    symbol: str
    text: str
    unit: str = ""
    sign: int = 0
    log: bool = False
    digits: str = ".2f"


#: By the part of the name after the split, ``test:loss/L_k`` -> ``loss/L_k``.
KINDS = {
    "loss/L_k": MetricKind(r"$\log\,p(x)$ bound $L_{<K>}$", "bound L_<K>", "nats", 1),
    "loss/elbo": MetricKind("ELBO", "ELBO", "nats", 1),
    "loss/kl": MetricKind(r"KL$(q(z|x)\,\|\,p(z))$", "KL(q||prior)", "nats"),
    "loss/kl_q_p": MetricKind(r"KL$(q(z|x)\,\|\,p(z|x))$", "KL(q||p)", "nats", -1),
    "loss/nll": MetricKind(r"$-\log\,p(x|z)$", "NLL", "nats", -1),
    "loss/ess": MetricKind("effective sample size", "ESS", "", 1),
    "loss/alpha": MetricKind(r"$\alpha$", "alpha", "", digits=".3f"),
    "grads/snr": MetricKind("gradient SNR", "SNR", "", 1, log=True, digits=".4f"),
    "grads/dsnr": MetricKind("gradient DSNR", "DSNR", "", 1, log=True, digits=".4f"),
    "grads/variance": MetricKind("gradient variance", "variance", "", -1, log=True, digits=".2e"),
    "grads/magnitude": MetricKind("gradient magnitude", "magnitude", "", log=True, digits=".2e"),
    "grads/direction": MetricKind("cosine to the true gradient", "cosine", "", 1, digits=".3f"),
    "active_units/au": MetricKind("active units", "active units", "", 1, digits=".0f"),
    "gmm/posterior_mse": MetricKind(r"posterior $L_2$ error", "posterior L2", "", -1, log=True, digits=".4f"),
    "gmm/prior_mse": MetricKind(r"prior $L_2$ error", "prior L2", "", -1, log=True, digits=".4f"),
    "gaussian_toy/mse_A": MetricKind(r"$\|A-A^*\|_2$", "error of A", "", -1, log=True, digits=".4f"),
    "gaussian_toy/mse_b": MetricKind(r"$\|b-b^*\|_2$", "error of b", "", -1, log=True, digits=".4f"),
    "gaussian_toy/mse_mu": MetricKind(r"$\|\mu-\mu^*\|_2$", "error of mu", "", -1, log=True, digits=".4f"),
    "time": MetricKind("wall time per run", "time", "s", -1, digits=".1f"),
}


@dataclass(frozen=True)
class Evaluated:
    """How an experiment's metrics were evaluated, which their labels state.

    Attributes:
        particles: split -> with how many its bounds are evaluated; without the splits in which the runs differ.
        once: metrics that each run measures once, at its end, with its best parameters.
        chosen_on: the split whose bound chose these parameters; empty: the runs differ, or it is not known.
    """

    particles: Mapping[str, int] = field(default_factory=dict)
    once: frozenset[str] = frozenset()
    chosen_on: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric by its name, ``split:kind`` (or ``time``, the seconds since the run's start).

    Attributes:
        name: as the runs write it.
        particles: with how many it is evaluated; None: the runs differ, or it is not known.
        once: it is measured once, at the end of a run, with the best parameters: a point, no curve.
        chosen_on: the split that chose these parameters; empty: not known.
    """

    name: str
    particles: int | None = None
    once: bool = False
    chosen_on: str = ""

    @property
    def split(self) -> str:
        head, colon, _ = self.name.partition(":")
        return head if colon else ""

    @property
    def kind(self) -> MetricKind:
        """Its kind; an unknown metric is a plain number with its name as label."""
        key = self.name.partition(":")[2] or self.name
        return KINDS.get(key, MetricKind(figure_text(key.replace("_", " ")), key, digits=".4g"))

    @property
    def symbol(self) -> str:
        """For figures, without split and unit: ``log p(x) bound L_100``."""
        return self._counted(self.kind.symbol)

    @property
    def label(self) -> str:
        """For an axis: ``log p(x) bound L_100, train [nats]``."""
        split = f", {figure_text(self.split)}" if self.split else ""
        unit = f" [{self.kind.unit}]" if self.kind.unit else ""
        return f"{self.symbol}{split}{unit}"

    @property
    def wrapped_label(self) -> str:
        """The same in two lines, for low panels."""
        unit = f" [{self.kind.unit}]" if self.kind.unit else ""
        return f"{self.symbol}\n{figure_text(self.split)}{unit}" if self.split else f"{self.symbol}{unit}"

    @property
    def text(self) -> str:
        """For a table: ``train bound L_100 [nats]``."""
        unit = f" [{self.kind.unit}]" if self.kind.unit else ""
        return f"{self.split} {self._counted(self.kind.text)}{unit}".strip()

    def _counted(self, words: str) -> str:
        return words.replace(COUNT, "K" if self.particles is None else str(self.particles))


@dataclass(frozen=True)
class Pivot:
    """One number per run: ``max:test:loss/L_k`` is the largest test log p(x) of the training."""

    aggregate: str
    metric: Metric

    @property
    def name(self) -> str:
        return f"{self.aggregate}:{self.metric.name}"

    @property
    def heading(self) -> str:
        """How the metric was aggregated (best, final, mean, max or min) and, for the best test value, on which split.

        The best of all evaluations on the test set is chosen on the test set, and too good by that. A metric measured
        once, with the best parameters, is not: all its aggregates are that one number.
        """
        if self.metric.name == "time":
            return "per run"
        if self.metric.once:
            return f"chosen on {self.metric.chosen_on}" if self.metric.chosen_on else "best parameters"
        best = {1: "max", -1: "min"}.get(self.metric.kind.sign)
        if self.aggregate != best:
            return AGGREGATES[self.aggregate]
        return "best, chosen on test" if self.metric.split == "test" else "best"

    @property
    def label(self) -> str:
        """For an axis, in lines: the metric, its aggregate, and on which split that was chosen, if it matters."""
        metric = self.metric
        word, _, chosen = self.heading.partition(", ")
        if metric.once:
            word, chosen = "", self.heading
        how = ", ".join(part for part in (metric.split, "" if metric.name == "time" else word) if part)
        unit = f" [{metric.kind.unit}]" if metric.kind.unit else ""
        lines = (metric.symbol, f"{figure_text(how)}{unit}", chosen) if how else (f"{metric.symbol}{unit}",)
        return "\n".join(line for line in lines if line)

    @property
    def phrase(self) -> str:
        """For a sentence: ``best train bound L_100``, ``test bound L_100 (chosen on valid)``."""
        text = re.sub(r" \[.*\]$", "", self.metric.text)
        word, _, chosen = self.heading.partition(", ")
        if self.metric.once:
            word, chosen = "", self.heading
        return " ".join(part for part in (word, text, f"({chosen})" if chosen else "") if part)


def parse_pivot(text: str, evaluated: Evaluated | None = None) -> Pivot:
    """Read ``agg:metric``.

    Args:
        text: what to read.
        evaluated: see :func:`ovis.experiments.reporting.data.select.how_evaluated`.

    Raises:
        ValueError: no such aggregate.
    """
    aggregate, _, name = text.partition(":")
    if aggregate not in AGGREGATES or not name:
        raise ValueError(f"{text!r}: expected agg:metric, e.g. max:test:loss/L_k{did_you_mean(aggregate, AGGREGATES)}")
    return Pivot(aggregate, make_metric(name, evaluated))


def make_metric(name: str, evaluated: Evaluated | None = None) -> Metric:
    """The metric of this name, as it was evaluated."""
    known = evaluated or Evaluated()
    once = name in known.once
    return Metric(name, known.particles.get(Metric(name).split), once, known.chosen_on if once else "")


def is_known(name: str) -> bool:
    """Whether training runs can have this metric, even if none has it yet."""
    split, _, kind = name.partition(":")
    return split in PARTICLES and kind in KINDS


def parse_limits(text: str) -> tuple[str, tuple[float, float]]:
    """Read ``metric:lo:hi``, e.g. ``test:loss/L_k:-94:-88``.

    Raises:
        ValueError: not of this form, or lo is not below hi.
    """
    name, *ends = text.rsplit(":", 2)
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        raise ValueError(f"{text!r}: expected metric:lo:hi, e.g. test:loss/L_k:-94:-88") from None
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{text!r}: the lower limit must lie below the upper one, both finite")
    return name, (low, high)
