"""Figure 3: every curve in its look, the axes of the paper, the legend in blocks beside the panel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_figure import check_legend, colors_in_panels
from matplotlib.colors import to_hex
from published_values import published_final
from slow_cases import slow_except

from ovis.experiments.reporting.figures.style import DASHED, DOTTED, SOLID, estimator_look
from ovis.paper.figure3.figure3_plot import PAPER_LIMITS, draw_figure3, panel_limits, particle_styles

LABELS = ["OVIS-MC (S=1)", "OVIS-MC (S=10)", "OVIS-MC (S=50)", "OVIS~ (γ=1)", "OVIS~ (γ=0)", "VIMCO"]


def table(figure: str = "left", last: int = 4_000_000, without: str = "", shift: float = 0.0) -> pd.DataFrame:
    """Curves that end where the paper's do."""
    steps = np.linspace(0, last, 65)[1:]
    return pd.concat(
        pd.DataFrame({"estimator": name, "iw": iw, "step": steps.astype(int), "seeds": 3}).assign(
            smoothed=shift + final - 20 * np.exp(-6 * steps / last)
        )
        for (name, iw), final in published_final(figure).items()
        if name != without
    )


def test_one_line_for_each_estimator_and_k() -> None:
    rows = table()
    (axes,) = draw_figure3(rows, "y").axes
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {f"{label}, K={iw}" for label in LABELS for iw in (5, 10, 50)}
    for (name, iw), curve in rows.groupby(["estimator", "iw"]):
        look, line = estimator_look(str(name)), lines[f"{estimator_look(str(name)).label}, K={iw}"]
        np.testing.assert_array_equal(line.get_xdata(), curve["step"])
        np.testing.assert_array_equal(line.get_ydata(), curve["smoothed"])
        assert to_hex(line.get_color()) == look.color.lower()
        assert line.get_marker() == {5: "x", 10: "^", 50: "o"}[int(str(iw))]
        assert len(line.get_markevery()) == 6
        gaps = np.diff(line.get_markevery())
        assert gaps.max() - gaps.min() <= 1
    assert not axes.collections, "a band"


@pytest.mark.parametrize(
    "missing", slow_except(["", "vimco-arithmetic"], ["", "vimco-arithmetic", "ovis-S10-exclusive"])
)
def test_a_missing_series_is_not_in_the_figure(missing: str) -> None:
    figure = draw_figure3(table(without=missing), "y")
    names = list(dict.fromkeys(name for name, _ in published_final("left")))
    shown = colors_in_panels(figure, [estimator_look(name).color for name in names])
    assert shown == [name != missing for name in names]


def test_axes() -> None:
    figure = draw_figure3(table(), "log p")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_ylim() == PAPER_LIMITS
    inside = [label.get_text() for label in axes.get_xticklabels() if label.get_position()[0] <= axes.get_xlim()[1]]
    assert inside == ["0e+00", "1e+06", "2e+06", "3e+06", "4e+06"]
    assert [tick for tick in axes.get_yticks() if -92.5 <= tick <= -86.2] == list(range(-92, -86))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training steps", "log p")


@pytest.mark.parametrize("last", [8_332, 1_250_000, 999, 62_490])
def test_every_label_of_a_step_is_exact(last: int) -> None:
    figure = draw_figure3(table(last=last), "y")
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    shown = [float(label.get_text()) for label in axis.get_ticklabels()]
    np.testing.assert_allclose(shown, axis.get_ticklocs(), rtol=1e-12)


def test_limits_are_the_papers_or_the_datas() -> None:
    assert panel_limits(table("right")) == PAPER_LIMITS
    low, high = panel_limits(table(shift=-20.0))
    assert (low, high) == (np.floor(-110.37 - 20 * np.exp(-1.2)) - 1, -106.0)
    figure = draw_figure3(table(), "y", limits=(-100.0, -80.0))
    assert figure.axes[0].get_ylim() == (-100.0, -80.0)
    nothing = table().assign(smoothed=np.nan)
    assert panel_limits(nothing) == PAPER_LIMITS


