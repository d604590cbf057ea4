"""What reports need beyond a plain installation; found out without importing any of it."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["ReportingUnavailableError", "require_packages"]

#: What the report imports, of the optional dependencies ``report``.
PACKAGES = ("pandas", "matplotlib")


class ReportingUnavailableError(Exception):
    """No report can be drawn here: one line that says what to install."""


def require_packages(who: str) -> None:
    """Make sure that a report can be drawn.

    Args:
        who: what needs it, for the message.

    Raises:
        ReportingUnavailableError: a package is not installed.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ReportingUnavailableError(f"{who} needs {' and '.join(missing)}: pip install -e '.[report]'")
