"""Saving figures: nothing is computed or drawn here."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ovis.reporting.style import house_style
from ovis.runner.atomic import replace_file

__all__ = ["DPI", "save_figure"]

#: Dots per inch of the PNG.
DPI = 200


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.pdf``; whoever looks at them meanwhile sees the old ones or the new ones.

    Returns:
        the files.
    """
    paths = []
    with house_style():
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            path = folder / f"{name}.{suffix}"
            with replace_file(path, durable=False) as temporary:
                # No dates and versions: the same runs make the same bytes.
                figure.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)
            paths.append(path)
    return paths
