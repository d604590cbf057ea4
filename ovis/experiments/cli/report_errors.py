"""What the doors of the reports share: their errors, their exit codes, lists of words."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ovis.experiments.reporting.needs import ReportingUnavailableError, require_packages

__all__ = ["FAILED", "REFUSED", "ReportError", "other_report", "run_report", "split_words"]

FAILED, REFUSED = 1, 2


class ReportError(Exception):
    """Why there is no report: one line, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run_report(report: Callable[[argparse.Namespace], object], options: argparse.Namespace) -> int:
    """Make a report; whatever stands in its way becomes one line.

    Args:
        report: makes it, or raises :class:`ReportError`.
        options: of the command line.

    Returns:
        0; 1 where there is nothing to draw, or the report can't be written; 2 where what was asked for does not exist,
        or a package is not installed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Greek letters shows a question mark
    try:
        require_packages("drawing")
        report(options)
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.code
    except ReportingUnavailableError as error:
        print(f"report: {error}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:  # report.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"report: {error}", file=sys.stderr)
        return FAILED
    return 0


def other_report(folder: Path, pattern: str, door: str) -> str:
    """Which door reports on an experiment whose runs hold such files; empty where none does."""
    there = next(folder.glob(f"*/{pattern}"), None)
    return f"its runs are for python {door} --exp {folder.name}" if there else ""


def split_words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word for word in (part.strip() for part in text.split(",")) if word]
