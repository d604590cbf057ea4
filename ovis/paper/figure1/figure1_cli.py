"""Draw the asymptotic study (Figure 1), fit its slopes and compare it with the paper: whatever has been run so far."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovis.experiments.cli.options import OneLineParser
from ovis.experiments.cli.report_command import (
    FAILED,
    REFUSED,
    ReportError,
    add_folders,
    locate_experiment,
    other_report,
    print_first,
    print_read,
    print_skipped,
    run_report,
    split_words,
    write_files,
)
from ovis.paper.figure1.asymptotic_settings import ALIASES

if TYPE_CHECKING:
    import pandas as pd

    from ovis.experiments.reporting.figures.save_figure import ReportFigure
    from ovis.experiments.reporting.page.content import Page
    from ovis.experiments.reporting.verdict import ClaimVerdict
    from ovis.paper.figure1.asymptotic_runs import GradientStudy, Sample
    from ovis.paper.figure1.asymptotic_statistics import Measured

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Report on one experiment of the asymptotic study; see :func:`run_report` for the exit codes."""
    return run_report(report, build_parser(), argv)


def build_parser() -> OneLineParser:
    """The command line of report_asymptotic_variance.py."""
    parser = OneLineParser(prog="report_asymptotic_variance.py", description=__doc__, allow_abbrev=False)
    words: dict[str, Any] = {"type": split_words, "default": [], "metavar": "A,B"}
    add = parser.add_argument
    add("--exp", default="asymptotic-analysis", metavar="NAME", help="the experiment: runs are read from ROOT/NAME "
        "(asymptotic-analysis; asymptotic-variance is another name of it)")  # fmt: skip
    add_folders(parser)
    add("--include", **words, help="only estimators whose id holds one of these")
    add("--exclude", **words, help="no estimators whose id holds one of these")
    return parser


def report(options: argparse.Namespace) -> None:
    """Read, compute, draw, save, print.

    Raises:
        ReportError: there is nothing to report on, or no such thing as was asked for.
    """
    # Imported here: --help must not wait for pandas and matplotlib.
    from ovis.experiments.reporting.data.select import report_name
    from ovis.experiments.reporting.page.render import write_page
    from ovis.experiments.reporting.tables import csv_text
    from ovis.experiments.reporting.verdict import claims_table, claims_text
    from ovis.paper.claims.paper_verdicts import gradient_verdicts
    from ovis.paper.figure1.asymptotic_statistics import measure, slope_table, statistics_table
    from ovis.paper.figure1.asymptotic_tables import add_references, comparison_table, comparison_text, slope_text

    source = locate_experiment(options)
    study, samples = _read(options, source)
    measured = [measure(sample) for sample in samples]
    _print_broken(measured)
    statistics = statistics_table(measured)
    comparison = comparison_table(statistics)
    slopes = add_references(slope_table(measured), comparison)
    verdicts = gradient_verdicts(statistics, slopes)

    folder = Path(options.output) / report_name(_published(source.name), options.include, options.exclude)
    files = {
        "statistics.csv": csv_text(statistics),
        "slopes.csv": csv_text(slopes),
        "slopes.md": slope_text(slopes),
        "published.csv": csv_text(comparison),
        "published.md": comparison_text(comparison),
        "claims.csv": csv_text(claims_table(verdicts)),
    }
    write_files(folder, files)
    drawn = _draw(samples, statistics)
    paths = [item.save(folder) for item in drawn]
    print(files["slopes.md"])
    _print_far(comparison)
    print(claims_text(verdicts))
    print(*paths, sep="\n")
    print(write_page(folder, _page(options.command, source, study, drawn, verdicts, [statistics, slopes, comparison])))


def _draw(samples: Sequence[Sample], statistics: pd.DataFrame) -> list[ReportFigure]:
    """The figures of the report."""
    from ovis.experiments.reporting.figures.save_figure import ReportFigure
    from ovis.experiments.reporting.figures.style import estimator_labels
    from ovis.paper.figure1.asymptotic_figures import density_table, draw_distributions, draw_statistics

    caption = _caption(samples)
    names = ", ".join(estimator_labels(dict.fromkeys(sample.estimator for sample in samples)))
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
    command: str,
    source: Path,
    study: GradientStudy,
    drawn: Sequence[ReportFigure],
    verdicts: Sequence[ClaimVerdict],
    tables: Sequence[pd.DataFrame],
) -> Page:
    """The content of the page; ``tables`` are statistics, slopes and the comparison with the paper."""
    from ovis.experiments.reporting.page.content import Page
    from ovis.experiments.reporting.page.provenance import experiment_description, read_provenance
    from ovis.experiments.reporting.page.runs_table import list_problems
    from ovis.paper.figure1.asymptotic_settings import AsymptoticSettings
    from ovis.paper.figure1.asymptotic_tables import page_tables

    return Page(
        title=source.name,
        description=experiment_description(source),
        states=study.states,
        read=study.runs,
        problems=list_problems(study.skipped),
        notes=tuple(study.notes),
        figures=tuple(drawn),
        verdicts=tuple(verdicts),
        tables=page_tables(*tables),
        provenance=read_provenance(source, kind=AsymptoticSettings),
        command=command,
    )


def _published(exp: str) -> str:
    """What the published README calls the report's folder: ``asymptotic-variance`` of ``asymptotic-analysis``, and of
    its variants likewise."""
    for published, name in ALIASES.items():
        if exp == name or exp.startswith(f"{name}-"):
            return published + exp.removeprefix(name)
    return exp


def _read(options: argparse.Namespace, source: Path) -> tuple[GradientStudy, list[Sample]]:
    """The study, and the samples of the selected estimators; prints what was read and what was skipped."""
    from ovis.paper.figure1.asymptotic_runs import read_study, select_estimators

    study = read_study(source)
    print_read(study.runs, study.states)
    print_first("note:", study.notes)
    print_skipped(study.skipped)
    samples = select_estimators(study, options.include, options.exclude)
    if not samples:
        names = ", ".join(dict.fromkeys(sample.estimator for sample in study.samples))
        what = f"no estimator was asked for that is there ({names})" if names else "no run has any draw"
        other = "" if names else other_report(source, "figure1")
        raise ReportError(f"{what} in {source}: {other or 'nothing to draw'}", REFUSED if names else FAILED)
    return study, samples


def _print_broken(measured: Sequence[Measured]) -> None:
    for sample in (item.sample for item in measured if math.isnan(item.values["variance"][0])):
        print(f"note: {sample.estimator} at K = {sample.iw}: draws that are not finite, or one alone: no statistics")


def _caption(samples: Sequence[Sample]) -> str:
    """The number of draws per point, the parameters, and the number of data points."""
    draws, points = {len(s.draws) for s in samples}, {s.toy["npoints"] for s in samples}
    return (
        f"{_span(draws)} draws of the gradient with respect to {samples[0].toy['key_filter']}, {_span(points)} points"
    )


def _span(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _print_far(comparison: pd.DataFrame) -> None:
    """Print how many values differ from the published ones by more than :data:`FAR`."""
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