@pytest.mark.parametrize("shift", [-20.0, -31.63, -57.5])
def test_nothing_lies_on_the_lower_edge_or_in_the_corner(shift: float) -> None:
    figure = draw_figure3(table(shift=shift), "y")
    figure.canvas.draw()
    (axes,) = figure.axes
    rows = table(shift=shift)
    settled = rows.loc[rows["step"] >= 0.2 * rows["step"].max(), "smoothed"].min()
    assert settled - axes.get_ylim()[0] >= 1
    low, high = axes.get_ylim()
    labels = [tick.get_window_extent() for tick in axes.get_yticklabels() if low <= tick.get_position()[1] <= high]
    corner = min((tick.get_window_extent() for tick in axes.get_xticklabels()), key=lambda box: box.x0)
    assert len(labels) >= 3
    assert not any(corner.overlaps(box) for box in labels)


def test_a_curve_below_the_axis_is_named() -> None:
    rows = table()
    behind = pd.DataFrame({"estimator": ["tvo-part2-config1-left"], "iw": [5], "step": [62_490], "smoothed": [-120.0]})
    assert "below" not in draw_figure3(rows, "y", "caption").axes[0].get_title(loc="left")
    title = draw_figure3(pd.concat([rows, behind]), "y", "caption").axes[0].get_title(loc="left")
    assert title == "caption\nbelow the axis: TVO, K=5"


@pytest.mark.parametrize(
    ("figure", "estimators"),
    [("left", LABELS), ("right", [*LABELS[:4], "TVO"])],
)
def test_the_legend_has_blocks_and_is_clear_of_the_panel(figure: str, estimators: list[str]) -> None:
    drawn = draw_figure3(table(figure), "y", "a caption that is rather long, " * 6)
    drawn.canvas.draw()
    (legend,) = drawn.legends
    texts = [text.get_text() for text in legend.get_texts()]
    ovis = [label for label in estimators if "~" in label]
    wanted = ["OVIS-MC", *LABELS[:3], "OVIS~", *ovis, "Baseline", estimators[-1]]
    assert texts == [*wanted, "Particles", "K = 5", "K = 10", "K = 50"]
    bold = [text.get_text() for text in legend.get_texts() if text.get_fontweight() == "bold"]
    assert bold == ["OVIS-MC", "OVIS~", "Baseline", "Particles"]
    check_legend(drawn)


def test_blocks_differ_without_any_colour() -> None:
    (axes,) = draw_figure3(table(), "y").axes
    thin = {str(line.get_label()).split(",")[0] for line in axes.lines if line.get_linewidth() < 1.2}
    hollow = {str(line.get_label()).split(",")[0] for line in axes.lines if line.get_markerfacecolor() == "white"}
    assert thin == hollow == set(LABELS[:3])


@pytest.mark.parametrize("counts", [(5, 10, 50), (5, 20, 50), (2, 3, 4, 5, 20)])
def test_the_legend_shows_the_dashes_of_every_k(counts: tuple[int, ...]) -> None:
    """The marker in the middle of a short line would hide the only gap: the line would look solid."""
    rows = pd.concat(table().query("iw == 5").assign(iw=iw) for iw in counts)
    (legend,) = draw_figure3(rows, "y").legends
    (size,) = {text.get_fontsize() for text in legend.get_texts()}
    handles = dict(zip([text.get_text() for text in legend.get_texts()], legend.get_lines(), strict=True))
    for iw in counts:
        line = handles[f"K = {iw}"]
        dashes = line._unscaled_dash_pattern[1] or ()
        assert legend.handlelength * size >= 2 * sum(dashes) * line.get_linewidth()


def test_particle_styles() -> None:
    assert particle_styles([50, 5, 10]) == {5: (DOTTED, "x"), 10: (DASHED, "^"), 50: (SOLID, "o")}
    mini = particle_styles([20, 5, 100])
    assert mini[5] == (DOTTED, "x")
    assert len(set(mini.values())) == 3
    many = particle_styles(range(2, 30))
    assert len(many) == 28
