"""What a node must have in common with the manager's machine: Python, ovis and torch, of the same versions."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import ovis

__all__ = ["DIFFERENT", "difference", "installed", "main"]

#: Exit code: this machine has not what it should have.
DIFFERENT = 93


def installed() -> dict[str, str]:
    """The versions here, by the names that people use. Nothing is imported for it."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    return {"Python": platform.python_version(), "ovis": ovis.__version__, "torch": torch}


def difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What differs, for people: ``Python 3.9.2 instead of 3.11.2``; empty where nothing does.

    A Python of the same minor version will do, as will another build of the same torch (``+cpu``, ``+cu126``).

    Args:
        here: the manager's versions.
        there: the node's.
    """
    return ", ".join(
        f"{name} {there.get(name, 'missing')} instead of {wanted}"
        for name, wanted in here.items()
        if _release(name, wanted) != _release(name, there.get(name, "missing"))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m ovis.experiments.runner.engines.versions JSON``: compare this machine with what another one has.

    Returns:
        0, or DIFFERENT and a line that says in what.
    """
    (wanted,) = sys.argv[1:] if argv is None else argv
    text = difference(json.loads(wanted), installed())
    if text:
        print(text, file=sys.stderr)
    return DIFFERENT if text else 0


def _release(name: str, text: str) -> str:
    return ".".join(text.split(".")[:2]) if name == "Python" else text.partition("+")[0]


if __name__ == "__main__":
    raise SystemExit(main())
