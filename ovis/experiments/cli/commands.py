"""``ovis COMMAND ...``: the commands of an installed ovis. A clone has the same as scripts in its root.

Each command is the ``main`` of a module, imported once it is asked for.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

from ovis import __version__
from ovis.suggestions import did_you_mean

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A command: the module with its ``main``, the extra that installs what it imports, and what it does."""

    module: str
    extra: str
    help: str


COMMANDS = {
    "run": Command("ovis.experiments.cli.manager", "experiments", "queue and run an experiment (manager.py)"),
    "status": Command(
        "ovis.experiments.cli.dbutils", "experiments", "show a queue, put runs back, cancel, clean up (dbutils.py)"
    ),
    "report": Command("ovis.experiments.cli.report", "report", "draw an experiment's figures (report.py)"),
    "train": Command("ovis.experiments.cli.train", "experiments", "train one model"),
    "figure1": Command("ovis.paper.figure1.figure1_cli", "report", "draw Figure 1 (report_asymptotic_variance.py)"),
    "figure3": Command("ovis.paper.figure3.figure3_cli", "report", "draw Figure 3 (report_figure3.py)"),
    "efficiency": Command(
        "ovis.paper.efficiency.efficiency_cli",
        "experiments",
        "measure memory and time of estimators (measure_efficiency.py)",
    ),
}

#: The packages that an extra adds and always needs, as they are imported; ``report`` includes ``experiments``.
PACKAGES = {
    "experiments": ("tinydb", "filelock", "tensorboard", "tqdm", "rich", "PIL"),
    "report": ("pandas", "matplotlib", "jinja2"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its name and its options; None: those of the process.

    Returns:
        its exit code; 2 where there is no such command, or it needs a package that is not installed.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"ovis {__version__}")
        return 0
    name, *options = words
    if name not in COMMANDS:
        print(f"ovis: unknown command {name!r}{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    needed = [*PACKAGES["experiments"], *(PACKAGES["report"] if command.extra == "report" else ())]
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        print(f"ovis {name} needs {', '.join(missing)}: pip install 'ovis[{command.extra}]'", file=sys.stderr)
        return 2
    code: int = pkgutil.resolve_name(f"{command.module}:main")(options)
    return code


def _usage() -> str:
    lines = [f"  {name:<12}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: ovis COMMAND ...", "", *lines, "", "ovis COMMAND --help lists a command's options."])
