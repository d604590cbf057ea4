"""What is in the figure: every series, its look and its numbers, labels and units, and a legend that covers no data."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_figure import check_legend, legend_and_panels
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from slow_cases import slow_except

from ovis.experiments.reporting.figures.curves import draw_curves
from ovis.experiments.reporting.figures.legend import reading_order
from ovis.experiments.reporting.figures.pivots import draw_pivots
from ovis.experiments.reporting.figures.save_figure import save_figure
from ovis.experiments.reporting.figures.style import estimator_look

METRICS = ("train:loss/L_k", "test:loss/L_k", "train:grads/snr")
ESTIMATORS = (
    *("ovis-gamma1", "ovis-S10-exclusive", "wake-wake", "tvo-part2-config1-left"),
    *("ovis-gamma0", "vimco-arithmetic", "reinforce"),
)
STEPS = range(0, 1200, 100)


def rows_of(index: int, metric: str, **keys: object) -> list[dict[str, object]]:
    """One curve: a bound that climbs to -20 - index, an SNR that falls from 1 / (1 + index)."""
    climb = [-20.0 - index - 20.0 * np.exp(-step / 100) for step in STEPS]
    fall = [1 / (1 + index) / (1 + step / 1000) for step in STEPS]
    means = fall if metric.endswith("snr") else climb
    return [
        {**keys, "metric": metric, "step": step, "mean": mean, "low": 0.98 * mean, "high": 1.02 * mean}
        for step, mean in zip(STEPS, means, strict=True)
    ]


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        row for i, name in enumerate(ESTIMATORS) for m in METRICS for row in rows_of(i, m, estimator=name, iw=10)
    )


def panels(figure: Figure) -> dict[str, Axes]:
    """The panels by the label of their vertical axis."""
    return {axes.get_ylabel(): axes for axes in figure.axes}


def test_a_bound_in_the_caption_is_typeset(table: pd.DataFrame) -> None:
    figure = draw_curves(table, ["estimator", "iw"], caption="by test bound L_100 (chosen on valid), train:loss/L_k")
    title = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert title.startswith("by test bound $L_{100}$ (chosen on valid), train:loss/L_k")


def test_three_panels_with_every_series_in_its_look(table: pd.DataFrame) -> None:
    figure = draw_curves(table, ["estimator", "iw"], caption="means")
    assert len(figure.axes) == 3
    for axes, metric in zip(figure.axes, METRICS, strict=True):
        assert [line.get_label() for line in axes.lines] == [estimator_look(name).label for name in ESTIMATORS]
        for line, name in zip(axes.lines, ESTIMATORS, strict=True):
            look = estimator_look(name)
            assert to_hex(line.get_color()) == look.color.lower()
            assert line.get_marker() == look.marker
            wanted = table[(table["estimator"] == name) & (table["metric"] == metric)]
            np.testing.assert_array_equal(line.get_xdata(), wanted["step"])
            np.testing.assert_array_equal(line.get_ydata(), wanted["mean"])
        assert len(axes.collections) == len(ESTIMATORS)  # the bands


def test_every_line_has_a_marker_on_its_last_finite_point(table: pd.DataFrame) -> None:
    diverged = table.copy()
    diverged.loc[(diverged["estimator"] == "reinforce") & (diverged["step"] == STEPS[-1]), "mean"] = np.nan
    wanted = {estimator_look(e).label: len(STEPS) - (2 if e == "reinforce" else 1) for e in ESTIMATORS}
    for axes in draw_curves(diverged, ["estimator"]).axes:
        assert all(wanted[line.get_label()] in line.get_markevery() for line in axes.lines)


def test_the_caption_says_what_an_axis_cuts(table: pd.DataFrame) -> None:
    def caption(part: pd.DataFrame, limits: dict[str, tuple[float, float]] | None = None) -> str:
        text = draw_curves(part, ["estimator"], limits, "means").legends[0].get_title().get_text()
        return text.replace("\n", " ")

    test = table[table["metric"] == METRICS[1]]
    assert caption(test) == "means; y axis cut: 7 of 7 curves"
    two = test[test["estimator"].isin(["ovis-gamma1", "reinforce"])]
    assert caption(two) == "means; y axis cut: OVIS~ (γ=1), REINFORCE"
    assert caption(two, {METRICS[1]: (-42.0, 0.0)}) == "means; y axis cut: REINFORCE"  # from -46; the other from -40
    assert caption(test, {METRICS[1]: (-100.0, 0.0)}) == "means"
    assert caption(table[table["metric"] == METRICS[2]]) == "means"


def test_the_best_lie_in_front(table: pd.DataFrame) -> None:
    heights = [line.get_zorder() for line in draw_curves(table, ["estimator"]).axes[0].lines]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == len(heights)


def test_a_band_is_where_the_table_says(table: pd.DataFrame) -> None:
    one = table[table["estimator"] == "reinforce"]
    (band,) = draw_curves(one, ["estimator"]).axes[2].collections
    box = band.get_datalim(band.axes.transData)
    rows = one[one["metric"] == METRICS[2]]
    assert (box.y0, box.y1) == pytest.approx((rows["low"].min(), rows["high"].max()))


def test_no_band_where_there_is_none(table: pd.DataFrame) -> None:
    figure = draw_curves(table.assign(low=np.nan, high=np.nan), ["estimator"])
    assert [len(axes.collections) for axes in figure.axes] == [0, 0, 0]
    assert [len(axes.lines) for axes in figure.axes] == [7, 7, 7]


def test_axes_have_labels_units_and_scales(table: pd.DataFrame) -> None:
    figure = draw_curves(table, ["estimator"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["training steps"] * 3
    assert list(panels(figure)) == [
        r"$\log\,p(x)$ bound $L_{K}$, train [nats]",
        r"$\log\,p(x)$ bound $L_{K}$, test [nats]",
        "gradient SNR, train",
    ]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]


def test_a_logarithmic_axis_has_at_least_three_labelled_ticks(table: pd.DataFrame) -> None:
    figure = draw_curves(table, ["estimator"])
    figure.canvas.draw()
    axis = figure.axes[2]
    low, high = axis.get_ylim()
    labels = [t.get_text() for t in axis.get_yticklabels() if low <= t.get_position()[1] <= high and t.get_text()]
    assert len(labels) >= 3
    assert "0.1" in labels


@pytest.mark.parametrize(
    ("low", "high"), [(0.6, 1.1), (0.06, 0.11), (0.21, 0.49), (0.9, 4.4), (0.9, 5.6), (1.01, 1.04), (2.0, 300.0)]
)
def test_a_logarithmic_axis_of_any_range_has_a_scale(low: float, high: float) -> None:
    """One labelled tick says where, but not how much."""
    rows = pd.DataFrame(rows_of(0, METRICS[2], estimator="vimco-arithmetic"))
    rows["mean"] = np.geomspace(low, high, len(rows))
    figure = draw_curves(rows.assign(low=np.nan, high=np.nan), ["estimator"])
    figure.canvas.draw()
    axis = figure.axes[0]
    ends = axis.get_ylim()
    shown = [
        tick for tick in axis.get_yticklabels() if ends[0] <= tick.get_position()[1] <= ends[1] and tick.get_text()
    ]
    assert 2 <= len(shown) <= 9
    assert [float(tick.get_text()) for tick in shown] == pytest.approx([tick.get_position()[1] for tick in shown])


def columns_of(figure: Figure) -> list[list[str]]:
    """The legend's texts as they are placed: columns from left to right, each from top to bottom."""
    FigureCanvasAgg(figure).draw()
    boxes = [
        (text.get_window_extent(), text.get_text()) for text in figure.legends[0].get_texts() if text.get_text() != " "
    ]
    lefts = sorted({round(box.x0) for box, _ in boxes})
    return [
        [text for box, text in sorted(boxes, key=lambda item: -item[0].y0) if round(box.x0) == left] for left in lefts
    ]


