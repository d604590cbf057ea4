"""Draw an experiment's curves and print its table, from whatever has been run so far."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovis.cli.reports import FAILED, REFUSED, ReportError, run_report, split_words

if TYPE_CHECKING:
    import pandas as pd

    from ovis.reporting.metrics import Metric, Pivot
    from ovis.reporting.read import Experiment

__all__ = ["main"]

KEYS = ("estimator", "iw")

#: What is drawn and computed where nothing is asked for: as far as the runs have it.
METRICS = ("train:loss/L_k", "test:loss/L_k", "train:grads/snr")
PIVOTS = (
    "max:test:loss/L_k",
    "last:test:loss/L_k",
    "max:train:loss/L_k",
    "last:train:loss/L_k",
    "mean:train:grads/snr",
    "mean:train:loss/ess",
    "max:time",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Report on one experiment.

    Args:
        argv: the command line; None: that of the process.

    Returns:
        0; 1 where no run has any data, or the report can't be written; 2 where what was asked for does not exist, or
        a package is not installed.
    """
    return run_report(report, build_parser().parse_args(argv))


def build_parser() -> argparse.ArgumentParser:
    """The command line of report.py."""
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__, allow_abbrev=False)
    words: dict[str, Any] = {"type": split_words, "default": [], "metavar": "A,B"}
    add = parser.add_argument
    add("--exp", required=True, metavar="NAME", help="the experiment: runs are read from ROOT/NAME")
    add("--root", default="runs/", metavar="FOLDER", help="folder of all experiments (runs/)")
    add("--output", default="reports/", metavar="FOLDER", help="folder of all reports (reports/)")
    add("--include", **words, help="only runs whose label (--id), estimator or folder name holds one of these")
    add("--exclude", **words, help="no runs whose label, estimator or folder name holds one of these")
    add("--keys", **words, help="settings that tell curves apart, the rest is averaged; default: " + ",".join(KEYS))
    add("--metrics", **words, help="one panel each; default: " + ",".join(METRICS))
    add("--pivot_metrics", **words, help="columns agg:metric (max, min, mean, last); default: " + ",".join(PIVOTS))
    add("--ylims", **{**words, "metavar": "METRIC:LO:HI,..."}, help="limits of vertical axes")
    add(
        "--band",
        default="std",
        choices=("std", "ci", "none"),
        help="around a mean: 0.5 std (default), 95%% interval, nothing",
    )
    add("--latex", action="store_true", help="write the table as LaTeX too (table.tex)")
    add(
        "--float_format",
        type=_float_format,
        default="",
        metavar="F",
        help="of all numbers in the table, e.g. .2f; default: by metric",
    )
    return parser


def _float_format(text: str) -> str:
    """A format specification, also as ``%.2f`` or ``{:.2f}``."""
    plain = text.strip("{:}").removeprefix("%")
    try:
        format(0.5, plain)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no format of a number, e.g. .2f") from None
    return plain


def report(options: argparse.Namespace) -> None:
    """Read, compute, draw, save, print.

    Raises:
        ReportError: there is nothing to report on, or no such thing as was asked for.
    """
    # Here and not above: --help is to come at once, and pandas and matplotlib take a second.
    from ovis.reporting.aggregate import BANDS, curve_table, pivot_table
    from ovis.reporting.curves import draw_curves
    from ovis.reporting.figures import save_figure
    from ovis.reporting.metrics import parse_limits, parse_pivot
    from ovis.reporting.select import report_name, shared_particles
    from ovis.reporting.tables import latex_table, text_table, wide_table
    from ovis.runner.atomic import write_text

    experiment = _read(options)
    try:
        keys, metrics, pivots = _choose(options, experiment)
        limits = dict(parse_limits(text) for text in options.ylims)
    except ValueError as error:
        raise ReportError(str(error), REFUSED) from None
    _print_notes(experiment, keys, limits)

    pivot = pivot_table(experiment, keys, pivots)
    curves = curve_table(experiment, keys, metrics, options.band, pivot)
    particles = shared_particles(experiment)
    order = parse_pivot(pivots[0].name, particles)
    figure = draw_curves(curves, keys, limits, _caption(curves, order, BANDS[options.band]), particles)

    folder = Path(options.output) / report_name(options.exp, options.include, options.exclude)
    folder.mkdir(parents=True, exist_ok=True)
    text = text_table(pivot, keys, options.float_format, particles)
    files = {
        "curves.csv": curves.to_csv(index=False),
        "pivot.csv": wide_table(pivot, keys).to_csv(index=False),
        "table.txt": text,
    }
    if options.latex:
        files["table.tex"] = latex_table(pivot, keys, options.float_format, particles)
    for name, content in files.items():
        write_text(folder / name, content, durable=False)
    figures = save_figure(figure, folder, "curves")
    print(f"wrote {', '.join(files)} to {folder}\n")
    print(text)
    print(*figures, sep="\n")


