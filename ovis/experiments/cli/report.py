"""Draw an experiment's figures and print its table, from whatever has been run so far."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovis.experiments.cli.options import OneLineParser
from ovis.experiments.cli.report_command import (
    FAILED,
    NAMED,
    REFUSED,
    ReportError,
    add_folders,
    locate_experiment,
    other_report,
    print_read,
    print_skipped,
    run_report,
    split_words,
    write_files,
)

if TYPE_CHECKING:
    from ovis.experiments.reporting.data.read import ExperimentData
    from ovis.experiments.reporting.data.results import Results
    from ovis.experiments.reporting.figures.save_figure import ReportFigure
    from ovis.experiments.reporting.report_spec import ReportSpec

__all__ = ["main", "report"]


def main(argv: Sequence[str] | None = None) -> int:
    """Report on one experiment of training runs; see :func:`run_report` for the exit codes."""
    return run_report(report, build_parser(), argv)


def build_parser() -> OneLineParser:
    """The command line of report.py."""
    parser = OneLineParser(
        prog="report.py",
        description=__doc__,
        allow_abbrev=False,
        epilog="Where no metrics are named, the paper's experiments get those of the paper's figures.",
    )
    words: dict[str, Any] = {"type": split_words, "default": [], "metavar": "A,B"}
    add = parser.add_argument
    add("--exp", required=True, metavar="NAME", help="the experiment: runs are read from ROOT/NAME")
    add_folders(parser)
    runs = parser.add_argument_group("which runs").add_argument
    runs("--include", **words, help="only runs whose label (--id), estimator or folder name holds one of these")
    runs("--exclude", **words, help="no runs whose label, estimator or folder name holds one of these")
    runs("--filter", **{**words, "metavar": "KEY=VALUE,..."}, help="only runs with these settings; of two values of "
        "one setting either will do")  # fmt: skip
    show = parser.add_argument_group("what to show").add_argument
    show("--keys", **words, help="settings that tell runs apart; default: dataset, estimator, iw")
    show("--merge_args", **{**words, "default": None}, help="settings that make another series of an estimator, such "
        "as alpha; default: those in which its runs differ; empty (--merge_args=): average them")  # fmt: skip
    show("--parse_estimator_args", action="store_true", help="take estimator ids apart into settings for --keys and "
        "--filter: family, gamma, S, exclusive, P, tvo_beta, integration")  # fmt: skip
    show("--metrics", **words, help="curves, one panel each")
    show("--detailed_metrics", **words, help="detailed plots: a row of panels each, a column for each K")
    show("--pivot_metrics", **words, help="columns of the table and panels against K: agg:metric, with the max, min, "
        "mean or last over a training")  # fmt: skip
    show("--ylims", **{**words, "metavar": "METRIC:LO:HI,..."}, help="limits of the vertical axes of curves; a panel "
        "of which they would hold nothing goes without")  # fmt: skip
    how = parser.add_argument_group("how to show it").add_argument
    how("--ema", type=_weight, default=0.0, metavar="W", help="smooth the curves of every run: weight of the past in "
        "an exponential average, from 0 (default) to below 1")  # fmt: skip
    how("--downsample", type=_points, metavar="N", help="at most N points of a curve")
    how("--band", default="std", choices=("std", "ci", "none"), help="around the mean of curves: 0.5 std (default), "
        "95%% interval, nothing; detailed plots have the interval, pivots 0.5 std")  # fmt: skip
    how("--latex", action="store_true", help="write the table as LaTeX too (table.tex)")
    how("--float_format", type=_float_format, default="", metavar="F",
        help="of all numbers in the table, e.g. .2f; default: by metric")  # fmt: skip
    return parser


def _weight(text: str) -> float:
    """A weight of the past in a moving average."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, e.g. 0.9, got {text!r}")
    return value


