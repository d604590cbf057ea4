"""The series of a figure: the look of each group of runs, and its entry in the legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import pandas as pd
from matplotlib.ticker import EngFormatter

from ovis.experiments.datasets import DATASETS
from ovis.experiments.reporting.figures.style import (
    DASHES,
    FALLBACK,
    MARKERS,
    SOLID,
    Look,
    estimator_looks,
    figure_text,
    style_group,
    style_order,
)

__all__ = [
    "Series",
    "by_family",
    "dataset_title",
    "estimator_families",
    "legend_looks",
    "make_series",
    "panel_title",
    "setting_text",
    "value_text",
]

#: Settings with a symbol of their own; others are written ``name=value``.
SYMBOLS = {"iw": "K", "alpha": "α", "beta": "β", "tau": "τ", "mc": "M"}

#: Settings whose value alone identifies them.
PLAIN = ("dataset", "model", "id", "prior", "optimizer")

#: Usual values, which are omitted next to the name of an estimator.
USUAL = {"alpha": 0.0, "warmup": 0, "tau": 0.0}

#: A legend with more entries lists estimators and other settings separately.
LONGEST_LEGEND = 12

#: Colour of the legend's lines that stand for a setting of any estimator.
NEUTRAL = "#333333"


@dataclass(frozen=True)
class Series:
    """A group of runs that is one line in each panel.

    Attributes:
        keys: the settings that make the group, by name.
        look: how it is drawn; its label names the whole group.
        estimator: what of the label is the estimator; empty where all groups have the same one.
        rest: the other settings, written out.
        level: the index of ``rest`` among all of them, the smallest first.
    """

    keys: dict[str, Any]
    look: Look
    estimator: str
    rest: str
    level: int


def make_series(table: pd.DataFrame, keys: Sequence[str]) -> list[Series]:
    """Give every group of runs a look: colour and marker stand for the estimator, dashes for the other settings.

    Settings in which no two groups differ are left out of the labels. Of settings that make another series of one
    estimator (alpha, its warm-up) the usual value is solid and not named, as in the paper's Figure 4; of
    several K the largest is solid, as in Figure 3.

    Args:
        table: any table with these columns; its groups are named in the order in which they first occur.
        keys: settings that distinguish groups; none: all rows are one group.
    """
    groups = table[list(keys)].drop_duplicates() if keys else pd.DataFrame(index=[0])
    varying = [str(name) for name in groups.columns if groups[name].nunique(dropna=False) > 1]
    others = [name for name in varying if name != "estimator"]
    ids = [str(name) for name in groups["estimator"]] if "estimator" in groups else [""] * len(groups)
    looks = estimator_looks(ids)
    compared = len(looks) > 1 or not others  # estimators; otherwise one of them under several settings
    levels = _levels(groups[others])
    series = []
    for row, name in zip(groups.to_dict("records"), ids, strict=True):
        rest = ", ".join(setting_text(key, row[key]) for key in others)
        level = levels.index(rest) if others else 0
        look = looks[name] if compared else _ordinal(level)
        if compared and others:
            look = replace(look, dash=DASHES[(len(levels) - 1 - level if "iw" in others else level) % len(DASHES)])
        estimator = look.label if compared and name else ""
        unusual = [setting_text(key, row[key]) for key in others if row[key] != USUAL.get(key, "") or not estimator]
        label = ", ".join(part for part in (estimator, *unusual) if part) or "all runs"
        named = {str(key): value for key, value in row.items()}
        series.append(Series(named, replace(look, label=label), estimator, rest, level))
    return series


def by_family(series: Sequence[Series]) -> list[list[Series]]:
    """The series in the columns of the paper's legends, one column per family of estimators, sorted by settings."""
    columns: dict[int, list[Series]] = {}
    for item in sorted(series, key=lambda item: (style_order(str(item.keys.get("estimator", ""))), item.level)):
        columns.setdefault(style_group(str(item.keys.get("estimator", ""))), []).append(item)
    return list(columns.values())


def estimator_families(table: pd.DataFrame) -> list[list[Series]]:
    """One series for each estimator of a table, in the columns of the paper's legends."""
    return by_family(make_series(table, ["estimator"]))


def value_text(value: object) -> str:
    """A setting's value: ``0.7``, ``10``, ``digits``; a question mark where a run does not have the setting."""
    if value is None or value != value:
        return "?"
    return f"{value:g}" if isinstance(value, float) else str(value)


def dataset_title(name: str) -> str:
    """The name of a data set in figures and texts: ``Omniglot``."""
    return (name in DATASETS and DATASETS[name].title) or name


def panel_title(key: str, value: str) -> str:
    """The title of a panel that is of one value of a key: ``Omniglot``, ``K = 5``; nothing where there is no value."""
    if key == "iw" and value:
        return f"$K = {value}$"
    return figure_text(dataset_title(value) if key == "dataset" or not value else f"{SYMBOLS.get(key, key)} = {value}")


def setting_text(key: str, value: object) -> str:
    """A setting with its value: ``K=10``, ``α=0.7``, ``α warm-up 1M``, ``digits``, ``no id``."""
    if key == "warmup" and isinstance(value, Real) and value == value:
        return f"α warm-up {EngFormatter(sep='')(float(value))}" if value else "no warm-up"
    text = value_text(value)
    if not text:
        return f"no {key}"
    return text if key in PLAIN else f"{SYMBOLS.get(key, key)}={text}"


def legend_looks(series: Sequence[Series]) -> list[Look]:
    """The entries of the legend: every series; or, where these are too many, every estimator and then every setting."""
    estimators: dict[str, Look] = {}
    settings: dict[int, Look] = {}
    for item in series:
        estimators.setdefault(item.estimator, replace(item.look, label=item.estimator, dash=SOLID))
        settings.setdefault(item.level, replace(item.look, label=item.rest, color=NEUTRAL, marker="None"))
    if len(series) <= LONGEST_LEGEND or len(estimators) < 2 or len(settings) < 2:
        return [item.look for item in series]
    return [*estimators.values(), *(settings[level] for level in sorted(settings))]


def _levels(others: pd.DataFrame) -> list[str]:
    """The combinations of the other settings as text, smallest first."""
    names = [str(name) for name in others.columns]
    if not names:
        return []
    distinct = others.drop_duplicates().sort_values(names, key=_sortable, kind="stable")
    return [", ".join(setting_text(str(n), v) for n, v in row.items()) for row in distinct.to_dict("records")]


def _sortable(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers as numbers, everything else as text."""
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column.map(str)


def _ordinal(number: int) -> Look:
    """The look with this number, for series of the same estimator."""
    return Look("", FALLBACK[number % len(FALLBACK)], DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)])
