"""Draw the asymptotic study (Figure 1), fit its slopes and compare it with the paper: whatever has been run so far."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovis.experiments.cli.options import find_experiment
from ovis.experiments.cli.report_errors import FAILED, REFUSED, ReportError, other_report, run_report, split_words
from ovis.experiments.studies import ALIASES

if TYPE_CHECKING:
    import pandas as pd

    from ovis.experiments.reporting.figures.save_figure import ReportFigure
    from ovis.experiments.reporting.page.content import Page
    from ovis.experiments.reporting.verdict import ClaimVerdict
    from ovis.paper.figure1.asymptotic_runs import GradientStudy, Sample
    from ovis.paper.figure1.asymptotic_statistics import Measured

__all__ = ["main"]

#: Folders that are named one by one, at most.
NAMED = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Report on one experiment of the asymptotic study.

    Args:
        argv: the command line; None: that of the process.

    Returns:
        0; 1 where no run has any draw, or the report can't be written; 2 where what was asked for does not exist, or
        a package is not installed.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    options = build_parser().parse_args(words)
    options.command = shlex.join(["python", "report_asymptotic_variance.py", *words])
    return run_report(report, options)


def build_parser() -> argparse.ArgumentParser:
    """The command line of report_asymptotic_variance.py."""
    parser = argparse.ArgumentParser(prog="report_asymptotic_variance.py", description=__doc__, allow_abbrev=False)
    parser.set_defaults(command="")  # for the page
    words: dict[str, Any] = {"type": split_words, "default": [], "metavar": "A,B"}
    add = parser.add_argument
    add("--exp", default="asymptotic-analysis", metavar="NAME", help="the experiment: runs are read from ROOT/NAME "
        "(asymptotic-analysis; asymptotic-variance is another name of it)")  # fmt: skip
    add("--root", default="runs/", metavar="FOLDER", help="folder of all experiments (runs/)")
    add("--output", default="reports/", metavar="FOLDER", help="folder of all reports (reports/)")
    add("--include", **words, help="only estimators whose id holds one of these")
    add("--exclude", **words, help="no estimators whose id holds one of these")
    return parser


def report(options: argparse.Namespace) -> None:
    """Read, compute, draw, save, print.

    Raises:
        ReportError: there is nothing to report on, or no such thing as was asked for.
    """
    # Here and not above: --help is to come at once, and pandas and matplotlib take a second.
    from ovis.experiments.reporting.data.select import report_name
    from ovis.experiments.reporting.page.render import write_page
    from ovis.experiments.reporting.verdict import claims_table, claims_text
    from ovis.experiments.runs.atomic import write_text
    from ovis.paper.claims.paper_verdicts import gradient_verdicts
    from ovis.paper.figure1.asymptotic_statistics import measure, slope_table, statistics_table
    from ovis.paper.figure1.asymptotic_tables import add_references, comparison_table, comparison_text, slope_text

    exp = _locate(options)
    study, samples = _read(options, exp)
    measured = [measure(sample) for sample in samples]
    _print_broken(measured)
    statistics = statistics_table(measured)
    comparison = comparison_table(statistics)
    slopes = add_references(slope_table(measured), comparison)
    verdicts = gradient_verdicts(statistics, slopes)

    folder = Path(options.output) / report_name(_published(exp), options.include, options.exclude)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "statistics.csv": statistics.to_csv(index=False),
        "slopes.csv": slopes.to_csv(index=False),
        "slopes.md": slope_text(slopes),
        "published.csv": comparison.to_csv(index=False),
        "published.md": comparison_text(comparison),
        "claims.csv": claims_table(verdicts).to_csv(index=False),
    }
    for name, content in files.items():
        write_text(folder / name, content, durable=False)
    drawn = _draw(samples, statistics)
    paths = [item.save(folder) for item in drawn]
    print(f"wrote {', '.join(files)} to {folder}\n")
    print(files["slopes.md"])
    _print_far(comparison)
    print(claims_text(verdicts))
    print(*paths, sep="\n")
    print(write_page(folder, _page(options, exp, study, drawn, verdicts, [statistics, slopes, comparison])))


def _draw(samples: Sequence[Sample], statistics: pd.DataFrame) -> list[ReportFigure]:
    """The figures."""
    from ovis.experiments.reporting.figures.save_figure import ReportFigure
    from ovis.experiments.reporting.figures.style import estimator_looks
    from ovis.paper.figure1.asymptotic_figures import density_table, draw_distributions, draw_statistics

    caption = _caption(samples)
    names = ", ".join(look.label for look in estimator_looks(dict.fromkeys(s.estimator for s in samples)).values())
    alt = f"SNR, directional SNR, variance and mean of the gradient against K on logarithmic axes, for {names}"
    title = "Statistics of the gradient"
    drawn = [ReportFigure("statistics", title, alt, draw_statistics(statistics, caption))]
    densities = density_table(samples)
    if len(densities):
        alt = f"Densities of one entry of the gradient at the smallest, a middle and the largest K, for {names}"
        figure = draw_distributions(densities, caption)
        drawn.append(ReportFigure("distributions", "Distribution of the gradient", alt, figure))
    return drawn


def _page(
    options: argparse.Namespace,
    exp: str,
    study: GradientStudy,
    drawn: Sequence[ReportFigure],
    verdicts: Sequence[ClaimVerdict],
    tables: Sequence[pd.DataFrame],
) -> Page:
    """What the page shows; ``tables`` are statistics, slopes and the comparison with the paper."""
    from ovis.experiments.reporting.page.content import Page
    from ovis.experiments.reporting.page.provenance import experiment_description, read_provenance
    from ovis.experiments.reporting.page.runs_table import list_problems
    from ovis.experiments.studies import AsymptoticSettings
    from ovis.paper.figure1.asymptotic_tables import page_tables

    source = Path(options.root) / exp
    return Page(
        title=exp,
        description=experiment_description(source),
        states=study.states,
        read=study.runs,
        problems=list_problems(study.skipped),
        notes=tuple(study.notes),
        figures=tuple(drawn),
        verdicts=tuple(verdicts),
        tables=page_tables(*tables),
        provenance=read_provenance(source, kind=AsymptoticSettings),
        command=options.command,
    )


def _published(exp: str) -> str:
    """What the published README calls the report's folder: ``asymptotic-variance`` of ``asymptotic-analysis``, and of
    its variants likewise."""
    for published, name in ALIASES.items():
        if exp == name or exp.startswith(f"{name}-"):
            return published + exp.removeprefix(name)
    return exp


def _locate(options: argparse.Namespace) -> str:
    """The experiment's folder in ``--root``: as it was called, or what that is another name of."""
    from ovis.experiments.reporting.data.run_folders import list_experiments

    root = Path(options.root)
    folder = find_experiment(root, options.exp)
    if folder:
        return folder.name
    there = ", ".join(list_experiments(root)) or "none"
    raise ReportError(f"no experiment {options.exp!r} in {root}/; there: {there}", REFUSED)


