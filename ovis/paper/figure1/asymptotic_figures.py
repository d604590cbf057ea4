"""The figures of the asymptotic study: statistics by K, and distributions of one entry of the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from ovis.experiments.reporting.figures.legend import add_grouped_legend
from ovis.experiments.reporting.figures.panels import draw_lines, join_notes, new_figure
from ovis.experiments.reporting.figures.series import Series, estimator_families
from ovis.experiments.reporting.figures.style import Look, figure_text, house_style
from ovis.experiments.reporting.figures.ticks import label_counts, label_decades
from ovis.paper.figure1.asymptotic_runs import Sample, toy_name

__all__ = ["density_table", "draw_distributions", "draw_statistics", "pick_entry"]

Array = NDArray[np.float64]

#: Inches of one panel; if four of them are printed across a page, letters have 6 points.
PANEL = (2.05, 2.2)
WIDE_PANEL = (2.75, 2.0)

#: Inches to the left and the right of a panel.
W_PAD = 0.06

#: Statistic -> title and label of its panel.
PANELS = {
    "snr": (r"$\frac{1}{D}\,\Sigma_i\,\mathrm{SNR}_i(K)$", "SNR"),
    "dsnr": (r"$\mathrm{DSNR}(K)$", "directional SNR"),
    "variance": (r"$\frac{1}{D}\,\Sigma_i\,\mathrm{Var}\,g_i(K)$", "variance [nats²]"),
    "magnitude": (r"$\frac{1}{D}\,\Sigma_i\,|\mathrm{E}\,g_i(K)|$", "magnitude [nats]"),
}

#: Panels with guide lines proportional to K^(1/2) and K^(-1/2), and the values of these lines at K = 1.
GUIDED = ("snr", "dsnr")
GUIDE_TEXT = "dotted grey: 0.1 and 10 times √K and 1/√K"
GUIDES = ((0.1, 0.5), (0.1, -0.5), (10.0, 0.5), (10.0, -0.5))

#: Margin at both ends of an axis, as a fraction of the range of the data.
MARGIN = 0.1

#: Height of a panel of distributions in multiples of the peak of the broadest one; sharper peaks are cut off.
PEAKS = 3.0

#: A distribution that is broader than the next one by this factor is ignored for the width of a panel.
BROADEST = 10.0

#: Draws farther from the quartiles than this number of interquartile ranges are left out of a density.
OUTLIERS = 3.0

#: Bins of a histogram, and points of a kernel density estimate.
BINS, POINTS = 40, 240


def draw_statistics(statistics: pd.DataFrame, caption: str = "") -> Figure:
    """Draw the statistics against K, on logarithmic axes: a row of panels for each toy.

    Args:
        statistics: see :func:`ovis.paper.figure1.asymptotic_statistics.statistics_table`.
        caption: text above the legend; notes on hollow markers and guide lines are added.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    toys = list(statistics["toy"].unique())
    families = estimator_families(statistics)
    series = list(chain(*families))
    with house_style():
        figure = new_figure(len(PANELS) * PANEL[0], len(toys) * PANEL[1], w_pad=W_PAD)
        axes = figure.subplots(len(toys), len(PANELS), squeeze=False)
        for row, toy in zip(axes, toys, strict=True):
            for axis, (name, (title, label)) in zip(row, PANELS.items(), strict=True):
                _draw_statistic(axis, statistics[statistics["toy"] == toy], name, series)
                axis.set_title(title, fontsize="medium")
                axis.set_ylabel(label)
            _name_row(row[0], toy)
        hollow = "hollow: no more than noise" if statistics[[f"noise_{name}" for name in PANELS]].any(axis=None) else ""
        add_grouped_legend(figure, families, join_notes(caption, GUIDE_TEXT, hollow))
    return figure


