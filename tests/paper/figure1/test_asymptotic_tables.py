"""The published numbers as they were read off, and our values and slopes beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from published_values import published_points
from synthetic_draws import power_law

from ovis.paper.figure1.asymptotic_runs import Sample
from ovis.paper.figure1.asymptotic_statistics import SHOWN, Measured, fit_slope, measure, slope_table, statistics_table
from ovis.paper.figure1.asymptotic_tables import (
    SOURCES,
    add_references,
    comparison_table,
    comparison_text,
    slope_text,
    theory_slope,
    with_error,
)

MINI = {"epsilon": 0.01, "D": 20, "npoints": 100, "q_scale": "std", "seed": 10, "key_filter": "b", "id": ""}


def study(toy: dict[str, object] = MINI) -> list[Measured]:
    """What the mini figure could be: its estimators with the paper's slopes, one a little off, and another one."""
    laws = {"ovis-gamma0": ((0.5, 0.5), (0.06, -3)), "pathwise-iwae": ((0.7, -0.5), (0.02, -1))}
    laws["reinforce"] = ((0.001, 0), (1, 1))
    return [
        measure(Sample(toy, name, k, np.arange(400), power_law(k, snr, variance, n=400, D=20), {}))
        for name, (snr, variance) in laws.items()
        for k in (3, 17, 100)
    ]


@pytest.mark.parametrize(
    ("source", "estimator", "statistic", "slope"),
    [
        ("extended", "ovis-gamma0", "snr", 0.30),
        ("figure1", "ovis-gamma0", "snr", 0.32),
        ("figure1", "ovis-S10-exclusive", "snr", 0.25),
        ("figure1", "ovis-S50-exclusive", "snr", 0.25),
        ("figure1", "ovis-S1-exclusive", "snr", 0.29),
        ("extended", "ovis-gamma1", "snr", 0.50),
        ("extended", "pathwise-iwae", "snr", -0.455),
        ("figure1", "vimco-arithmetic", "snr", -0.43),
        ("extended", "ovis-gamma0", "variance", -2.45),
        ("extended", "pathwise-iwae", "variance", -0.91),
        ("extended", "pathwise-iwae", "magnitude", -0.91),
    ],
)
def test_the_fit_finds_the_slopes_of_the_authors_figures(
    source: str, estimator: str, statistic: str, slope: float
) -> None:
    points = published_points(source, estimator, statistic)
    assert fit_slope(list(points), np.array(list(points.values()))[:, None])[0] == pytest.approx(slope, abs=0.02)


def test_theory_is_consistent() -> None:
    """SNR = |E g| / sd; and it says something of every estimator of the study."""
    for name in ("ovis-gamma0", "ovis-gamma1", "ovis-gamma0.5", "ovis-S10", "ovis-S0.5", "vimco", "vimco-geometric",
                 "iwae", "stl", "dreg", "reinforce", "rws", "tvo-part5-beta2", "vae"):  # fmt: skip
        snr, variance, magnitude = (theory_slope(name, s) for s in ("snr", "variance", "magnitude"))
        assert snr == magnitude - variance / 2, name
        assert theory_slope(name, "dsnr") == snr
    assert math.isnan(theory_slope("wake-sleep", "snr"))
    assert math.isnan(theory_slope("of-tomorrow", "snr"))


def test_values_beside_the_published_ones() -> None:
    table = comparison_table(statistics_table(study()))
    assert len(table) == 18  # reinforce is in no figure
    assert table["statistic"].tolist() == [name for name in ("snr", "variance", "magnitude") for _ in range(6)]
    row = table[(table["statistic"] == "snr") & (table["estimator"] == "pathwise-iwae") & (table["iw"] == 17)].iloc[0]
    snr = 0.7 * 17**-0.5
    assert (row["source"], row["draws"], row["published"], row["accuracy"]) == ("mini", 400, 0.2, 0.02)
    assert (row["ours"], row["difference"]) == pytest.approx((snr, snr / 0.2 - 1))
    assert row["ours_se"] == pytest.approx(math.sqrt((1 + snr**2 / 2) / 400 / 20), rel=0.3)


