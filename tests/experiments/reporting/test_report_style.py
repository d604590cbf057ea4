"""One look per estimator: distinct, stable, and readable without colour."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations, pairwise

import matplotlib
import pandas as pd
import pytest

from ovis.estimators.ids import ESTIMATORS
from ovis.experiments.reporting.figures.series import legend_looks, make_series
from ovis.experiments.reporting.figures.style import (
    Look,
    estimator_look,
    estimator_looks,
    house_style,
    is_budgeted,
)

QUICKSTART = ("reinforce", "vimco", "rws", "tvo-part2-config1", "ovis-gamma0", "ovis-gamma1", "ovis-S10-exclusive")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ovis-gamma1", "OVIS~ (γ=1)"),
        ("ovis-gamma0.5", "OVIS~ (γ=0.5)"),
        ("ovis-S10-exclusive", "OVIS-MC (S=10)"),
        ("ovis-S7-exclusive", "OVIS-MC (S=7)"),
        ("ovis-S0.3", "OVIS-MC (S=0.3K, budget)"),
        ("ovis-S10", "OVIS-MC (S=10, budget)"),
        ("vimco", "VIMCO"),
        ("vimco-arithmetic", "VIMCO"),
        ("vimco-geometric", "VIMCO (geometric)"),
        ("tvo-part5-config2", "TVO"),
        ("rws", "RWS"),
        ("reinforce", "REINFORCE"),
        ("iwae", "IWAE"),
        ("dreg", "DReG"),
        ("of-another-version", "of-another-version"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert estimator_look(name).label == label


#: Of families that are part of their ids only.
EXAMPLES = {
    "ovis-gamma": "ovis-gamma0.3",
    "ovis-S": "ovis-S3",
    "tvo": "tvo-part2-config1",
    "wake-mix": "wake-mix0.5",
    "ciwae": "ciwae-beta0.05",
    "piwae": "piwae-vimco",
    "mixed": "vimco+iwae",
}


@pytest.mark.parametrize("family", ESTIMATORS)
def test_every_family_has_a_look_of_its_own(family: str) -> None:
    name = EXAMPLES.get(family, family)
    assert estimator_look(name).label != name  # the fallback writes the id


def test_no_two_looks_of_the_table_are_alike() -> None:
    names = [name for family, row in ESTIMATORS.items() for name in (row.lines or [EXAMPLES.get(family, family)])]
    for one, other in combinations(map(estimator_look, names), 2):
        assert one.color != other.color
        assert one.label != other.label
        assert (one.marker, one.dash) != (other.marker, other.dash), f"{one.label} and {other.label} in grey"


@pytest.mark.parametrize("attribute", ["marker", "dash"])
def test_quickstart_is_distinguishable_without_colour(attribute: str) -> None:
    assert len({getattr(estimator_look(name), attribute) for name in QUICKSTART}) == len(QUICKSTART)


def test_quickstart_is_distinguishable_for_colour_blind_readers() -> None:
    for one, other in combinations(map(estimator_look, QUICKSTART), 2):
        for kind in ("protanopia", "deuteranopia"):
            distance = sum((a - b) ** 2 for a, b in zip(seen(one, kind), seen(other, kind), strict=True)) ** 0.5
            assert distance > 0.2, f"{one.label} and {other.label}: {distance:.3f} ({kind})"


#: Linear RGB as a dichromat sees it (Machado, Oliveira and Fernandes 2009, severity 1).
MACHADO = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}


def seen(look: Look, kind: str) -> tuple[float, ...]:
    """The look's colour in sRGB, as this reader sees it."""
    channels = [int(look.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    mixed = (sum(a * b for a, b in zip(row, linear, strict=True)) for row in MACHADO[kind])
    return tuple(max(0.0, min(1.0, 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055)) for c in mixed)


SHARES = ("ovis-S0.1", "ovis-S0.2", "ovis-S0.3", "ovis-S0.5", "ovis-S0.7")


def lightness(look: Look) -> float:
    """CIE L*, from 0 (black) to 100 (white)."""
    channels = [int(look.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_shares_of_a_budget_are_distinguishable_in_grey_and_by_dashes() -> None:
    looks = [estimator_look(name) for name in SHARES]
    assert len({look.dash for look in looks}) == len(SHARES)
    assert {look.marker for look in looks} == {"^"}
    levels = [lightness(look) for look in looks]
    assert levels[0] > 80
    assert levels[-1] < 30
    assert all(light - dark > 10 for light, dark in pairwise(levels))
    assert lightness(looks[1]) > lightness(estimator_look("ovis-S0.25")) > lightness(looks[3])


@pytest.mark.parametrize(
    ("names", "budgeted"),
    [
        (["ovis-gamma1", "ovis-S0.3"], True),
        (["ovis-S10"], True),
        (["ovis-gamma1", "ovis-S10-exclusive", "vimco", "of-another-version"], False),
    ],
)
def test_which_estimators_share_a_budget(names: list[str], budgeted: bool) -> None:
    assert is_budgeted(names) is budgeted


def test_looks_that_share_a_label_are_distinguishable() -> None:
    looks = estimator_looks(["tvo-part2-config1-left", "tvo-part5-config2-left", "wake-wake"])
    assert [look.label for look in looks.values()] == ["TVO (part2-config1-left)", "TVO (part5-config2-left)", "RWS"]
    colors = {look.color for look in looks.values()}
    assert len(colors) == 3


def test_an_unknown_id_looks_the_same_in_every_process() -> None:
    code = "from ovis.experiments.reporting.figures.style import estimator_look; print(estimator_look('next'))"
    prints = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert prints == {f"{estimator_look('next')}\n"}


def test_the_style_stays_in_its_block() -> None:
    before = dict(matplotlib.rcParams)
    with house_style():
        assert matplotlib.rcParams["axes.facecolor"] == "0.96"
    assert dict(matplotlib.rcParams) == before


def test_settings_that_do_not_vary_are_not_in_the_labels() -> None:
    table = pd.DataFrame({"estimator": ["vimco-arithmetic", "wake-wake"], "iw": [10, 10]})
    series = make_series(table, ["estimator", "iw"])
    assert [item.look for item in series] == [estimator_look("vimco"), estimator_look("rws")]


def test_estimators_by_colour_and_particles_by_dashes() -> None:
    rows = [(name, iw) for name in ("vimco-arithmetic", "wake-wake") for iw in (50, 5, 10)]
    series = make_series(pd.DataFrame(rows, columns=["estimator", "iw"]), ["estimator", "iw"])
    labels = [item.look.label for item in series]
    assert labels == ["VIMCO, K=50", "VIMCO, K=5", "VIMCO, K=10", "RWS, K=50", "RWS, K=5", "RWS, K=10"]
    assert {item.look.color for item in series[:3]} == {estimator_look("vimco").color}
    dashes = {item.rest: item.look.dash for item in series}
    assert dashes["K=50"] == (0, ())  # the largest is solid
    assert len(set(dashes.values())) == 3
    assert [look.label for look in legend_looks(series)] == labels


def test_a_long_legend_names_estimators_and_settings_apart() -> None:
    rows = [(name, iw) for name in QUICKSTART[2:] for iw in (50, 10, 5)]
    series = make_series(pd.DataFrame(rows, columns=["estimator", "iw"]), ["estimator", "iw"])
    labels = [look.label for look in legend_looks(series)]
    names = [estimator_look(name).label for name in QUICKSTART[2:]]
    assert labels == [*names, "K=5", "K=10", "K=50"]


def test_one_estimator_under_several_settings() -> None:
    groups = pd.DataFrame({"estimator": ["vimco-arithmetic"] * 3, "lr": [0.1, 0.01, None]})
    series = make_series(groups, ["estimator", "lr"])
    assert [item.look.label for item in series] == ["lr=0.1", "lr=0.01", "lr=?"]
    assert len({item.look.color for item in series}) == 3
    assert len({item.look.marker for item in series}) == 3


def test_no_keys_at_all() -> None:
    table = pd.DataFrame({"estimator": ["vimco-arithmetic", "wake-wake"]})
    assert [item.look.label for item in make_series(table, [])] == ["all runs"]
