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
from ovis.experiments.plugins import PluginTable
from ovis.suggestions import did_you_mean

__all__ = ["COMMANDS", "Command", "MissingPackages", "check_packages", "main", "run_command"]


class Command(NamedTuple):
    """A command.

    Attributes:
        module: the module with its ``main``.
        script: the script in the root of a clone; empty: there is none.
        extra: the extra that installs what it imports.
        help: what it does.
    """

    module: str
    script: str
    extra: str
    help: str


#: The commands by name, those of plugins included.
COMMANDS: PluginTable[Command] = PluginTable(
    "command",
    {
        "run": Command("ovis.experiments.cli.manager", "manager.py", "experiments", "queue and run an experiment"),
        "status": Command(
            "ovis.experiments.cli.dbutils",
            "dbutils.py",
            "experiments",
            "show a queue, put runs back, cancel, clean up",
        ),
        "report": Command("ovis.experiments.cli.report", "report.py", "report", "draw an experiment's figures"),
        "train": Command("ovis.experiments.cli.train", "", "experiments", "train one model"),
    },
)

#: The packages that an extra adds and always needs, as they are imported; ``report`` includes ``experiments``.
PACKAGES = {
    "experiments": ("tinydb", "filelock", "tensorboard", "tqdm", "rich", "PIL"),
    "report": ("pandas", "matplotlib", "jinja2"),
}


class MissingPackages(Exception):
    """Packages that are not installed; the message, one line, says how to install them."""


def check_packages(who: str, extra: str) -> None:
    """Make sure that the packages of an extra are installed.

    Args:
        who: what needs them, for the message.
        extra: a key of :data:`PACKAGES`.

    Raises:
        MissingPackages: a package is not installed.
    """
    needed = [*PACKAGES["experiments"], *(PACKAGES["report"] if extra == "report" else ())]
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise MissingPackages(f"{who} needs {', '.join(missing)}: pip install 'ovis[{extra}]'")


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
    return run_command(name, options)


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run a command, as the scripts in the root of a clone do.

    Args:
        name: key of :data:`COMMANDS`.
        argv: its options; None: those of the process.

    Returns:
        its exit code; 2 where it needs a package that is not installed.
    """
    command = COMMANDS[name]
    try:
        check_packages(f"ovis {name}", command.extra)
    except MissingPackages as error:
        print(error, file=sys.stderr)
        return 2
    code: int = pkgutil.resolve_name(f"{command.module}:main")(argv)
    return code


def _usage() -> str:
    rows = COMMANDS.items()
    lines = [f"  {name:<12}{row.help}" + (f" ({row.script})" if row.script else "") for name, row in rows]
    return "\n".join(["usage: ovis COMMAND ...", "", *lines, "", "ovis COMMAND --help lists a command's options."])
