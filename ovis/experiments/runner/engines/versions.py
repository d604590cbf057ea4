"""The versions that a node must share with the manager's machine: those of Python and torch.

The code of ovis is that of the sweep's snapshot, on every node. This module imports the standard library only, as it is
sent to Ray's nodes, see ``ray_cluster.py``.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

__all__ = ["DIFFERENT", "difference", "installed", "main"]

#: Exit code of a machine with other versions.
DIFFERENT = 93


def installed() -> dict[str, str]:
    """The versions on this machine, by name. torch is not imported."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    return {"Python": platform.python_version(), "torch": torch}


def difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """The differences in one line: ``Python 3.9.2 instead of 3.11.2``; empty if there are none.

    The patch release of Python and the build of torch (``+cpu``, ``+cu126``) may differ.

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
    """``python -m ovis.experiments.runner.engines.versions JSON``: compare this machine's versions with others.

    Returns:
        0; or DIFFERENT, after printing the differences.
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
