"""What the report commands share: errors, exit codes, required packages, comma-separated options."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "FAILED",
    "REFUSED",
    "ReportError",
    "other_report",
    "require_packages",
    "run_report",
    "split_words",
]

FAILED, REFUSED = 1, 2

#: What the report imports, of the optional dependencies ``report``.
PACKAGES = ("pandas", "matplotlib", "jinja2")


class ReportError(Exception):
    """Why there is no report: one line, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def require_packages(who: str) -> None:
    """Make sure that a report can be drawn.

    Args:
        who: what needs it, for the message.

    Raises:
        ReportError: a package is not installed; the message says how to install it.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ReportError(f"{who} needs {' and '.join(missing)}: pip install -e '.[report]'", REFUSED)


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
    except BrokenPipeError:  # report.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"report: {error}", file=sys.stderr)
        return FAILED
    return 0


def other_report(folder: Path, pattern: str, command: str) -> str:
    """The command that reports on an experiment whose runs hold such files; empty where none does."""
    there = next(folder.glob(f"*/{pattern}"), None)
    return f"its runs are for python {command} --exp {folder.name}" if there else ""


def split_words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word for word in (part.strip() for part in text.split(",")) if word]
