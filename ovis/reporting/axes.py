"""Ticks that read well."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["label_decades"]

#: Logarithmic axes that span fewer powers of ten have labels in between.
DECADES = 2.5


def label_decades(axis: Axes) -> None:
    """Where a logarithmic y axis holds few powers of ten, label 2 and 5 as well: one tick is no scale."""
    low, high = axis.get_ylim()
    if math.log10(high / low) < DECADES:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
