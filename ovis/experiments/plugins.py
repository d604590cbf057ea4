"""Plugins: modules that add rows to the tables of the experiments when they are imported.

The tables are :data:`ovis.experiments.studies.STUDIES`, :data:`ovis.experiments.cli.commands.COMMANDS` and
:data:`ovis.experiments.reporting.presets.PRESETS`. The file ``plugin.py`` of each package in ``ovis`` is imported when
a table is first read. It is located in the file system and not by the metadata of an installation, so a clone, an
installed ovis and the copy of the code that a sweep runs on have the same rows.

It does not import torch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import ovis

__all__ = ["PluginTable", "load_plugins"]

Row = TypeVar("Row")


class PluginTable(Mapping[str, Row]):
    """A table to which plugins add rows.

    Args:
        kind: what a row describes, for messages.
        rows: the rows of ``ovis.experiments``, by name.
    """

    def __init__(self, kind: str, rows: Mapping[str, Row]) -> None:
        self._kind = kind
        self._rows = dict(rows)

    def register(self, name: str, row: Row) -> None:
        """Add a row; a plugin calls this when it is imported.

        Raises:
            ValueError: the table has a row of this name.
        """
        if name in self._rows:
            raise ValueError(f"there is a {self._kind} {name!r} already")
        self._rows[name] = row

    def __getitem__(self, name: str) -> Row:
        load_plugins()
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._rows)

    def __len__(self) -> int:
        load_plugins()
        return len(self._rows)


@functools.cache
def load_plugins() -> None:
    """Import the plugins of the packages in ``ovis``."""
    for path in sorted(Path(ovis.__file__).parent.glob("*/plugin.py")):
        importlib.import_module(f"ovis.{path.parent.name}.{path.stem}")