def _read(options: argparse.Namespace, exp: str) -> tuple[GradientStudy, list[Sample]]:
    """The study, and the draws that were asked for; says what was read and what was not."""
    from ovis.paper.figure1.asymptotic_runs import read_study, select_estimators

    folder = Path(options.root) / exp
    study = read_study(folder)
    counts = ", ".join(f"{count} {state}" for state, count in study.states.items())
    print(f"read {study.runs} of {sum(study.states.values())} runs" + (f" ({counts})" if counts else ""))
    _print_skipped(study)
    samples = select_estimators(study, options.include, options.exclude)
    if not samples:
        names = ", ".join(dict.fromkeys(sample.estimator for sample in study.samples))
        what = f"no estimator was asked for that is there ({names})" if names else "no run has any draw"
        other = "" if names else other_report(folder, "metrics.jsonl", "report.py")
        raise ReportError(f"{what} in {folder}: {other or 'nothing to draw'}", REFUSED if names else FAILED)
    return study, samples


def _print_skipped(study: GradientStudy) -> None:
    for note in study.notes[:NAMED]:
        print(f"note: {note}")
    for item in study.skipped[:NAMED]:
        print(f"skipped {item.name}: {item.reason} ({item.state})")
    left = len(study.skipped[NAMED:]) + len(study.notes[NAMED:])
    if left:
        print(f"and {left} more")


def _print_broken(measured: Sequence[Measured]) -> None:
    for item in measured:
        if item.values["variance"][0] != item.values["variance"][0]:
            sample = item.sample
            print(
                f"note: {sample.estimator} at K = {sample.iw}: draws that are not finite, or one alone: no statistics"
            )


def _caption(samples: Sequence[Sample]) -> str:
    """How many draws a point stands for, and of how many data."""
    draws, points = {len(s.draws) for s in samples}, {s.toy["npoints"] for s in samples}
    return (
        f"{_span(draws)} draws of the gradient with respect to {samples[0].toy['key_filter']}, {_span(points)} points"
    )


def _span(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _print_far(comparison: pd.DataFrame) -> None:
    """Say how far we are from the paper, and where it is far."""
    from ovis.paper.figure1.asymptotic_tables import FAR

    if comparison.empty:
        print("the paper shows no such toy: nothing to compare with\n")
        return
    far = comparison[comparison["difference"].abs() > FAR]
    right = far[far["note"] == ""]
    print(
        f"{len(comparison)} values beside the paper's (published.md): {len(far)} differ by more than {FAR:.0%}, "
        f"{len(far) - len(right)} of these known to be wrong there\n"
    )
