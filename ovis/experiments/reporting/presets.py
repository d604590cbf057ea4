"""What report.py shows of a known experiment where nothing is asked for, and what else belongs to its report."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovis.experiments.plugins import PluginTable

if TYPE_CHECKING:
    from ovis.experiments.reporting.data.read import ExperimentData
    from ovis.experiments.reporting.figures.save_figure import ReportFigure
    from ovis.experiments.reporting.verdict import ClaimVerdict

__all__ = ["PRESETS", "Preset", "preset_of"]

#: The functions that plugins register: ``"module:function"``, called with an experiment's name; they return its
#: :class:`Preset`, or None if they know no such experiment.
PRESETS: PluginTable[str] = PluginTable("function of presets", {})


@dataclass(frozen=True)
class Preset:
    """What an experiment's report shows beyond the defaults.

    Attributes:
        metrics, detailed_metrics, pivot_metrics, ylims: as on the command line of report.py; empty: the defaults.
        figures: further figures, made from the selected runs.
        verdicts: on what a publication says of the experiment, from all of its runs.
    """

    metrics: tuple[str, ...] = ()
    detailed_metrics: tuple[str, ...] = ()
    pivot_metrics: tuple[str, ...] = ()
    ylims: tuple[str, ...] = ()
    figures: Callable[[ExperimentData], Iterable[ReportFigure]] | None = None
    verdicts: Callable[[ExperimentData], list[ClaimVerdict]] | None = None


def preset_of(exp: str) -> Preset:
    """The preset of an experiment by its name; of an unknown one, an empty preset."""
    for function in PRESETS.values():
        preset: Preset | None = pkgutil.resolve_name(function)(exp)
        if preset is not None:
            return preset
    return Preset()