def test_the_comparison_as_text() -> None:
    text = comparison_text(comparison_table(statistics_table(study())))
    title = "**SNR**, mini figure (.assets/asymptotic-gradients.png), ε = 0.01"
    head, _, gamma0, iwae = text.split("\n")[2:6]
    assert text.startswith(title)
    assert [cell.strip() for cell in head.split("|")] == ["", "", "K = 3", "K = 17", "K = 100", ""]
    assert gamma0.startswith("| OVIS~ (γ=0) |")
    assert "/ 0.738 / **+17.3%** |" in gamma0
    assert "0.170 ± 0.01" in iwae
    assert "/ 0.2 / **-15.1%** |" in iwae
    assert iwae.count("/ 0.413 / -2.1% |") == 1
    assert len({len(line) for line in (head, gamma0, iwae)}) == 1
    assert "REINFORCE" not in text
    assert "(!)" not in text


def test_known_errors_of_the_original_are_named() -> None:
    toy = {**MINI, "npoints": 1024}
    items = [measure(Sample(toy, name, 3, np.arange(50), power_law(3, (1, 0), (1, 0), 50, 20), {})) for name in
             ("stl", "ovis-gamma0")]  # fmt: skip
    table = comparison_table(statistics_table(items))
    assert set(table["source"]) == {"figure1", "extended"}
    assert set(table.loc[table["note"] != "", "estimator"]) == {"stl"}
    text = comparison_text(table)
    assert "| STL (!)" in text
    assert "(!) wrong in the original: the original rebuilds q without its scale" in text


@pytest.mark.parametrize("other", [{"D": 3}, {"epsilon": 0.1}, {"q_scale": "variance"}, {"npoints": 128}])
def test_another_toy_is_not_compared(other: dict[str, object]) -> None:
    items = study({**MINI, **other})
    comparison = comparison_table(statistics_table(items))
    assert comparison.empty
    slopes = add_references(slope_table(items), comparison)
    assert slopes[list(SOURCES)].isna().all(axis=None)
    assert "figure" not in slope_text(slopes).partition("\n\nSlopes")[0]


def test_slopes_beside_theory_and_the_authors() -> None:
    items = study()
    slopes = add_references(slope_table(items), comparison_table(statistics_table(items)))
    rows = {(r["estimator"], r["statistic"]): r for r in slopes.to_dict("records")}
    row = rows["ovis-gamma0", "variance"]
    authors = fit_slope([3, 17, 100], np.array([[2.35e-3], [3.27e-5], [4.35e-7]]))[0]
    assert (row["slope"], row["theory"], row["mini"]) == pytest.approx((-3.0, -3.0, authors))
    assert math.isnan(row["extended"])
    text = slope_text(slopes)
    order = [text.index(f"**{title}") for title in ("SNR", "DSNR", "Variance", "Magnitude")]
    assert order == sorted(order)
    lines = [line for line in text.split("\n") if line.startswith("| OVIS~ (γ=0)")]
    assert len(lines) == len(SHOWN)
    # The same standard normal numbers at every K would make this 0; by chance they are not the same.
    assert "| -3.000 ± 0.0" in lines[2]
    assert lines[2].count("|   -3.0 |") == 1
    assert f"| {authors:+.2f} |" in lines[2].replace("      ", " ").replace("  ", " ")
    assert [line.rstrip(" |").rpartition("| ")[2].strip() for line in text.split("\n") if "REINFORCE" in line] == [
        *["noise only"] * 2,
        "3, 17, 100",
        "noise only",
    ]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0946123, 0.00671, "0.0946 ± 0.0067"),
        (5.9293e-7, 6.996e-8, "(5.93 ± 0.70)e-07"),
        (0.0016907, 0.0000086, "(1.6907 ± 0.0086)e-03"),
        (-25.0, 1.5, "-25.0 ± 1.5"),
        (131.675, 13.0, "132 ± 13"),
        (9998.8, 293.3, "9999 ± 293"),
        (0.5, 0.0, "0.5"),
        (0.5, math.nan, "0.5"),
        (math.nan, math.nan, "nan"),
    ],
)
def test_numbers_with_errors(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text