def draw_distributions(densities: pd.DataFrame, caption: str = "") -> Figure:
    """Draw the distributions of one entry of the gradient, a panel for each K: a row for each toy.

    Args:
        densities: see :func:`ovis.paper.figure1.asymptotic_figures.density_table`.
        caption: text above the legend; notes on vertical lines and on distributions broader than a panel are added.

    Returns:
        a figure that is not registered with pyplot; it is not saved.
    """
    families = estimator_families(densities)
    looks = {str(item.keys["estimator"]): item.look for item in chain(*families)}
    rows = {toy: list(part["iw"].unique()) for toy, part in densities.groupby("toy", sort=False)}
    columns = max(map(len, rows.values()))
    broad: dict[str, None] = {}
    with house_style():
        figure = new_figure(columns * WIDE_PANEL[0], len(rows) * WIDE_PANEL[1], w_pad=W_PAD)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for row, (toy, iw) in zip(axes, rows.items(), strict=True):
            for axis, k in zip(row, sorted(iw), strict=False):
                part = densities[(densities["toy"] == toy) & (densities["iw"] == k)]
                broad |= dict.fromkeys(_draw_densities(axis, part, looks))
                axis.set_title(f"K = {k}", fontsize="medium")
                axis.set_xlabel(f"$g_{{{part['entry'].iloc[0] + 1}}}$ [nats]")
            row[0].set_ylabel("density")
            _name_row(row[0], str(toy))
            for axis in row[len(iw) :]:
                axis.remove()
        cut = f"broader than a panel, no mean: {', '.join(broad)}" if broad else ""
        notes = join_notes(caption, "vertical: zero, and dotted the means", cut)
        add_grouped_legend(figure, families, notes)
    return figure


def _name_row(axis: Axes, name: str) -> None:
    """Write the name of a row of panels next to its first panel."""
    axis.set_ylabel(f"{figure_text(name)}\n{axis.get_ylabel()}")


def _draw_statistic(axis: Axes, table: pd.DataFrame, name: str, series: Sequence[Series]) -> None:
    """Draw one panel: a line for each series, hollow markers where the values are noise, and the guides."""
    iw = sorted(table["iw"].unique())
    label_counts(axis, iw)
    axis.set_yscale("log")
    shown = table[table[name] > 0].sort_values("iw")
    lines = shown.assign(mean=shown[name], low=math.nan, high=math.nan)
    draw_lines(axis, lines, ["estimator"], series, "iw", marks=len(iw))
    for index, item in enumerate(series):
        noise = shown[(shown["estimator"] == item.keys["estimator"]) & shown[f"noise_{name}"].astype(bool)]
        if len(noise):
            look = item.look
            hollow = {**look.line, "linestyle": "none", "markerfacecolor": "white", "markeredgecolor": look.color}
            axis.plot(noise["iw"], noise[name], zorder=3 - index / len(series), **hollow)
    axis.set_xlim(*_range(iw))
    axis.set_ylim(*_range(shown[name]))
    if name in GUIDED:
        x = np.array(axis.get_xlim())
        for start, power in GUIDES:
            axis.plot(x, start * x**power, color="0.45", linestyle=":", linewidth=0.9, zorder=1.5)
    axis.yaxis.set_major_locator(LogLocator(numticks=7))
    axis.yaxis.set_minor_formatter(NullFormatter())
    label_decades(axis)
    axis.set_xlabel("K")


def _range(values: Sequence[float] | pd.Series[float]) -> tuple[float, float]:
    """The range of some positive numbers on a logarithmic axis, with its margins."""
    logs = np.log(np.asarray(values, np.float64))
    if not len(logs):
        return 0.1, 1.0
    low, high = float(logs.min()), float(logs.max())
    margin = MARGIN * (high - low) or math.log(2)
    return math.exp(low - margin), math.exp(high + margin)


def _draw_densities(axis: Axes, table: pd.DataFrame, looks: Mapping[str, Look]) -> list[str]:
    """One panel; returns the labels of the distributions that are broader than it."""
    by_estimator = {name: table[table["estimator"] == name] for name in looks if (table["estimator"] == name).any()}
    fitting = _fitting({name: float(rows["sd"].iloc[0]) for name, rows in by_estimator.items()})
    curves = {name: rows[rows["kind"] == "kde"] for name, rows in by_estimator.items()}
    axis.axvline(0.0, color="0.6", linewidth=1.0, zorder=1.5)
    for index, (name, rows) in enumerate(by_estimator.items()):
        look, bins = looks[name], rows[rows["kind"] == "bin"]
        front = 3 - index / len(looks)
        edges = [*(bins["x"] - bins["width"] / 2), float((bins["x"] + bins["width"] / 2).iloc[-1])]
        axis.stairs(bins["density"], edges, fill=True, color=look.color, alpha=0.25, linewidth=0, zorder=front - 1)
        # Markers lie at equal distances along the line as it is seen, each estimator's at others.
        spaced = (0.03 + 0.22 * index / len(by_estimator), 0.22)
        style = {**look.line, "markersize": 4.5}
        curve = curves[name]
        axis.plot(curve["x"], curve["density"], label=look.label, markevery=spaced, zorder=front, **style)
        if name in fitting:  # the mean of what is far broader is noise at this scale
            axis.axvline(float(rows["mean"].iloc[0]), color=look.color, linestyle=":", linewidth=1.0, zorder=front)
    axis.set_xlim(min(float(curves[n]["x"].min()) for n in fitting), max(float(curves[n]["x"].max()) for n in fitting))
    axis.set_ylim(0.0, PEAKS * min(float(curves[n]["density"].max()) for n in fitting))
    axis.yaxis.set_major_locator(NullLocator())
    axis.locator_params(axis="x", nbins=5)
    return [looks[name].label for name in by_estimator if name not in fitting]


