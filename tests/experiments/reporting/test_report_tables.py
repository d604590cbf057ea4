"""The table as people read it."""

from __future__ import annotations

import pandas as pd
import pytest
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.aggregate import pivot_table
from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.metrics import parse_pivot
from ovis.experiments.reporting.tables import latex_table, text_table, wide_table

KEYS = ("estimator", "iw")
PIVOTS = (f"max:{METRIC}", f"last:{METRIC}", "mean:train:grads/snr", "max:time")


@pytest.fixture
def table(demo: Folder) -> pd.DataFrame:
    """Two seeds of gamma=1, one of which is not done; one of RWS without a gradient analysis."""
    demo.add("ovis-gamma1", {METRIC: [-2.0, -3.0], "train:grads/snr": [0.25, 0.75]}, seed=1)
    demo.add("ovis-gamma1", {METRIC: [-4.0, -5.0], "train:grads/snr": [0.5, 1.0]}, seed=2, status=None)
    demo.add("rws", [-11.125, -11.0], iw=5)
    return pivot_table(read_experiment(demo.path), KEYS, [parse_pivot(text) for text in PIVOTS])


def test_text(table: pd.DataFrame) -> None:
    assert text_table(table, KEYS) == (
        "                        test bound L_K [nats]               train SNR   time [s]\n"
        "estimator    K   best, chosen on test          final             mean    per run       seeds\n"
        "--------------------------------------------------------------------------------------------\n"
        "RWS          5          -11.00         -11.00              -           2.0                 1\n"
        "OVIS~ (γ=1)  10          -3.00 ± 1.00   -4.00 ± 1.00  0.6250 ± 0.1250  2.0 ± 0.0  2 (1 done)\n"
    )


def test_headings_stand_above_their_columns(table: pd.DataFrame) -> None:
    top, head, rule, *body = text_table(table, KEYS).splitlines()
    assert len(rule) == max(map(len, [head, *body]))
    assert len(top) <= len(rule)
    for line in [head, *body]:
        assert line[11:13] == "  "  # between the columns of estimator and K


def test_a_wide_heading_widens_its_column(demo: Folder) -> None:
    demo.add("rws", {"train:active_units/au": [3.0]})
    table = pivot_table(read_experiment(demo.path), ["estimator"], [parse_pivot("last:train:active_units/au")])
    assert text_table(table, ["estimator"]) == (
        "           train active units\n"
        "estimator               final  seeds\n"
        "------------------------------------\n"
        "RWS                         3      1\n"
    )


def test_one_format_for_all_numbers(table: pd.DataFrame) -> None:
    text = text_table(table, KEYS, ".1f")
    assert "-3.0 ± 1.0" in text
    assert "0.6 ± 0.1" in text


def test_latex(table: pd.DataFrame) -> None:
    lines = latex_table(table, KEYS).splitlines()
    assert lines[0] == r"\begin{tabular}{llrrrrr}"
    assert lines[2] == (
        r"\multicolumn{2}{c}{} & \multicolumn{2}{c}{test bound $L_{K}$ [nats]} & \multicolumn{1}{c}{train SNR} & "
        r"\multicolumn{1}{c}{time [s]} &  \\"
    )
    assert lines[6] == (
        r"OVIS$\sim$ ($\gamma$=1) & 10 & $-3.00 \pm 1.00$ & $-4.00 \pm 1.00$ & $0.6250 \pm 0.1250$ & "
        r"$2.0 \pm 0.0$ & 2 (1 done) \\"
    )
    assert lines[5] == r"RWS & 5 & $-11.00$ & $-11.00$ & - & $2.0$ & 1 \\"
    assert {line.count("&") for line in lines if line.endswith(r"\\") and "multi" not in line} == {6}


def test_latex_escapes(demo: Folder) -> None:
    demo.add("next_50%", [1.0])
    table = pivot_table(read_experiment(demo.path), ["estimator"], [parse_pivot(f"last:{METRIC}")])
    assert r"next\_50\% & $1.00$ & 1 \\" in latex_table(table, ["estimator"])


def test_wide(table: pd.DataFrame) -> None:
    second, first = wide_table(table, KEYS).to_dict("records")
    name = f"max:{METRIC}"
    assert (first["estimator"], first["iw"], first[name], first[f"{name} se"], first[f"{name} n"]) == (
        "ovis-gamma1",
        10,
        -3.0,
        1.0,
        2,
    )
    assert (first["runs"], first["done"]) == (2, 1)
    assert (second["estimator"], second["mean:train:grads/snr n"]) == ("wake-wake", 0)


def test_a_metric_of_fewer_seeds_says_so(demo: Folder) -> None:
    for seed in range(3):
        demo.add("rws", {METRIC: [1.0 * seed], **({"valid:loss/L_k": [1.0 * seed]} if seed else {})}, seed=seed)
    pivots = [parse_pivot(f"last:{METRIC}"), parse_pivot("last:valid:loss/L_k")]
    text = text_table(pivot_table(read_experiment(demo.path), ["estimator"], pivots), ["estimator"])
    assert " 1.00 ± 0.58 " in text
    assert " 1.50 ± 0.50 (n=2) " in text
