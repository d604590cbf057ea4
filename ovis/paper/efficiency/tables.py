"""The costs of a training step as text: ours beside the published ones, and how they grow."""

from __future__ import annotations

import math

import pandas as pd

from ovis.experiments.reporting.figures.style import estimator_looks
from ovis.paper.efficiency.points import MEASURES, growth_table

__all__ = ["cost_text", "limit_text", "repetitions_text"]

ABSENT = "-"

#: What the authors' numbers are, beside ours.
NOTES = {
    "cuda": (
        "ours / paper. Paper: another GPU, of 2020, and the authors' code (efficiency.png, read to 2 to 5 %). Memory: "
        "the largest allocation of tensors, without the data set."
    ),
    "cpu": (
        "ours / paper. Paper: a GPU of 2020 and the authors' code (efficiency.png); none is published of a CPU: only "
        "growth and ratios compare. Memory: pages in memory beyond those of torch, data and parameters."
    ),
}


def cost_text(costs: pd.DataFrame, device: str) -> str:
    """A table for each measure, one row per K and one column per estimator; then exponents and ratios.

    Args:
        costs: see :func:`ovis.paper.efficiency.points.cost_table`.
        device: whose they are, ``cpu: ...`` or ``cuda: ...``.
    """
    parts = [f"on {device}; {repetitions_text(costs)}"]
    for measure, (title, unit) in MEASURES.items():
        parts.append(f"{title} [{unit}]\n{_grid(costs[costs['measure'] == measure])}")
    parts += [NOTES["cuda" if device.startswith("cuda") else "cpu"], _growth(costs)]
    return "\n\n".join(parts) + "\n"


def limit_text(points: pd.DataFrame, device: str) -> str:
    """From which K on an estimator was too much for the device: one line, empty where none was."""
    beyond = points[(points["device"] == device) & points["state"].isin(["memory", "time"])]
    names = estimator_looks(dict.fromkeys(beyond["estimator"]))
    first = beyond.sort_values("iw").drop_duplicates("estimator")
    return ", ".join(
        f"{names[row['estimator']].label} out of {row['state']} from K = {row['iw']} on"
        for row in first.to_dict("records")
    )


def repetitions_text(costs: pd.DataFrame) -> str:
    """``one repetition``, ``mean of 3 repetitions``, ``mean of 1 to 3 repetitions``."""
    low, high = int(costs["runs"].min()), int(costs["runs"].max())
    return "one repetition" if high == 1 else f"mean of {high if low == high else f'{low} to {high}'} repetitions"


def _grid(costs: pd.DataFrame) -> str:
    names = list(dict.fromkeys(costs["estimator"]))
    looks = estimator_looks(names)
    cells = {(row["estimator"], row["iw"]): _cell(row["mean"], row["published"]) for row in costs.to_dict("records")}
    iw = sorted(costs["iw"].unique())
    columns = {looks[name].label: [cells.get((name, k), ABSENT) for k in iw] for name in names}
    return pd.DataFrame({"K": iw, **columns}).to_string(index=False)


def _cell(ours: float, published: float) -> str:
    return _short(ours) if math.isnan(published) else f"{_short(ours)} / {_short(published)}"


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _growth(costs: pd.DataFrame) -> str:
    growth = growth_table(costs)
    looks = estimator_looks(dict.fromkeys(growth["estimator"]))
    shown = pd.DataFrame(
        {
            "": [looks[name].label for name in growth["estimator"]],
            "of": [MEASURES[name][0].lower() for name in growth["measure"]],
            "at K": growth["iw"],
            "exponent": _both(growth["exponent"], growth["published_exponent"]),
            "to OVIS~ (γ=1)": _both(growth["ratio"], growth["published_ratio"]),
        }
    )
    head = "Growth, ours / paper: the exponent of K between the two largest K, and the ratio to OVIS~ (γ=1)"
    return f"{head}\n{shown.to_string(index=False)}"


def _both(ours: pd.Series[float], published: pd.Series[float]) -> list[str]:
    pairs = zip(ours, published, strict=True)
    return [ABSENT if math.isnan(a) else f"{a:.2f}" if math.isnan(b) else f"{a:.2f} / {b:.2f}" for a, b in pairs]