def _read(options: argparse.Namespace) -> Experiment:
    """The runs that were asked for; says what was read and what was not."""
    from ovis.reporting.read import list_experiments, read_experiment
    from ovis.reporting.select import select_runs
    from ovis.runner.paths import is_safe_name

    root = Path(options.root)
    if not is_safe_name(options.exp) or not (root / options.exp).is_dir():
        there = ", ".join(list_experiments(root)) or "none"
        raise ReportError(f"no experiment {options.exp!r} in {root}/; there: {there}", REFUSED)
    everything = read_experiment(root / options.exp)
    experiment = select_runs(everything, options.include, options.exclude)
    total = sum(experiment.states.values())
    counts = ", ".join(f"{count} {state}" for state, count in experiment.states.items())
    print(f"read {len(experiment.runs)} of {total} runs" + (f" ({counts})" if counts else ""))
    left = sum(everything.states.values()) - total
    if left:
        print(f"left out by --include and --exclude: {left} runs")
    _print_skipped(experiment)
    if experiment.runs.empty:
        what = "no run was asked for" if left else "no run has any evaluation"
        raise ReportError(f"{what} in {root / options.exp}: nothing to draw", FAILED)
    return experiment


def _print_skipped(experiment: Experiment, most: int = 10) -> None:
    for item in experiment.skipped[:most]:
        print(f"skipped {item.name}: {item.reason} ({item.state})")
    if len(experiment.skipped) > most:
        print(f"skipped {len(experiment.skipped) - most} more")
    for run in experiment.runs[experiment.runs["state"] == "failed"].to_dict("records")[:most]:
        print(f"failed {run['run']}: {run['message'] or 'no message'} (drawn as far as it came)")


def _choose(options: argparse.Namespace, experiment: Experiment) -> tuple[list[str], list[Metric], list[Pivot]]:
    """Keys, metrics and pivots: as asked for, or those of the defaults that the runs have.

    Raises:
        ValueError: something was asked for by name that no run has.
    """
    from ovis.reporting.metrics import parse_pivot
    from ovis.reporting.select import check_keys, check_metrics, check_pivots

    keys = options.keys or [key for key in KEYS if key in experiment.settings]
    present = experiment.metrics
    metrics = options.metrics or [name for name in METRICS if name in present] or present[: len(METRICS)]
    pivots = options.pivot_metrics or [name for name in PIVOTS if parse_pivot(name).metric.name in (*present, "time")]
    return (
        check_keys(experiment, keys),
        check_metrics(experiment, metrics),
        check_pivots(experiment, (parse_pivot(text) for text in pivots)),
    )


def _print_notes(experiment: Experiment, keys: Sequence[str], limits: dict[str, tuple[float, float]]) -> None:
    """What a reader of the figure should know."""
    from ovis.reporting.select import mixed_settings

    mixed = mixed_settings(experiment, keys)
    if mixed:
        print(f"note: runs that are averaged differ in {', '.join(mixed)}: tell them apart with --keys")
    unused = [name for name in limits if name not in experiment.metrics]
    if unused:
        print(f"note: --ylims of metrics that no run has: {', '.join(unused)}")


def _caption(curves: pd.DataFrame, first: Pivot, band: str) -> str:
    """What lines, bands and the legend's order mean."""
    low, high = int(curves["seeds"].min()), int(curves["seeds"].max())
    seeds = f"{high}" if low == high else f"{low} to {high}"
    lines = "one seed" if high == 1 else f"mean over {seeds} seeds" + (f", band: {band}" if band else "")
    metric = re.sub(r"\bL_(\w+)", r"$L_{\1}$", first.metric.text.partition(" [")[0])
    order = f"ordered by {first.heading} {metric}"
    return f"{lines}; {order}"