@pytest.mark.parametrize("metrics", [1, 3])
def test_of_several_k_the_legend_has_each_estimator_in_one_piece(metrics: int) -> None:
    """The table's order, the best first, would scatter the estimators over the legend."""
    order = [("wake-wake", 20), ("ovis-gamma1", 20), ("vimco-arithmetic", 5), ("ovis-gamma1", 5)]
    order += [("vimco-arithmetic", 20), ("wake-wake", 5), ("ovis-gamma1", 10), ("vimco-arithmetic", 10)]
    table = pd.DataFrame(
        row for metric in METRICS[:metrics] for name, iw in order for row in rows_of(0, metric, estimator=name, iw=iw)
    )
    columns = columns_of(draw_curves(table, ["estimator", "iw"], caption="means"))
    wanted = [
        f"{estimator_look(n).label}, K={k}"
        for n, ks in (("ovis-gamma1", (5, 10, 20)), ("wake-wake", (5, 20)), ("vimco-arithmetic", (5, 10, 20)))
        for k in ks
    ]
    assert [text for column in columns for text in column] == wanted
    if metrics == 3:  # wide enough for a column each
        assert columns == [wanted[:3], wanted[3:5], wanted[5:]]


def test_thirty_estimators_leave_the_figure_to_the_panels() -> None:
    names = [f"ovis-S{s}-exclusive" for s in range(1, 31)]
    pivots = ("max:train:loss/L_k", "max:test:loss/L_k", "mean:train:grads/snr")
    table = pd.DataFrame(
        {"estimator": name, "iw": iw, "pivot": pivot, "mean": 1.0 + index, "low": np.nan, "high": np.nan}
        for pivot in pivots
        for index, name in enumerate(names)
        for iw in (5, 10)
    )
    figure = draw_pivots(table, ["estimator", "iw"])
    legend, panels = legend_and_panels(figure)
    assert len(figure.legends[0].get_texts()) == 30
    assert legend.y1 <= figure.bbox.y1
    assert legend.height < panels[0].height