def _fitting(spread: Mapping[str, float]) -> list[str]:
    """The distributions that determine the width of a panel: all but those that are far broader than the others."""
    names = sorted(spread, key=lambda name: spread[name])
    while len(names) > 2 and spread[names[-1]] > BROADEST * spread[names[-2]]:
        names.pop()
    return names


def density_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """Densities at the smallest, the middle and the largest K of each toy.

    Args:
        samples: sorted by toy, as they are read.

    Returns:
        columns ``toy, estimator, iw, entry`` (which one of the gradient), ``kind`` (``bin``: x is its middle, or
        ``kde``), ``x, density``, ``width`` (of a bin), ``mean`` (of all draws) and ``sd`` (without outliers).
    """
    rows: list[pd.DataFrame] = []
    toys = [sample.toy for sample in samples]
    for _, group in groupby(samples, key=lambda sample: sample.key[0]):
        members = list(group)
        entry = pick_entry(members)
        for iw in _three(sorted({sample.iw for sample in members})):
            for sample in members:
                if sample.iw == iw:
                    densities = _densities(sample.draws[:, entry].astype(np.float64))
                    name = toy_name(sample.toy, toys)
                    rows.append(densities.assign(toy=name, estimator=sample.estimator, iw=iw, entry=entry))
    columns = ["toy", "estimator", "iw", "entry", "kind", "x", "density", "width", "mean", "sd"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def pick_entry(samples: Sequence[Sample]) -> int:
    """The entry whose mean is the largest, by the first estimator at its smallest K."""
    mean = np.abs(samples[0].draws.astype(np.float64).mean(0))
    return int(np.nan_to_num(mean, nan=-1.0).argmax())


def _three(values: Sequence[int]) -> list[int]:
    """The smallest, the middle and the largest."""
    return sorted({values[0], values[len(values) // 2], values[-1]})


def _densities(values: Array) -> pd.DataFrame:
    """The histogram and the kernel density estimate of some numbers; no rows where they don't vary."""
    mean = float(values.mean())
    kept = _without_outliers(values[np.isfinite(values)])
    sd = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
    if not sd > 0:
        return pd.DataFrame({"kind": [], "x": [], "density": [], "width": [], "mean": [], "sd": []})
    heights, edges = np.histogram(kept, BINS, density=True)
    bandwidth = _bandwidth(kept, sd)
    x = np.linspace(kept.min() - 3 * bandwidth, kept.max() + 3 * bandwidth, POINTS)
    bins: dict[str, Any] = {"kind": "bin", "x": (edges[1:] + edges[:-1]) / 2, "density": heights}
    curve: dict[str, Any] = {"kind": "kde", "x": x, "density": _kernel_density(kept, x, bandwidth)}
    parts = [pd.DataFrame(bins).assign(width=edges[1] - edges[0]), pd.DataFrame(curve).assign(width=0.0)]
    return pd.concat(parts).assign(mean=mean, sd=sd)


def _without_outliers(values: Array) -> Array:
    if not len(values):
        return values
    low, high = np.quantile(values, (0.25, 0.75))
    reach = OUTLIERS * (high - low)
    kept: Array = values[(values >= low - reach) & (values <= high + reach)]
    return kept


def _bandwidth(values: Array, sd: float) -> float:
    """Silverman's bandwidth (1986, eq. 3.31), which is robust against heavy tails."""
    low, high = np.quantile(values, (0.25, 0.75))
    spread = min(sd, float(high - low) / 1.349) or sd
    return float(0.9 * spread * len(values) ** -0.2)


def _kernel_density(values: Array, x: Array, bandwidth: float, chunk: int = 2000) -> Array:
    """Gaussian kernel density estimate at the points x."""
    total = np.zeros_like(x)
    for start in range(0, len(values), chunk):
        z = (x[:, None] - values[start : start + chunk]) / bandwidth
        total += np.exp(-0.5 * z**2).sum(1)
    density: Array = total / (len(values) * bandwidth * np.sqrt(2 * np.pi))
    return density
