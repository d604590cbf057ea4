"""What the report commands share: options, the experiment's folder, lines about its runs, files, errors, exit codes."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovis.experiments.cli.commands import COMMANDS
from ovis.experiments.cli.options import REPORTS, OneLineParser, find_experiment, prepare_streams
from ovis.experiments.studies import STUDIES

if TYPE_CHECKING:
    from ovis.experiments.reporting.data.run_folders import Skipped

__all__ = [
    "FAILED",
    "NAMED",
    "REFUSED",
    "ReportError",
    "add_folders",
    "locate_experiment",
    "other_report",
    "print_first",
    "print_read",
    "print_skipped",
    "run_report",
    "split_words",
    "write_files",
]

FAILED, REFUSED = 1, 2

#: Runs that are listed one by one, at most.
NAMED = 10


class ReportError(Exception):
    """Why there is no report: one line, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run_report(
    report: Callable[[argparse.Namespace], object], parser: OneLineParser, argv: Sequence[str] | None = None
) -> int:
    """Read the command line and make a report; an error becomes one line.

    Args:
        report: makes it from the options, or raises :class:`ReportError`. Their ``command`` is the command line as it
            can be typed again.
        parser: of the command.
        argv: the command line; None: that of the process.

    Returns:
        0; 1 where there is nothing to draw, or the report can't be written; 2 where the requested experiment, estimator
        or metric does not exist.
    """
    prepare_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser.read(words)
    options.command = shlex.join(["python", parser.prog, *words])
    try:
        report(options)
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:  # report.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"report: {error}", file=sys.stderr)
        return FAILED
    return 0


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--root`` and ``--output``."""
    parser.add_argument("--root", default="runs/", metavar="FOLDER", help="folder of all experiments (runs/)")
    parser.add_argument("--output", default=REPORTS, metavar="FOLDER", help=f"folder of all reports ({REPORTS})")


def locate_experiment(options: argparse.Namespace) -> Path:
    """The folder of ``--exp`` in ``--root``, by its name or an alias.

    Raises:
        ReportError: there is none; the message lists those that are there.
    """
    from ovis.experiments.reporting.data.run_folders import list_experiments

    root = Path(options.root)
    folder = find_experiment(root, options.exp)
    if folder is None:
        there = ", ".join(list_experiments(root)) or "none"
        raise ReportError(f"no experiment {options.exp!r} in {root}/; there: {there}", REFUSED)
    return folder


def print_read(read: int, states: Mapping[str, int]) -> None:
    """Print how many runs were read, and how many there are in each state."""
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    print(f"read {read} of {sum(states.values())} runs" + (f" ({counts})" if counts else ""))


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """Print which runs have nothing to draw, and why."""
    print_first("skipped", [f"{item.name}: {item.reason} ({item.state})" for item in skipped])


def print_first(start: str, lines: Sequence[str]) -> None:
    """Print the first :data:`NAMED` lines, each after ``start``, and how many more there are."""
    for line in lines[:NAMED]:
        print(f"{start} {line}")
    if len(lines) > NAMED:
        print(f"{start} {len(lines) - NAMED} more")


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the text files of a report, by name, into its folder, and print that they are there."""
    from ovis.experiments.runs.atomic import write_text

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_text(folder / name, content, durable=False)
    print(f"wrote {', '.join(files)} to {folder}\n")


def other_report(folder: Path, command: str) -> str:
    """The command line of the report that can read an experiment's runs, where ``command`` is not the one; or empty."""
    for study in STUDIES.values():
        if study.report != command and next(folder.glob(f"*/{study.results}"), None):
            return f"its runs are for python {COMMANDS[study.report].script} --exp {folder.name}"
    return ""


def split_words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word for word in (part.strip() for part in text.split(",")) if word]
