"""The figures of the paper draw ids, devices and captions as text, whatever the user's matplotlibrc says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from synthetic_draws import power_law, write_draws

from ovis.experiments.reporting.figures.save_figure import save_figure
from ovis.paper.efficiency.cost_report import draw_costs
from ovis.paper.efficiency.cost_tables import COLUMNS, cost_table
from ovis.paper.figure1.figure1_cli import main
from ovis.paper.figure3.figure3_plot import draw_figure3

HOSTILE = r"Ba$$in $\frac{$ _a %"


@pytest.fixture(autouse=True)
def _latex() -> Iterator[None]:
    """The user's figures are typeset by LaTeX."""
    with matplotlib.rc_context({"text.usetex": True, "legend.loc": "lower left"}):
        yield


@pytest.mark.slow
def test_figure1_with_hostile_ids(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    for k in (3, 17):
        for label in (HOSTILE, "$$"):
            write_draws(folder, k, {"iwae": power_law(k, (0.7, -0.5), (0.02, -1))}, id=label)
    assert main(["--exp=study", f"--root={tmp_path / 'runs'}", f"--output={tmp_path / 'reports'}"]) == 0
    assert (tmp_path / "reports" / "study" / "statistics.pdf").stat().st_size > 0


def test_figure3_with_a_hostile_caption(tmp_path: Path) -> None:
    rows = {
        "estimator": [HOSTILE] * 3,
        "iw": 5,
        "step": [1000, 2000, 3000],
        "seeds": 1,
        "smoothed": [-99.0, -97.0, -96],
    }
    figure = draw_figure3(pd.DataFrame(rows), "y", caption=HOSTILE)
    assert len(save_figure(figure, tmp_path, "figure3")) == 2
    assert figure.axes[0].get_title("left").replace(r"\$", "$") == HOSTILE


def test_costs_on_a_hostile_device(tmp_path: Path) -> None:
    device = f"cpu: {HOSTILE}"
    rows = [
        {"device": device, "estimator": "vimco", "model": "sbm", "iw": k, "seed": 0, "steps": 3, "state": "ok"}
        | {"message": "", "memory_mb": 8.0 + k, "epoch_s": 2.0 + k, "data": "synthetic"}
        for k in (5, 50)
    ]
    figure = draw_costs(cost_table(pd.DataFrame(rows, columns=list(COLUMNS)), device), device)
    assert len(save_figure(figure, tmp_path, "costs")) == 2
    assert HOSTILE in figure.legends[0].get_title().get_text().replace("\n", " ").replace(r"\$", "$")
