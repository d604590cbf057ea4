"""What manager.py and dbutils.py say of a command line that they can't read: one line, with the nearest option."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from ovis.names import nearest

__all__ = ["OneLineParser", "whole_number"]


class OneLineParser(argparse.ArgumentParser):
    """Refuses in one line: the usage, half a screen of it, is for ``--help``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options of a command line; None: this process's. Leaves the process if they make no sense."""
        options, unknown = self.parse_known_args(argv)
        if unknown:
            valid = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
            self.error(f"unknown option {unknown[0]!r}{nearest(unknown[0].split('=')[0], valid)}")
        return options


def whole_number(text: str) -> int:
    """For options that count something: 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text}")
    return value
