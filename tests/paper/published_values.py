"""The published numbers, keyed as tests ask for them."""

from __future__ import annotations

from ovis.paper.figure3.figure3_tables import FINAL_STEP
from ovis.paper.published.published_numbers import read_published


def published_points(source: str, estimator: str, statistic: str) -> dict[int, float]:
    """Figure 1: K -> the published value."""
    table = read_published("figure1").set_index(["source", "estimator", "statistic"]).sort_index()
    rows = table.loc[(source, estimator, statistic)]
    return dict(zip(rows["iw"], rows["published"], strict=True))


def published_final(panel: str) -> dict[tuple[str, int], float]:
    """Figure 3: (estimator, K) -> the value at the last step."""
    table = read_published("figure3")
    rows = table[(table["panel"] == panel) & (table["step"] == FINAL_STEP)]
    return {(e, k): v for e, k, v in zip(rows["estimator"], rows["iw"], rows["published"], strict=True)}


def published_costs() -> dict[tuple[str, str, int], float]:
    """Efficiency: (measure, estimator, K) -> the published value."""
    columns = read_published("efficiency")[["measure", "estimator", "iw", "published"]]
    return {(m, e, k): v for m, e, k, v in columns.itertuples(index=False, name=None)}