def _points(text: str) -> int:
    """A number of points that hold a curve's first and last one."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be a whole number, 2 or more, got {text!r}")
    return int(text)


def _float_format(text: str) -> str:
    """A format specification, also as ``%.2f`` or ``{:.2f}``."""
    plain = text.strip("{:}").removeprefix("%")
    try:
        format(0.5, plain)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no format of a number, e.g. .2f") from None
    return plain


def report(options: argparse.Namespace) -> list[ReportFigure]:
    """Read, compute, draw, save, print.

    Returns:
        the figures.

    Raises:
        ReportError: there is nothing to report on, or no such thing as was asked for.
    """
    # Imported here: --help must not wait for pandas and matplotlib.
    from ovis.experiments.reporting.data.read import read_experiment
    from ovis.experiments.reporting.data.results import compute_results
    from ovis.experiments.reporting.data.select import report_name
    from ovis.experiments.reporting.figures.report_figures import draw_report
    from ovis.experiments.reporting.page.render import write_page
    from ovis.experiments.reporting.page.runs_table import experiment_page
    from ovis.experiments.reporting.presets import preset_of
    from ovis.experiments.reporting.tables import csv_text
    from ovis.experiments.reporting.verdict import claims_table, claims_text

    source = locate_experiment(options)
    everything = read_experiment(source)
    experiment = _select(options, everything, source)
    spec = _choose(options, experiment)
    results = compute_results(experiment, spec, options.band, options.ema, options.downsample)
    preset = preset_of(options.exp)
    verdicts = preset.verdicts(everything) if preset.verdicts else []
    files = _tables(options, results)
    if verdicts:
        files["claims.csv"] = csv_text(claims_table(verdicts))
    folder = Path(options.output) / report_name(options.exp, options.include, options.exclude, options.filter)
    write_files(folder, files)
    print(files["table.txt"])
    if verdicts:
        print(claims_text(verdicts))
    drawn = []
    more = preset.figures(experiment) if preset.figures else ()
    for figure in chain(draw_report(results, options.band), more):
        print(figure.save(folder))
        drawn.append(figure)
    page = experiment_page(experiment, source, spec.pivots, drawn, verdicts, spec.notes, options.command)
    print(write_page(folder, page))
    return drawn


def _tables(options: argparse.Namespace, results: Results) -> dict[str, str]:
    """File name -> content: curves and pivots as CSV, the table as text and, if asked for, as LaTeX."""
    from ovis.experiments.reporting.tables import csv_text, latex_table, text_table, wide_table

    spec = results.spec
    files = {"curves.csv": csv_text(results.curves)}
    if len(results.detailed):
        files["detailed.csv"] = csv_text(results.detailed)
    files["pivot.csv"] = csv_text(wide_table(results.pivot, spec.keys))
    files["table.txt"] = text_table(results.pivot, spec.keys, options.float_format, spec.evaluated)
    if options.latex:
        files["table.tex"] = latex_table(results.pivot, spec.keys, options.float_format, spec.evaluated)
    return files


def _select(options: argparse.Namespace, everything: ExperimentData, source: Path) -> ExperimentData:
    """The selected runs; prints what was read and what was skipped."""
    from ovis.experiments.reporting.data.filters import filter_runs, parse_condition, split_estimators
    from ovis.experiments.reporting.data.select import select_runs

    experiment = select_runs(everything, options.include, options.exclude)
    if options.parse_estimator_args:
        experiment = split_estimators(experiment)
    try:
        conditions = [parse_condition(text) for text in options.filter]
        if len(experiment.runs):
            experiment = filter_runs(experiment, conditions)
    except ValueError as error:
        raise ReportError(str(error), REFUSED) from None
    _print_counts(experiment, everything)
    if experiment.runs.empty:
        what = "no run was asked for" if len(everything.runs) else "no run has any evaluation"
        other = "" if len(everything.runs) else other_report(source, "report")
        raise ReportError(f"{what} in {source}: {other or 'nothing to draw'}", FAILED)
    return experiment


def _print_counts(experiment: ExperimentData, everything: ExperimentData) -> None:
    print_read(len(experiment.runs), experiment.states)
    left = sum(everything.states.values()) - sum(experiment.states.values())
    if left:
        print(f"left out by --include, --exclude and --filter: {left} runs")
    print_skipped(experiment.skipped)
    for run in experiment.runs[experiment.runs["state"] == "failed"].to_dict("records")[:NAMED]:
        print(f"failed {run['run']}: {run['message'] or 'no message'} (drawn as far as it came)")


def _choose(options: argparse.Namespace, experiment: ExperimentData) -> ReportSpec:
    """What to show; prints the notes on it."""
    from ovis.experiments.reporting.presets import preset_of
    from ovis.experiments.reporting.report_spec import ReportRequest, make_report_spec

    request = ReportRequest(
        options.keys,
        options.metrics,
        options.detailed_metrics,
        options.pivot_metrics,
        options.ylims,
        options.merge_args,
    )
    try:
        spec = make_report_spec(experiment, request, preset_of(options.exp))
    except ValueError as error:
        raise ReportError(str(error), REFUSED) from None
    for note in spec.notes:
        print(f"note: {note}")
    return spec
