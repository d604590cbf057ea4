"""The figures of the asymptotic study: every series in every panel, guides, limits, and a legend clear of the data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from drawn_figure import check_legend, colors_in_panels
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from synthetic_draws import power_law

from ovis.experiments.reporting.figures.style import estimator_look
from ovis.paper.figure1.asymptotic_figures import density_table, draw_distributions, draw_statistics, pick_entry
from ovis.paper.figure1.asymptotic_runs import Sample
from ovis.paper.figure1.asymptotic_statistics import SHOWN, measure, statistics_table

TOY = {"epsilon": 0.01, "D": 3, "npoints": 100, "q_scale": "std", "seed": 10, "key_filter": "b", "id": ""}

#: In the legend's order; SNR and variance as (c, p) of c K^p.
LAWS = {
    "ovis-gamma1": ((1.0, 0.5), (0.04, -1)),
    "ovis-gamma0": ((0.3, 0.5), (2.0, -3)),
    "ovis-S10-exclusive": ((0.4, 0.5), (1.0, -3)),
    "vimco-arithmetic": ((2.0, -0.5), (0.06, -1)),
    "pathwise-iwae": ((1.5, -0.5), (0.1, -1)),
}
IW = (3, 12, 54, 234)


def samples(names: list[str] | None = None, toy: dict[str, object] = TOY, n: int = 300) -> list[Sample]:
    return [
        Sample(toy, name, k, np.arange(n), power_law(k, *LAWS[name], n=n), {}) for name in names or LAWS for k in IW
    ]


def table(names: list[str] | None = None) -> pd.DataFrame:
    return statistics_table(map(measure, samples(names)))


def lines_of(axes) -> dict[str, object]:
    return {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}


def test_four_panels_with_every_series_in_its_look() -> None:
    statistics = table()
    figure = draw_statistics(statistics, "a caption")
    assert len(figure.axes) == len(SHOWN)
    for axes, name in zip(figure.axes, SHOWN, strict=True):
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "log", "K")
        lines = lines_of(axes)
        assert list(lines) == [estimator_look(estimator).label for estimator in LAWS]
        for estimator in LAWS:
            look, rows = estimator_look(estimator), statistics[statistics["estimator"] == estimator]
            line = lines[look.label]
            assert (to_hex(line.get_color()), line.get_marker()) == (look.color.lower(), look.marker)
            np.testing.assert_array_equal(line.get_xdata(), IW)
            np.testing.assert_array_equal(line.get_ydata(), rows[name])
        low, high = axes.get_ylim()
        assert low < statistics[name].min() < statistics[name].max() < high
        span = np.log(statistics[name].max() / statistics[name].min())
        assert np.log(high / low) == pytest.approx(1.2 * span)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "ε = 0.01\nSNR",
        "directional SNR",
        "variance [nats²]",
        "magnitude [nats]",
    ]


def power_of(line) -> tuple[float, float]:
    """p and c of a line c K^p."""
    (x0, x1), (y0, y1) = np.log(line.get_xdata()), np.log(line.get_ydata())
    power = (y1 - y0) / (x1 - x0)
    return round(float(power), 6), round(float(np.exp(y0 - power * x0)), 6)


def test_guides_grow_with_the_square_root_of_k_in_the_panels_of_ratios() -> None:
    for axes, name in zip(draw_statistics(table()).axes, SHOWN, strict=True):
        guides = [line for line in axes.lines if line.get_linestyle() == ":" and to_hex(line.get_color()) == "#737373"]
        result = {power_of(guide) for guide in guides}
        assert result == ({(0.5, 0.1), (-0.5, 0.1), (0.5, 10.0), (-0.5, 10.0)} if name in ("snr", "dsnr") else set())


@pytest.mark.parametrize("missing", [None, "vimco-arithmetic"])
def test_a_missing_series_is_not_in_the_figure(missing: str | None) -> None:
    names = [name for name in LAWS if name != missing]
    for figure in (draw_statistics(table(names)), draw_distributions(density_table(samples(names)))):
        shown = colors_in_panels(figure, [estimator_look(name).color for name in LAWS])
        assert shown == [name != missing for name in LAWS]


@pytest.mark.parametrize("kind", ["statistics", "distributions"])
def test_the_legend_covers_no_panel_and_leaves_the_figure_nowhere(kind: str) -> None:
    figure = draw_statistics(table(), "x") if kind == "statistics" else draw_distributions(density_table(samples()))
    check_legend(figure)


def test_the_legend_has_a_column_for_each_family() -> None:
    (legend,) = draw_statistics(table()).legends
    texts = [text.get_text().strip() for text in legend.get_texts()]
    assert texts == ["OVIS~ (γ=1)", "OVIS~ (γ=0)", "OVIS-MC (S=10)", "", "VIMCO", "", "IWAE", ""]


def test_points_that_are_noise_are_hollow_and_the_caption_says_so() -> None:
    statistics = table()
    statistics[[f"noise_{name}" for name in SHOWN]] = False
    assert "hollow" not in draw_statistics(statistics).legends[0].get_title().get_text()
    chosen = statistics["estimator"] == "pathwise-iwae"
    statistics.loc[chosen, ["noise_snr", "noise_magnitude"]] = np.array([[False] * 2] * 2 + [[True] * 2] * 2)
    statistics.loc[chosen, "noise_dsnr"] = [False, True, True, True]
    figure = draw_statistics(statistics)
    hollow = [[line for line in axes.lines if line.get_markerfacecolor() == "white"] for axes in figure.axes]
    assert [[list(line.get_xdata()) for line in lines] for lines in hollow] == [
        [[54, 234]],
        [[12, 54, 234]],
        [],
        [[54, 234]],
    ]
    assert "hollow" in figure.legends[0].get_title().get_text()


def test_a_row_for_each_toy() -> None:
    both = [*samples(), *samples(["pathwise-iwae"], {**TOY, "q_scale": "variance"})]
    figure = draw_statistics(statistics_table(map(measure, both)))
    assert [axes.get_ylabel().partition("\n")[0] for axes in figure.axes[::4]] == [
        "ε = 0.01, 2/3 = std",
        "ε = 0.01, 2/3 = variance",
    ]
    assert [len(lines_of(axes)) for axes in figure.axes] == [5] * 4 + [1] * 4
    assert len(draw_distributions(density_table(both)).axes) == 6


def test_what_can_not_be_drawn_is_left_out() -> None:
    statistics = table()
    statistics.loc[statistics["estimator"] == "ovis-gamma1", list(SHOWN)] = np.nan
    assert len(lines_of(draw_statistics(statistics).axes[0])) == 4
    statistics[list(SHOWN)] = np.nan
    draw_statistics(statistics).canvas.draw()


def test_distributions_at_the_smallest_the_middle_and_the_largest_k() -> None:
    figure = draw_distributions(density_table(samples()), "a caption")
    assert [axes.get_title() for axes in figure.axes] == ["K = 3", "K = 54", "K = 234"]
    for axes, k in zip(figure.axes, (3, 54, 234), strict=True):
        assert list(lines_of(axes)) == [estimator_look(name).label for name in LAWS]
        assert len(axes.patches) == len(LAWS)  # histograms
        vertical = {round(float(line.get_xdata()[0]), 9): line.get_linestyle() for line in axes.lines
                    if list(line.get_ydata()) == [0, 1]}  # fmt: skip
        means = {round(c * k**p * np.sqrt(v * k**q), 9) for (c, p), (v, q) in LAWS.values()}
        assert vertical == {0.0: "-", **dict.fromkeys(means, ":")}
        assert list(axes.get_yticks()) == []
        low, high = axes.get_xlim()
        assert low < 0 < high
    # At K = 234 the sharp peaks leave the panel, the broad ones do not.
    top = figure.axes[2].get_ylim()[1]
    peaks = {name: line.get_ydata().max() / top for name, line in lines_of(figure.axes[2]).items()}
    assert [name for name, peak in peaks.items() if peak > 1] == ["OVIS~ (γ=0)", "OVIS-MC (S=10)"]


def test_an_estimator_that_is_far_broader_does_not_set_the_width() -> None:
    reinforce = [Sample(TOY, "reinforce", k, np.arange(300), power_law(k, (0.1, 0), (50, 1), n=300), {}) for k in IW]
    narrow = draw_distributions(density_table(samples()))
    figure = draw_distributions(density_table([*samples(), *reinforce]))
    for a, b in zip(narrow.axes, figure.axes, strict=True):
        assert (a.get_xlim(), a.get_ylim()) == (b.get_xlim(), b.get_ylim())
        assert "REINFORCE" in lines_of(b)
        dotted = [line for line in b.lines if list(line.get_ydata()) == [0, 1] and line.get_linestyle() == ":"]
        assert len(dotted) == len(LAWS)  # the mean of REINFORCE is noise here
    assert "broader than a panel, no mean: REINFORCE" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_densities_are_densities_without_outliers() -> None:
    values = power_law(3, (0.5, 0), (4, 0), n=2000)
    values[:5, 0] += 1000.0  # beyond 3 interquartile ranges, at the entry with the largest mean
    table = density_table([Sample(TOY, "iwae", 3, np.arange(2000), values, {})])
    assert set(table["entry"]) == {0}
    bins, curve = table[table["kind"] == "bin"], table[table["kind"] == "kde"]
    assert (bins["density"] * bins["width"]).sum() == pytest.approx(1.0)
    assert np.trapezoid(curve["density"], curve["x"]) == pytest.approx(1.0, abs=0.01)
    assert table["x"].max() < 20
    assert table["sd"].iloc[0] == pytest.approx(2.0, rel=0.02)
    assert table["mean"].iloc[0] == pytest.approx(values[:, 0].mean())
    # A normal distribution, smoothed a little.
    wanted = np.exp(-0.5 * ((curve["x"] - 1.0) / 2.0) ** 2) / (2.0 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(curve["density"], wanted, atol=0.015)


def test_the_entry_is_that_of_the_first_estimators_largest_mean() -> None:
    draws = power_law(3, (1, 0), (1, 0)) * [1.0, -3.0, 2.0]
    assert pick_entry([Sample(TOY, "iwae", 3, np.arange(200), draws, {})]) == 1


def test_draws_that_do_not_vary_have_no_density() -> None:
    assert density_table([Sample(TOY, "iwae", 3, np.arange(9), np.ones((9, 2)), {})]).empty


@pytest.mark.parametrize(
    ("iw", "shown"),
    [
        (IW, list(IW)),
        ((3, 5, 10, 20, 40, 80, 160, 320, 500, 1000), [3, 20, 160, 1000]),
    ],
)
def test_labels_of_the_horizontal_axis_do_not_overlap(iw: tuple[int, ...], shown: list[int]) -> None:
    law = LAWS["pathwise-iwae"]
    rows = [Sample(TOY, "pathwise-iwae", k, np.arange(50), power_law(k, *law, n=50), {}) for k in iw]
    figure = draw_statistics(statistics_table(map(measure, rows)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        assert list(axes.get_xticks()) == list(iw)
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        assert [int(label.get_text()) for label in labels] == shown
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