def test_a_bound_shows_all_that_comes_after_the_first_climb(table: pd.DataFrame) -> None:
    axes = draw_curves(table, ["estimator"]).axes[0]
    low, high = axes.get_ylim()
    rows = table[table["metric"] == METRICS[0]]
    late = rows[rows["step"] >= 0.2 * rows["step"].max()]
    assert low < late["low"].min()
    assert high > rows["high"].max()
    assert low > rows["mean"].min()  # the start is left out
    figure = draw_curves(table, ["estimator"], limits={METRICS[0]: (-30.0, -21.0)})
    assert figure.axes[0].get_ylim() == (-30.0, -21.0)
    assert figure.axes[1].get_ylim() != (-30.0, -21.0)


def test_limits_that_would_leave_a_panel_empty_do_not_hold_there(table: pd.DataFrame) -> None:
    sets = {"binmnist": 0.0, "omniglot": -20.0}
    shifted = [table.assign(dataset=d, mean=table["mean"] + by, low=np.nan, high=np.nan) for d, by in sets.items()]
    both = pd.concat([part[part["metric"] == METRICS[0]] for part in shifted])
    figure = draw_curves(both, ["dataset", "estimator"], limits={METRICS[0]: (-30.0, -19.0)})
    assert figure.axes[0].get_ylim() == (-30.0, -19.0)
    low, high = figure.axes[1].get_ylim()
    assert low < -46.0 < high < -38.0


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("metrics", [1, 3])
def test_one_legend_inside_the_figure_and_outside_the_panels(table: pd.DataFrame, count: int, metrics: int) -> None:
    part = table[table["estimator"].isin(ESTIMATORS[:count]) & table["metric"].isin(METRICS[:metrics])]
    figure = draw_curves(part, ["estimator"], caption="mean over 3 seeds, band: ± 0.5 std over seeds")
    axes = check_legend(figure)
    assert all(axis.get_legend() is None for axis in figure.axes)
    for one, other in pairwise(axes):
        assert not one.overlaps(other)


@pytest.mark.parametrize(
    "keys", slow_except([["estimator", "iw"]], [["estimator", "iw"], ["dataset", "estimator", "iw"]])
)
def test_a_crowded_figure_stays_clear(keys: list[str]) -> None:
    table = pd.DataFrame(
        row
        for dataset in ("binmnist", "omniglot")
        for i, name in enumerate(ESTIMATORS)
        for iw in (5, 10, 50)
        for metric in METRICS
        for row in rows_of(i, metric, dataset=dataset, estimator=name, iw=iw)
        if dataset == "binmnist" or "dataset" in keys
    )
    figure = draw_curves(table, keys)
    check_legend(figure)
    assert len(figure.axes) == (6 if "dataset" in keys else 3)
    assert [len(axis.lines) for axis in figure.axes] == [21] * len(figure.axes)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 7 + 3
    # Dashes say K: the three lines of an estimator share its colour only.
    lines = [line for line in figure.axes[0].lines if line.get_label().startswith("RWS")]
    assert len({to_hex(line.get_color()) for line in lines}) == 1
    assert len({str(line._dash_pattern) for line in lines}) == 3


def test_the_panels_keep_their_height_whatever_the_legend(table: pd.DataFrame) -> None:
    few = draw_curves(table[table["estimator"] == "reinforce"], ["estimator"])
    many = draw_curves(table, ["estimator"])
    heights = []
    for figure in (few, many):
        figure.canvas.draw()
        heights.append(figure.axes[0].get_window_extent().height / figure.dpi)
    assert heights[0] == pytest.approx(heights[1], rel=0.05)
    assert many.get_figheight() > few.get_figheight()


def test_the_legend_reads_row_by_row(table: pd.DataFrame) -> None:
    figure = draw_curves(table, ["estimator"])
    figure.canvas.draw()
    placed = [(text.get_window_extent(), text.get_text()) for text in figure.legends[0].get_texts()]
    read = [label for _, label in sorted(placed, key=lambda item: (-round(item[0].y0 / 5), item[0].x0))]
    assert read == [estimator_look(name).label for name in ESTIMATORS]
    assert reading_order("abcdefg", 4) == list("aebfcgd")


