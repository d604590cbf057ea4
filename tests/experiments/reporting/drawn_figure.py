"""What a drawn figure looks like: where its legend and its panels are, and which colours its panels have."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox


def legend_and_panels(figure: Figure) -> tuple[Bbox, list[Bbox]]:
    """The legend's box and those of the panels with their labels, in pixels, once all is laid out."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (legend,) = figure.legends
    return legend.get_window_extent(renderer), [axes.get_tightbbox(renderer) for axes in figure.axes]


def check_legend(figure: Figure) -> list[Bbox]:
    """The legend covers no panel and lies within the figure. Returns the panels' boxes."""
    legend, panels = legend_and_panels(figure)
    assert not any(legend.overlaps(panel) for panel in panels)
    assert min(legend.x0, legend.y0) >= 0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y1 <= figure.bbox.y1
    return panels


def colors_in_panels(figure: Figure, colors: Iterable[str]) -> list[bool]:
    """Whether each colour is found in the panels; the legend lies above them or to their right."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    top, right = (max(getattr(axes.get_position(), edge) for axes in figure.axes) for edge in ("y1", "x1"))
    panels = image[int((1 - top) * image.shape[0]) :, : int(right * image.shape[1])]
    return [bool((np.abs(panels - np.array(to_rgb(color))).max(-1) < 0.02).sum() > 20) for color in colors]
