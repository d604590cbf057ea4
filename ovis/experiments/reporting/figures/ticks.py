"""Ticks of logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

__all__ = ["label_counts", "label_decades"]

#: Logarithmic axes that span fewer powers of ten have labels in between.
DECADES = 2.5

#: Of a range smaller than this (a factor of 5), 1, 2 and 5 times the powers of ten may give one tick or none.
NARROW = 0.7


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
    """Make the horizontal axis logarithmic, with a tick at each of these numbers of particles and nowhere else."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator([float(count) for count in counts]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