@pytest.mark.parametrize("metrics", [5, 9])
def test_many_metrics_wrap(metrics: int) -> None:
    names = [f"train:metric{i}" for i in range(metrics)]
    table = pd.DataFrame(row for name in names for row in rows_of(0, name, estimator="vimco-arithmetic"))
    figure = draw_curves(table, ["estimator"])
    assert [axes.get_ylabel() for axes in figure.axes] == [f"metric{i}, train" for i in range(metrics)]
    _, axes = legend_and_panels(figure)
    assert not any(one.overlaps(other) for i, one in enumerate(axes) for other in axes[:i])


def test_nan_infinite_and_constant_values_are_drawn_as_far_as_they_go() -> None:
    bad = pd.DataFrame(rows_of(0, METRICS[0], estimator="reinforce") + rows_of(1, METRICS[2], estimator="reinforce"))
    bad.loc[3, ["mean", "low", "high"]] = np.nan
    bad.loc[5, ["mean", "low", "high"]] = -np.inf
    bad.loc[bad["metric"] == METRICS[2], ["mean", "low", "high"]] = 0.0
    figure = draw_curves(bad, ["estimator"])
    figure.canvas.draw()
    assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_a_series_that_can_not_be_seen_is_named(table: pd.DataFrame) -> None:
    two = table[table["estimator"].isin(["ovis-gamma1", "reinforce", "vimco-arithmetic"])].reset_index(drop=True)
    two.loc[two["estimator"] == "reinforce", "mean"] = np.nan
    snr = (two["estimator"] == "vimco-arithmetic") & (two["metric"] == METRICS[2])
    two.loc[snr & (two["step"] == STEPS[3]), "mean"] = 0.0

    def caption(part: pd.DataFrame) -> str:
        return str(draw_curves(part, ["estimator"]).legends[0].get_title().get_text().replace("\n", " "))

    snr_only = two[two["metric"] == METRICS[2]]
    assert caption(snr_only) == "no finite value: REINFORCE; zero is not on a logarithmic axis: VIMCO"
    assert caption(table[table["metric"] == METRICS[2]]) == ""


def test_a_caption_is_broken_between_its_parts(table: pd.DataFrame) -> None:
    parts = ["1,000 draws", "dotted grey: K to the half", "hollow: no more than noise"]
    figure = draw_curves(table[table["metric"] == METRICS[0]], ["estimator"], {METRICS[0]: (-90, 0)}, "; ".join(parts))
    lines = figure.legends[0].get_title().get_text().split("\n")
    assert len(lines) > 1
    assert [part for line in lines for part in line.rstrip(";").split("; ")] == parts


@pytest.mark.slow
def test_saved_files_are_whole_and_the_same_every_time(table: pd.DataFrame, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        paths = save_figure(draw_curves(table, ["estimator"]), folder, "curves")
        assert [path.name for path in paths] == ["curves.png", "curves.pdf"]
        assert sorted(path.name for path in folder.iterdir()) == ["curves.pdf", "curves.png"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    with Image.open(tmp_path / "a" / "curves.png") as image:
        figure = draw_curves(table, ["estimator"])
        assert image.width == pytest.approx(200 * figure.get_figwidth(), abs=1)
        assert image.info["dpi"][0] == pytest.approx(200, abs=0.1)
    assert contents[0][1].startswith(b"%PDF")


@pytest.mark.slow
def test_a_png_is_small_and_looks_as_drawn(table: pd.DataFrame, tmp_path: Path) -> None:
    """A palette may cost a shade here and there, no series its colour."""
    figure = draw_curves(table, ["estimator"])
    png, _ = save_figure(figure, tmp_path, "curves")
    figure.savefig(tmp_path / "plain.png", dpi=200)
    assert png.stat().st_size < 0.6 * (tmp_path / "plain.png").stat().st_size
    with Image.open(png) as small, Image.open(tmp_path / "plain.png") as plain:
        assert small.mode == "P"
        shown, drawn = (np.asarray(image.convert("RGB"), int) for image in (small, plain))
    assert shown.shape == drawn.shape
    assert (np.abs(shown - drawn).max(-1) > 16).mean() < 0.01
    for name in ESTIMATORS:
        color = np.array([int(estimator_look(name).color[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(shown - color).max(-1) <= 8).sum() > 100, name


def test_reporting_needs_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, pkgutil, importlib, ovis.experiments.reporting as r\n"
        "for m in pkgutil.iter_modules(r.__path__): importlib.import_module('ovis.experiments.reporting.' + m.name)\n"
        "import ovis.experiments.cli.report\n"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'seaborn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
