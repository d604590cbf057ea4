"""The engines on a command line: ``--engine`` and the options of each, which the others refuse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ovis.experiments.cli.options import OneLineParser, fraction, whole_number
from ovis.experiments.runner.engines.engine_options import OPTIONS, EngineOptions

__all__ = ["add_engine_options", "read_engine_options"]

WHERE = {
    "local": "this machine",
    "ray": "a Ray cluster; pip install 'ovis[ray]'",
    "slurm": "a Slurm cluster, from a login node",
}

TYPES: dict[str, Callable[[str], Any]] = {"text": str, "count": whole_number, "fraction": fraction}


def add_engine_options(parser: OneLineParser) -> None:
    """Add ``--engine``, and a group of options for each engine. Those that are not given are absent when it is read."""
    words = "; ".join(f"{kind}: {where}" for kind, where in WHERE.items())
    parser.add_argument("--engine", choices=[*OPTIONS], default="local", help=f"what starts the runs ({words})")
    for kind, options in OPTIONS.items():
        group = parser.add_argument_group(f"with --engine {kind}{' (the default)' if kind == 'local' else ''}")
        for item in fields(options):
            group.add_argument(
                f"--{item.name}",
                default=argparse.SUPPRESS,
                metavar=item.metadata["metavar"],
                type=TYPES[item.metadata["type"]],
                help=item.metadata["help"],
            )


def read_engine_options(parser: OneLineParser, options: argparse.Namespace) -> EngineOptions:
    """The record of the chosen engine's options. Leaves the process where one of another engine was given."""
    for kind, record in OPTIONS.items():
        stray = [item.name for item in fields(record) if item.name in options] if kind != options.engine else []
        if stray:
            parser.error(f"--{stray[0]}: an option of --engine {kind}, not of --engine {options.engine}")
    chosen = OPTIONS[options.engine]
    return chosen(**{item.name: getattr(options, item.name) for item in fields(chosen) if item.name in options})
