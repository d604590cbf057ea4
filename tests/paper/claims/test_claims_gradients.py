"""Claims about the asymptotic study, on draws whose slopes are known; verdicts as table and text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from claim_rows import configurations
from published_values import published_points
from synthetic_draws import power_law

from ovis.estimators.ids import parse_estimator
from ovis.experiments.reporting.verdict import (
    COLUMNS,
    ClaimStatus,
    ClaimVerdict,
    claims_table,
    claims_text,
    count_verdicts,
)
from ovis.paper.claims.figure1_claims import FIGURE1
from ovis.paper.claims.paper_verdicts import gradient_verdicts
from ovis.paper.figure1.asymptotic_runs import Sample
from ovis.paper.figure1.asymptotic_statistics import measure, slope_table, statistics_table

HOLDS, FAILS, OPEN = ClaimStatus.HOLDS, ClaimStatus.FAILS, ClaimStatus.OPEN

TOY = {"epsilon": 0.01, "D": 20, "npoints": 1024, "q_scale": "std", "seed": 10, "key_filter": "b", "id": ""}

#: SNR and variance, c K^p each as (c, p), by theory; the means of the unbiased ones are the same at every K.
MEAN = 0.1
BIASED = {"ovis-gamma1": (1.0, 0.5), "stl": (1.5, 0.5)}
THEORY = {
    **dict.fromkeys(("ovis-S10-exclusive", "ovis-S50-exclusive", "dreg"), ((1.0, 0.5), (MEAN**2, -3.0))),
    "ovis-gamma0": ((1.1, 0.5), ((MEAN / 1.1) ** 2, -3.0)),
    "ovis-S1-exclusive": ((0.9, 0.5), ((MEAN / 0.9) ** 2, -3.0)),
    "vimco-arithmetic": ((2.0, -0.5), ((MEAN / 2.0) ** 2, -1.0)),
    "pathwise-iwae": ((1.9, -0.5), ((MEAN / 1.9) ** 2, -1.0)),
    **{name: ((c, p), ((3 * MEAN / c) ** 2, -1.0)) for name, (c, p) in BIASED.items()},
    "reinforce": ((0.001, 0.0), (1.0, 1.0)),
}

Law = Mapping[str, tuple[tuple[float, float], tuple[float, float]]]


def tables(laws: Law, toy: Mapping[str, object] = TOY) -> tuple[pd.DataFrame, pd.DataFrame]:
    items = [
        measure(Sample(toy, name, k, np.arange(4000), power_law(k, snr, variance, n=4000, D=5), {}))
        for name, (snr, variance) in laws.items()
        for k in (3, 54, 1000)
    ]
    return statistics_table(items), slope_table(items)


def verdicts(laws: Law) -> dict[str, ClaimVerdict]:
    return {verdict.claim.id: verdict for verdict in gradient_verdicts(*tables(laws))}


def test_what_theory_says_supports_every_claim() -> None:
    result = verdicts(THEORY)
    assert {key: verdict.status for key, verdict in result.items()} == dict.fromkeys(result, HOLDS)
    assert len(result) == len(FIGURE1)
    assert result["snr-ovis-sqrt"].basis == "4,000 draws"
    assert "OVIS~ (γ=0) +0.50" in result["snr-ovis-sqrt"].numbers
    assert "(K = 54, 1000)" in result["snr-ovis-sqrt"].numbers


def test_pathwise_and_ovis_swapped() -> None:
    result = verdicts({**THEORY, "ovis-gamma0": THEORY["pathwise-iwae"], "pathwise-iwae": THEORY["ovis-gamma0"]})
    for key in ("snr-ovis-grows", "snr-ovis-sqrt", "snr-pathwise-falls", "snr-gamma0-best", "variance-ratio"):
        assert result[key].status is FAILS, key
    assert result["snr-vimco-falls"].status is HOLDS
    assert result["snr-ovis-grows"].reason.startswith("3 of 4 comparisons hold (OVIS-MC (S=1): ")
    assert result["snr-ovis-grows"].reason.endswith("), 1 does not (OVIS~ (γ=0): slope of SNR above 0)")


def test_a_slope_of_the_papers_points_grows_but_not_as_a_root() -> None:
    names = ("ovis-gamma0", "ovis-S1-exclusive", "ovis-S10-exclusive", "ovis-S50-exclusive")
    result = verdicts({**THEORY, **dict.fromkeys(names, ((1.0, 0.3), (0.01, -2.6)))})
    assert result["snr-ovis-grows"].status is HOLDS
    assert result["snr-ovis-sqrt"].status is FAILS


def test_what_is_missing_or_noise_leaves_claims_open() -> None:
    few = {name: THEORY[name] for name in ("ovis-gamma0", "vimco-arithmetic")}
    result = verdicts({**few, "pathwise-iwae": ((1e-3, 0.0), (1.0, -1.0))})
    assert result["snr-vimco-falls"].status is HOLDS
    assert (result["snr-pathwise-falls"].status, result["snr-dreg"].status) == (OPEN, OPEN)
    assert result["snr-pathwise-falls"].numbers == "slope of SNR: IWAE noise only"
    assert result["snr-dreg"].numbers == ""
    assert result["snr-dreg"].reason == "open: DReG: slope of SNR +0.5 ± 0.1"
    assert result["snr-dreg"].basis == "0 draws"


def test_each_toy_has_its_verdicts() -> None:
    other = {**TOY, "epsilon": 0.1}
    few = {"vimco-arithmetic": THEORY["vimco-arithmetic"]}
    items = [
        measure(Sample(toy, name, k, np.arange(400), power_law(k, snr, variance, n=400, D=5), {}))
        for toy in (TOY, other)
        for name, (snr, variance) in few.items()
        for k in (3, 54)
    ]
    result = gradient_verdicts(statistics_table(items), slope_table(items))
    assert len(result) == 2 * len(FIGURE1)
    assert {verdict.subject for verdict in result} == {"ε = 0.01", "ε = 0.1"}


@pytest.fixture(scope="module")
def three() -> list[ClaimVerdict]:
    """One of each kind."""
    laws = {name: THEORY[name] for name in ("vimco-arithmetic", "pathwise-iwae")}
    laws["pathwise-iwae"] = ((1.0, 0.5), (1e-2, -1.0))
    result = {verdict.claim.id: verdict for verdict in gradient_verdicts(*tables(laws))}
    return [result[key] for key in ("snr-vimco-falls", "snr-pathwise-falls", "snr-dreg")]


def test_verdicts_as_a_table(three: list[ClaimVerdict]) -> None:
    table = claims_table(three)
    assert tuple(table.columns) == COLUMNS
    assert table["verdict"].tolist() == ["holds", "does not hold", "not enough runs"]
    assert table["basis"].tolist() == ["4,000 draws", "4,000 draws", "0 draws"]
    assert tuple(claims_table([]).columns) == COLUMNS


def test_verdicts_as_text(three: list[ClaimVerdict]) -> None:
    text = claims_text(three)
    assert text.startswith(
        "What the paper says: 3 claims: 1 holds, 1 does not hold, 1 not enough runs\n\nHOLDS  snr-vimco"
    )
    assert "\n\nDOES NOT HOLD  snr-pathwise-falls (Figure 1; 4,000 draws)\n    The SNR of the pathwise IWAE" in text
    assert "    ours: slope of SNR: VIMCO -0." in text
    assert "    paper: theory -.5" in text
    assert max(map(len, text.splitlines())) <= 100
    assert claims_text([]) == ""
    assert count_verdicts([*three[:1], *three[:1], three[1], three[1]]).endswith(
        "2 hold, 2 do not hold, 0 not enough runs"
    )


def test_claims_have_ids_of_their_own_and_ask_for_canonical_estimators() -> None:
    assert len({claim.id for claim in FIGURE1}) == len(FIGURE1)
    for who in configurations(FIGURE1):
        assert parse_estimator(who.estimator).canonical == who.estimator


def test_published_slopes_of_the_variance_are_those_of_the_last_two_points() -> None:
    """The claim's words beside the authors' points, all by the rule by which ours are computed."""
    claim = next(claim for claim in FIGURE1 if claim.id == "variance-order")

    def slope(name: str) -> str:
        *_, before, last = published_points("figure1", name, "variance").values()
        return f"{np.log(last / before) / np.log(1000 / 234):.1f}"

    assert slope("vimco-arithmetic") == slope("pathwise-iwae") == "-1.0"
    assert (
        f"γ=0 {slope('ovis-gamma0')}, S=10 and S=50 {slope('ovis-S10-exclusive')}, VIMCO and IWAE -1.0"
        in claim.published
    )
