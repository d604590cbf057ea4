"""The published numbers: spot checks against the notes, canonical ids, and the tables of docs/results.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from published_values import published_costs, published_final

from ovis.estimators.ids import parse_estimator
from ovis.experiments.reporting.figures.style import estimator_look
from ovis.paper.efficiency.cost_measurement import IW
from ovis.paper.figure1.asymptotic_tables import HEADINGS
from ovis.paper.figure3.figure3_tables import FINAL_STEP
from ovis.paper.published.published_numbers import read_published

RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.mark.parametrize("figure", ["figure1", "figure2", "figure3", "efficiency"])
def test_ids_are_canonical_and_values_are_given_once(figure: str) -> None:
    table = read_published(figure)
    assert all(parse_estimator(name).canonical == name for name in table["estimator"].unique())
    assert table["published"].notna().all()
    assert not table.drop(columns="published").duplicated().any()


def test_every_published_value_of_figure_1_is_there() -> None:
    table = read_published("figure1")
    assert len(table) == 5 * (6 + 5) + 5 * 4 * 5 + 3 * 6
    assert (table["published"] > 0).all()
    assert not table.duplicated(["source", "estimator", "statistic", "iw"]).any()
    cells = table.set_index(["source", "estimator", "statistic", "iw"])
    for key, value, accuracy in (
        (("figure1", "ovis-gamma0", "snr", 1000), 15.7, 0.04),
        (("figure1", "vimco-arithmetic", "variance", 234), 1.05e-5, 0.04),
        (("extended", "dreg", "snr", 12), 4.0, 0.05),
        (("extended", "stl", "dsnr", 3), 6.5, 0.02),
        (("mini", "pathwise-iwae", "magnitude", 100), 0.0018, 0.05),
    ):
        assert tuple(cells.loc[key, ["published", "accuracy"]]) == (value, accuracy)


def test_the_published_numbers_of_figure_3() -> None:
    left, right = published_final("left"), published_final("right")
    assert (len(left), len(right)) == (18, 15)
    assert (left["ovis-S50-exclusive", 5], left["ovis-gamma1", 50]) == (-89.25, -86.72)
    assert (right["tvo-part2-config1-left", 50], right["ovis-S1-exclusive", 50]) == (-87.02, -86.53)
    # More particles are better, and the curve on its way lies below its end.
    for values in (left, right):
        assert all(values[name, 5] < values[name, 10] < values[name, 50] for name, _ in values)
    table = read_published("figure3")
    for (panel, *key), curve in table[table["step"] < FINAL_STEP].groupby(["panel", "estimator", "iw"]):
        assert curve["published"].is_monotonic_increasing
        assert curve["published"].max() < published_final(panel)[tuple(key)]


def test_the_published_costs() -> None:
    known = published_costs()
    assert len(known) == 79  # one cannot be read
    assert ("epoch_s", "vimco-arithmetic", 158) not in known
    assert [known["memory_mb", "ovis-gamma1", k] for k in IW] == [12, 17.9, 31.4, 58.7, 112, 220, 432, 858, 1705, 3390]
    assert [known["epoch_s", "ovis-gamma1", k] for k in IW] == [17.9, 18.2, 18.1, 18.1, 20.3, 29.3, 50.5, 94, 185, 359]
    assert known["memory_mb", "vimco-arithmetic", 5000] == 11_200
    assert all(known["memory_mb", "reinforce", k] == known["memory_mb", "tvo-part2-config1-left", k] for k in IW)


def published_in_docs(heading: str) -> dict[tuple[str, int], float]:
    """(label, K) -> the published number in the table below a heading of docs/results.md."""
    text = RESULTS.read_text(encoding="utf-8")
    table = text[text.index(heading) :].split("\n\n")[1].splitlines()
    counts = [int(cell) for cell in re.findall(r"\d+", table[0])]
    result = {}
    for line in table[2:]:
        label, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for iw, cell in zip(counts, cells, strict=True):
            parts = cell.split(" / ")  # ours / published / difference
            if len(parts) > 1:
                result[label.removesuffix(" (!)"), iw] = float(parts[1].lstrip("~"))
    return result


def test_docs_state_the_published_numbers_of_figure_1() -> None:
    table = read_published("figure1")
    headings = {"figure1": "**{}**, Figure 1 of the paper", "extended": "**{}**, extended figure"}
    names = {**HEADINGS, "magnitude": "|E g|"}
    for (source, statistic), rows in table[table["source"] != "mini"].groupby(["source", "statistic"]):
        labels = [estimator_look(name).label for name in rows["estimator"]]
        wanted = dict(zip(zip(labels, rows["iw"], strict=True), rows["published"], strict=True))
        assert published_in_docs(headings[source].format(names[statistic])) == wanted


def test_docs_state_the_published_numbers_of_figure_2() -> None:
    headings = {
        "min:test:gmm/posterior_mse": "**Smallest L2 error of the posterior**",
        "min:test:gmm/prior_mse": "**Smallest L2 error of the prior**",
        "mean:train:grads/snr": "**Mean SNR**",
    }
    for metric, rows in read_published("figure2").groupby("metric"):
        labels = [estimator_look(name).label for name in rows["estimator"]]
        wanted = dict(zip(zip(labels, rows["iw"], strict=True), rows["published"], strict=True))
        assert published_in_docs(headings[metric]) == wanted
