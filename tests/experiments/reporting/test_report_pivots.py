"""Pivot plots and detailed plots: every panel, series, number, tick and title is looked up in the figure's objects."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_figure import check_legend
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from slow_cases import slow_except
from synthetic_paper import write_experiment
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.aggregate import pivot_table
from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.data.results import Results, compute_results
from ovis.experiments.reporting.figures import report_figures
from ovis.experiments.reporting.figures.curves import draw_detailed
from ovis.experiments.reporting.figures.pivots import draw_pivots
from ovis.experiments.reporting.figures.report_figures import draw_report
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.figures.style import DASHED, SOLID, estimator_look
from ovis.experiments.reporting.metrics import parse_pivot
from ovis.experiments.reporting.presets import preset_of
from ovis.experiments.reporting.report_spec import ReportRequest, make_report_spec

GMM = (
    *("ovis-gamma1", "ovis-gamma0", "ovis-S1-exclusive", "ovis-S10-exclusive", "ovis-S50-exclusive"),
    *("tvo-part5-beta2-left", "wake-wake", "vimco-arithmetic", "vimco-geometric", "reinforce"),
)
VAE = {
    **{"OVIS~ (γ=1)": SOLID, "OVIS~ (γ=1), α=0.7": DASHED, "TVO": SOLID, "IWAE": SOLID},
    **{"IWAE, α=0.7": DASHED, "STL": SOLID, "DReG": SOLID},
}


def results_of(folder: Path, **request: list[str]) -> Results:
    experiment = read_experiment(folder)
    return compute_results(experiment, make_report_spec(experiment, ReportRequest(**request), preset_of(folder.name)))


@pytest.fixture(scope="module")
def gmm(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(write_experiment(tmp_path_factory.mktemp("runs"), "gaussian-mixture-model", seeds=3))


@pytest.fixture(scope="module")
def drawn(gmm: Results) -> dict[str, ReportFigure]:
    return {report_figure.name: report_figure for report_figure in draw_report(gmm)}


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(write_experiment(tmp_path_factory.mktemp("runs"), "gaussian-vae", seeds=2))


def figure_of(results: Results) -> Figure:
    return draw_pivots(results.pivot, results.spec.keys, "means", results.spec.evaluated)


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def ticks_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_figure_2(drawn: dict[str, ReportFigure]) -> None:
    figure = drawn["pivots"].figure
    figure.canvas.draw()
    assert [axes.get_ylabel().splitlines()[0] for axes in figure.axes] == [
        *("posterior $L_2$ error", "prior $L_2$ error", "gradient SNR")
    ]
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert ticks_of(axes) == ["2", "5", "10", "20"]
        assert set(lines_of(axes)) == {estimator_look(name).label for name in GMM}
        assert len(axes.collections) == len(GMM)  # the bands
    assert len({(to_hex(line.get_color()), line.get_marker(), str(line._dash_pattern)) for line in axes.lines}) == 10


def test_every_point_is_in_the_table(gmm: Results) -> None:
    figure = figure_of(gmm)
    for axes, pivot in zip(figure.axes, gmm.spec.pivots, strict=True):
        rows = gmm.pivot[gmm.pivot["pivot"] == pivot.name]
        for name, part in rows.groupby("estimator"):
            part = part.sort_values("iw")
            x, y = lines_of(axes)[estimator_look(str(name)).label]
            assert x == [2, 5, 10, 20]
            np.testing.assert_array_equal(y, part["mean"])


def test_the_band_is_half_a_standard_deviation_on_either_side(demo: Folder) -> None:
    for iw in (2, 4):
        for seed, value in enumerate([1.0, 3.0, 8.0]):
            demo.add("vimco", [iw * value], seed=seed, iw=iw)
    table = pivot_table(read_experiment(demo.path), ["estimator", "iw"], [parse_pivot(f"max:{METRIC}")])
    (band,) = draw_pivots(table, ["estimator", "iw"]).axes[0].collections
    ends = band.get_paths()[0].vertices
    half = 0.5 * np.std([1.0, 3.0, 8.0], ddof=1)
    assert set(np.round(ends[ends[:, 0] == 2.0, 1], 9)) == {round(2 * (4 - half), 9), round(2 * (4 + half), 9)}


def test_figure_4_tells_alpha_by_dashes_and_data_sets_by_columns(vae: Results) -> None:
    assert vae.spec.keys == ["dataset", "estimator", "iw", "alpha"]
    figure = figure_of(vae)
    figure.canvas.draw()
    grid = np.array(figure.axes).reshape(4, 3)
    assert [axes.get_title() for axes in grid[0]] == ["binarized MNIST", "Fashion-MNIST", "Omniglot"]
    assert not any(axes.get_title() for axes in grid[1:].flat)
    assert [axes.get_ylabel().splitlines()[-1] for axes in grid[:, 0]] == [
        *("train, best [nats]", "train, final [nats]", "train, mean", "train, mean")
    ]
    assert [axes.get_yscale() for axes in grid[:, 0]] == ["linear", "linear", "linear", "log"]
    for axes in grid.flat:
        assert ticks_of(axes) == ["5", "10", "50"]
        result = {line.get_label(): line._unscaled_dash_pattern for line in axes.lines}
        assert list(result) == list(VAE)
        assert {label for label, dash in result.items() if dash[1]} == {n for n, d in VAE.items() if d is DASHED}
    first = grid[0, 2].get_ylim()
    assert first[1] < -100  # of Omniglot: its own limits
    assert grid[0, 0].get_ylim()[0] > -95


@pytest.mark.parametrize(
    ("name", "label", "words"),
    [
        ("ovis-S0.3", "budget of particles, $K'$", "the budget of particles K' = 3, 8;"),
        ("ovis-S10-exclusive", "particles, $K$", "the number of particles K = 3, 8;"),
    ],
)
def test_a_budget_of_particles_is_called_so(demo: Folder, name: str, label: str, words: str) -> None:
    for iw in (3, 8):
        demo.add("ovis-gamma1", [1.0], iw=iw)
        demo.add(name, [2.0], iw=iw)
    report_figure = next(draw_report(results_of(demo.path)))
    assert {axes.get_xlabel() for axes in report_figure.figure.axes} == {label}
    assert words in report_figure.alt


def test_a_series_that_was_run_at_one_k_alone_is_a_point(demo: Folder) -> None:
    demo.add("vimco", [1.0], iw=2)
    demo.add("vimco", [1.0], iw=4)
    demo.add("rws", [2.0], iw=4)
    table = pivot_table(read_experiment(demo.path), ["estimator", "iw"], [parse_pivot(f"last:{METRIC}")])
    lines = lines_of(draw_pivots(table, ["estimator", "iw"]).axes[0])
    assert lines == {"VIMCO": ([2, 4], [1.0, 1.0]), "RWS": ([4], [2.0])}


@pytest.mark.parametrize(
    ("name", "which"),
    slow_except([("gmm", "pivots"), ("vae", "detailed")], product(["gmm", "vae"], ["pivots", "detailed"])),
)
def test_nothing_overlaps(name: str, which: str, request: pytest.FixtureRequest) -> None:
    results = request.getfixturevalue(name)
    figure = figure_of(results)
    if which == "detailed":
        part = results.detailed[results.detailed["dataset"] == "omniglot"] if name == "vae" else results.detailed
        figure = draw_detailed(part, results.spec.keys, {}, "means", results.spec.evaluated)
    axes = check_legend(figure)
    assert all(box.y1 <= figure.bbox.y1 and box.y0 >= 0 and box.x0 >= 0 for box in axes)
    for i, one in enumerate(axes):
        assert not any(_area(one, other) > 1 for other in axes[:i])  # square pixels


def _area(one: object, other: object) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    return max(width, 0) * max(min(one.y1, other.y1) - max(one.y0, other.y0), 0)


def test_a_detailed_plot_has_metrics_in_rows_and_k_in_columns(gmm: Results, drawn: dict[str, ReportFigure]) -> None:
    figure = drawn["detailed"].figure
    grid = np.array(figure.axes).reshape(5, 4)
    assert [axes.get_title() for axes in grid[0]] == ["$K = 2$", "$K = 5$", "$K = 10$", "$K = 20$"]
    assert [axes.get_ylabel().splitlines()[0] for axes in grid[:, 0]] == [
        *("posterior $L_2$ error", "prior $L_2$ error", "effective sample size", "gradient variance", "gradient SNR")
    ]
    assert [axes.get_yscale() for axes in grid[:, 0]] == ["log", "log", "linear", "log", "log"]
    for row, metric in zip(grid, gmm.spec.detailed, strict=True):
        assert len({axes.get_ylim() for axes in row}) == 1
        for axes, iw in zip(row, (2, 5, 10, 20), strict=True):
            assert len(axes.lines) == len(axes.collections) == len(GMM)
            rows = gmm.detailed[(gmm.detailed["metric"] == metric.name) & (gmm.detailed["iw"] == iw)]
            vimco = rows[rows["estimator"] == "vimco-arithmetic"]
            assert lines_of(axes)["VIMCO"] == (list(vimco["step"]), list(vimco["mean"]))


@pytest.mark.slow
def test_limits_hold_for_a_whole_row(gmm: Results) -> None:
    limits = {"train:loss/ess": (0.0, 21.0), "train:grads/snr": (1e6, 1e7)}
    figure = draw_detailed(gmm.detailed, gmm.spec.keys, limits)
    grid = np.array(figure.axes).reshape(5, 4)
    assert {axes.get_ylim() for axes in grid[2]} == {(0.0, 21.0)}
    assert grid[4, 0].get_ylim()[1] < 1e3  # limits that would hold nothing


def test_which_figures_there_are(gmm: Results, vae: Results, demo: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_pivots", "draw_curves", "draw_detailed"):
        monkeypatch.setattr(report_figures, name, lambda *_: Figure())
    assert [drawn.name for drawn in draw_report(gmm)] == ["pivots", "curves", "detailed"]
    sets = ("binmnist", "fashion", "omniglot")
    wanted = ["pivots", *(f"curves-{name}" for name in sets), *(f"detailed-{name}" for name in sets)]
    assert [drawn.name for drawn in draw_report(vae)] == wanted
    demo.add("vimco", [1.0, 2.0])
    assert [drawn.name for drawn in draw_report(results_of(demo.path))] == ["curves"]  # one K: nothing against K


def test_crowded_curves_have_a_row_for_each_k(drawn: dict[str, ReportFigure]) -> None:
    curves = drawn["curves"].figure
    grid = np.array(curves.axes).reshape(4, 4)
    assert [axes.get_title() for axes in grid[:, 0]] == ["$K = 2$", "$K = 5$", "$K = 10$", "$K = 20$"]
    assert all(len(axes.lines) == len(GMM) for axes in grid.flat)


def test_the_text_for_those_who_can_not_see_the_figure(gmm: Results, drawn: dict[str, ReportFigure]) -> None:
    pivots, curves, detailed = drawn.values()
    best = gmm.pivot[(gmm.pivot["iw"] == 20) & (gmm.pivot["pivot"] == gmm.spec.pivots[0].name)]
    leader = best.sort_values("mean").iloc[0]
    for report_figure in (pivots, curves, detailed):
        assert "\n" not in report_figure.alt
        assert all(estimator_look(name).label in report_figure.alt for name in GMM)
    assert "K = 2, 5, 10, 20" in pivots.alt
    assert f"at K = 20: {estimator_look(leader['estimator']).label}, {leader['mean']:.4f}." in pivots.alt


def test_what_is_not_done_is_in_the_caption(demo: Folder) -> None:
    for iw in (2, 4):
        demo.add("vimco", [1.0, 2.0], iw=iw, status="success" if iw == 2 else None)
    for report_figure in draw_report(results_of(demo.path)):
        assert report_figure.figure.legends[0].get_title().get_text().endswith("1 of 2 runs done")


def test_a_table_without_the_axis_of_k_has_no_pivot_plot(gmm: Results, tmp_path: Path) -> None:
    folder = write_experiment(tmp_path, "gaussian-mixture-model-mini")
    names = [drawn.name for drawn in draw_report(results_of(folder, keys=["estimator"]))]
    assert "pivots" in names  # K joins the series by itself
    experiment = read_experiment(folder)
    spec = make_report_spec(experiment, ReportRequest(keys=["estimator"], merge_args=[]), preset_of(folder.name))
    assert [drawn.name for drawn in draw_report(compute_results(experiment, spec))] == [
        "curves",
        "detailed",
    ]


def test_pivot_tables_keep_their_columns(demo: Folder) -> None:
    demo.add("vimco", [1.0])
    table = pivot_table(read_experiment(demo.path), ["estimator"], [parse_pivot(f"max:{METRIC}")])
    assert list(table) == ["estimator", "pivot", "mean", "se", "low", "high", "seeds", "of", "runs", "done"]
    assert isinstance(table, pd.DataFrame)
