"""Saves figures as PNG and PDF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ovis.experiments.reporting.figures.style import house_style
from ovis.experiments.runs.atomic import replace_file

__all__ = ["DPI", "ReportFigure", "save_figure"]

#: Dots per inch of the PNG.
DPI = 200


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        name: of its files, without their suffix.
        title: a few words, for a heading.
        alt: alternative text for screen readers, in one line.
        figure: the figure itself.
    """

    name: str
    title: str
    alt: str
    figure: Figure

    def save(self, folder: Path) -> Path:
        """Write ``name.png`` and ``name.pdf``; returns the PNG's path."""
        return save_figure(self.figure, folder, self.name)[0]


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.pdf`` atomically: a reader sees either the old or the new files.

    Returns:
        the files.
    """
    paths = []
    with house_style():
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            path = folder / f"{name}.{suffix}"
            with replace_file(path, durable=False) as temporary:
                # without dates and versions, so that the same runs give the same bytes
                figure.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)
                if suffix == "png":
                    _shrink(temporary)
            paths.append(path)
    return paths


def _shrink(path: Path) -> None:
    """Save a PNG with a palette of its 256 best colours: a third of the size, without a visible difference."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(path, format="PNG", optimize=True, dpi=(DPI, DPI))
