"""The figure of the costs: two logarithmic panels, every series in its look, bands, the legend above."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn_figure import check_legend, colors_in_panels
from matplotlib.colors import to_hex
from slow_cases import slow_except

from ovis.experiments.reporting.figures.style import estimator_look
from ovis.paper.efficiency.cost_report import draw_costs
from ovis.paper.efficiency.cost_tables import COLUMNS, cost_table

DEVICE = "cpu: a machine, 2 threads"
IW = (10, 19, 39, 79, 158, 315, 629, 1256, 2506, 5000)

#: In the legend's order; factors of the memory.
FACTORS = {
    "ovis-gamma1": 1.0,
    "ovis-S10-exclusive": 1.1,
    "tvo-part2-config1-left": 1.0,
    "vimco-arithmetic": 3.0,
    "dreg": 2.0,
}


def costs(runs: int = 3, without: str = "") -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"device": DEVICE, "estimator": name, "model": "vae" if name == "dreg" else "sbm", "iw": k, "seed": seed,
         "steps": 3, "state": "ok", "message": "", "memory_mb": factor * (8 + 0.7 * k) * (1 + 0.1 * seed),
         "epoch_s": factor * (20 + 0.07 * k) * (1 + 0.1 * seed), "data": "synthetic"}
        for name, factor in FACTORS.items() for k in IW for seed in range(runs) if name != without
    ]  # fmt: skip
    return cost_table(pd.DataFrame(rows, columns=list(COLUMNS)), DEVICE)


def label(name: str) -> str:
    return estimator_look(name).label + (" *" if name == "dreg" else "")


def test_two_logarithmic_panels_with_every_series_in_its_look() -> None:
    table = costs()
    figure = draw_costs(table, "a caption")
    figure.canvas.draw()
    assert [axes.get_ylabel() for axes in figure.axes] == ["peak memory [MB]", "time of an epoch [s]"]
    for axes, measure in zip(figure.axes, ("memory_mb", "epoch_s"), strict=True):
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "log", "K")
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == [label(name) for name in FACTORS]
        for name in FACTORS:
            rows = table[(table["estimator"] == name) & (table["measure"] == measure)]
            line, look = lines[label(name)], estimator_look(name)
            np.testing.assert_array_equal(line.get_xdata(), IW)
            np.testing.assert_array_equal(line.get_ydata(), rows["mean"])
            assert (to_hex(line.get_color()), line.get_marker()) == (look.color.lower(), look.marker)
        # Lines that coincide (TVO and OVIS~) are distinguished by the sizes of their markers.
        sizes = [line.get_markersize() for line in lines.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == len(sizes)
        assert list(axes.get_xticks()) == list(IW)
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert [int(text) for text in labels if text] == [19, 79, 315, 1256, 5000]


def test_bands_are_half_a_standard_deviation() -> None:
    axes = draw_costs(costs()).axes[0]
    assert len(axes.collections) == len(FACTORS)
    points = axes.collections[0].get_paths()[0].vertices
    at_ten = sorted({round(float(y), 6) for x, y in points if x == 10})
    # 15, 16.5, 18: the mean 16.5, the deviation 1.5.
    assert at_ten == [15.75, 17.25]
    alone = draw_costs(costs(runs=1))
    assert not alone.axes[0].collections
    assert "band" not in alone.legends[0].get_title().get_text()


@pytest.mark.parametrize("missing", slow_except(["", "vimco-arithmetic"], ["", "vimco-arithmetic", "dreg"]))
def test_a_missing_series_is_not_in_the_figure(missing: str) -> None:
    figure = draw_costs(costs(without=missing))
    shown = colors_in_panels(figure, [estimator_look(name).color for name in FACTORS])
    assert shown == [name != missing for name in FACTORS]


def test_the_legend_is_in_columns_and_clear_of_the_panels() -> None:
    figure = draw_costs(costs(), f"{DEVICE}; VIMCO out of memory from K = 5000 on")
    figure.canvas.draw()
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts() if text.get_text().strip()]
    assert texts == [label(name) for name in FACTORS]
    title = legend.get_title().get_text().replace("\n", " ")
    assert title.startswith(DEVICE)
    assert title.endswith(
        "mean of 3 repetitions; band: ± 0.5 std over repetitions; * on a Gaussian VAE of the same size"
    )
    check_legend(figure)
