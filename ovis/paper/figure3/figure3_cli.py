"""Draw Figure 3, left (VIMCO, OVIS) or right (TVO, OVIS with warm-up), and its numbers beside the paper's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovis.experiments.cli.options import OneLineParser
from ovis.experiments.cli.report_command import (
    FAILED,
    REFUSED,
    ReportError,
    add_folders,
    locate_experiment,
    print_read,
    print_skipped,
    run_report,
    write_files,
)

if TYPE_CHECKING:
    import pandas as pd

    from ovis.experiments.reporting.data.read import ExperimentData

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Report on one panel of Figure 3; see :func:`run_report` for the exit codes."""
    return run_report(report, build_parser(), argv)


def build_parser() -> OneLineParser:
    """The command line of report_figure3.py."""
    parser = OneLineParser(prog="report_figure3.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--figure", required=True, choices=("left", "right"), help="which panel")
    add("--exp", default="sigmoid-belief-network", metavar="NAME",
        help="the experiment: runs are read from ROOT/NAME (sigmoid-belief-network)")  # fmt: skip
    add_folders(parser)
    add("--dataset", default="binmnist", metavar="NAME", help="data set of the runs (binmnist)")
    add("--metric", default="train:loss/L_k", metavar="NAME", help="what is drawn (train:loss/L_k)")
    add("--ylims", type=_limits, metavar="LO:HI",
        help="vertical axis, --ylims=-92.5:-86.2; default: the paper's where most curves end there")  # fmt: skip
    return parser


def _limits(text: str) -> tuple[float, float]:
    from ovis.experiments.reporting.metrics import parse_limits

    try:
        return parse_limits(f"y:{text}")[1]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LO:HI, e.g. --ylims=-92.5:-86.2") from None


def report(options: argparse.Namespace) -> None:
    """Read, compute, draw, save, print.

    Raises:
        ReportError: there is nothing to draw, or no such thing as was asked for.
    """
    # Imported here: --help must not wait for pandas and matplotlib.
    from ovis.experiments.reporting.data.select import report_name
    from ovis.experiments.reporting.figures.save_figure import save_figure
    from ovis.experiments.reporting.tables import csv_text
    from ovis.paper.figure3.figure3_curves import PANELS, curve_table
    from ovis.paper.figure3.figure3_plot import panel_figure
    from ovis.paper.figure3.figure3_tables import final_table, final_text, step_table, step_text

    experiment = _read(options)
    curves = curve_table(experiment, options.metric)
    _check(options, experiment, curves)
    text = final_text(final_table(curves, experiment, options.figure))
    steps = step_text(step_table(curves, options.figure))
    if steps:
        text += f"\n{steps}"
    drawn = panel_figure(experiment, curves, options.figure, options.dataset, options.metric, options.ylims)

    folder = Path(options.output) / report_name(options.exp, PANELS[options.figure].include)
    _print_notes(experiment)
    write_files(folder, {f"{drawn.name}.csv": csv_text(curves), f"{drawn.name}.txt": text})
    print(text)
    print(*save_figure(drawn.figure, folder, drawn.name), sep="\n")


def _check(options: argparse.Namespace, experiment: ExperimentData, curves: pd.DataFrame) -> None:
    """Check that there is something to draw, and that some of it lies within the requested axis.

    Raises:
        ReportError: not so.
    """
    from ovis.experiments.reporting.data.select import check_metrics

    try:
        check_metrics(experiment, [options.metric], "--metric")
    except ValueError as error:
        raise ReportError(str(error), REFUSED) from None
    if curves.empty:
        raise ReportError(f"no run has a value of {options.metric}: nothing to draw", FAILED)
    values = curves["smoothed"].dropna()
    if options.ylims and not values.between(*options.ylims).any():
        low, high = options.ylims
        reach = f"its curves go from {values.min():.4g} to {values.max():.4g}" if len(values) else "there is no value"
        raise ReportError(f"--ylims={low:g}:{high:g} holds nothing of {options.metric}: {reach}", REFUSED)


def _read(options: argparse.Namespace) -> ExperimentData:
    """The runs of the panel; prints what was read and what was skipped."""
    from ovis.experiments.reporting.data.read import read_experiment
    from ovis.paper.figure3.figure3_curves import PANELS, select_panel

    source = locate_experiment(options)
    everything = read_experiment(source)
    experiment = select_panel(everything, options.figure, options.dataset)
    print_read(len(experiment.runs), experiment.states)
    print_skipped(experiment.skipped)
    if experiment.runs.empty:
        sets = ", ".join(sorted(set(map(str, everything.runs.get("dataset", []))))) or "none"
        label = PANELS[options.figure].include[0]
        raise ReportError(
            f"no run of --id {label} on {options.dataset} has any evaluation in {source}: nothing to draw "
            f"(data sets there: {sets})",
            FAILED,
        )
    return experiment


def _print_notes(experiment: ExperimentData) -> None:
    """Print in which settings averaged runs differ, and in which all runs differ from the paper's."""
    from ovis.experiments.reporting.data.select import mixed_settings
    from ovis.paper.figure3.figure3_curves import KEYS
    from ovis.paper.figure3.figure3_tables import unpublished_settings

    mixed = mixed_settings(experiment, KEYS)
    if mixed:
        print(f"note: runs that are averaged differ in {', '.join(mixed)}")
    differing = unpublished_settings(experiment)
    if differing:
        values = ", ".join(f"{name} = {value}" for name, value in differing.items())
        print(f"note: not the paper's experiment ({values}): its numbers are no reference for these runs")
