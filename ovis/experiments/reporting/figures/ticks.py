"""Ticks of logarithmic axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    Formatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

__all__ = ["label_counts", "label_decades"]

#: Logarithmic axes that span fewer powers of ten have labels in between.
DECADES = 2.5

#: Of a range smaller than this (a factor of 5), 1, 2 and 5 times the powers of ten may give one tick or none.
NARROW = 0.7

#: Width of a digit, and the least space between two labels, in font sizes.
DIGIT, SPACE = 0.64, 0.3


def label_decades(axis: Axes) -> None:
    """Where a logarithmic y axis holds few powers of ten, label 2 and 5 too, or round numbers: one tick is no scale."""
    low, high = axis.get_ylim()
    decades = math.log10(high / low)
    if decades < DECADES:
        axis.yaxis.set_major_locator(
            MaxNLocator(5, steps=[1, 2, 5, 10]) if decades < NARROW else LogLocator(subs=(1, 2, 5))
        )
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def label_counts(axis: Axes, counts: Iterable[int]) -> None:
    """Make the horizontal axis logarithmic, with a tick at each of these numbers of particles and nowhere else.

    Where the labels would overlap, only every second one is shown, or every third and so on, including the last.
    """
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator([float(count) for count in counts]))
    axis.xaxis.set_major_formatter(_SpacedFormatter(axis))
    axis.xaxis.set_minor_locator(NullLocator())


class _SpacedFormatter(Formatter):
    """Labels of a horizontal axis: every one, or every second or third and so on, so that they do not overlap."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}"

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        labels = [self(value) for value in values]
        size = float(self._axes.xaxis.get_major_ticks(1)[0].label1.get_fontsize())
        pixels = self._axes.transData.transform([(value, 1.0) for value in values])[:, 0]
        positions = pixels / self._axes.figure.dpi * 72 / size

        def fits(right: int, left: int) -> bool:
            width = (len(labels[left]) + len(labels[right])) / 2 * DIGIT + SPACE
            return bool(positions[right] - positions[left] >= width)

        shown = [range(len(labels) - 1, -1, -step) for step in range(1, len(labels) + 1)]  # by every which one
        kept = next((each for each in shown if all(itertools.starmap(fits, itertools.pairwise(each)))), range(0))
        return [label if index in kept else "" for index, label in enumerate(labels)]
