"""Shared by the commands: a parser with errors of one line, types of options, questions, the experiment's folder."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ovis.experiments.runs.paths import is_safe_name
from ovis.experiments.studies import experiment_name
from ovis.suggestions import did_you_mean

__all__ = [
    "FRESH",
    "REPORTS",
    "OneLineParser",
    "confirm",
    "find_experiment",
    "fraction",
    "prepare_streams",
    "whole_number",
]

#: Help of the option of the commands that put runs back.
FRESH = "runs that are put back begin at step 0; the files of their earlier attempts are deleted when they start"


#: Folder of all reports.
REPORTS = "reports/"


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, which ``--help`` prints."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options of a command line; None: this process's. Leaves the process if they make no sense."""
        options, unknown = self.parse_known_args(argv)
        if unknown:
            valid = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
            self.error(f"unknown option {unknown[0]!r}{did_you_mean(unknown[0].split('=')[0], valid)}")
        return options


def whole_number(text: str, most: int = 2**53) -> int:
    """The type of options that count something: 1 or more, ``most`` at most."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text}")
    if value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {text}")
    return value


def prepare_streams() -> None:
    """Let a command print whatever its standard streams are: called first by each command.

    Where one is closed (``>&-``), ``/dev/null`` takes its place; else the next file that is opened would get its
    number. Characters that stdout can't write, such as those of a path that is no UTF-8, become question marks.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, that of the stream
            os.set_inheritable(handle, True)
            setattr(sys, name, os.fdopen(handle, "r" if name == "stdin" else "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def fraction(text: str) -> float:
    """The type of options that are a fraction: 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a fraction from 0 to 1, got {text}")
    return value


def confirm(question: str) -> bool:
    """Ask on the terminal; no answer means no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def find_experiment(root: Path, name: str) -> Path | None:
    """The folder of an experiment in ``root``, by its name or an alias; None: there is none."""
    for known in (name, experiment_name(name)):
        if is_safe_name(known) and (root / known).is_dir():
            return root / known
    return None
