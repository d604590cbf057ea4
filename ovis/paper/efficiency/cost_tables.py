"""The costs of a training step: measured points, and their statistics next to the published ones.

The points lie in a file of JSON lines, one added as soon as it is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ovis.experiments.reporting.figures.style import estimator_labels, style_order
from ovis.experiments.reporting.tables import ABSENT
from ovis.experiments.runs.atomic import append
from ovis.paper.published.published_numbers import read_published

__all__ = [
    "COLUMNS",
    "MEASURES",
    "RECORDED",
    "add_point",
    "cost_table",
    "cost_text",
    "growth_table",
    "known_limits",
    "last_devices",
    "limit_text",
    "read_points",
    "repetitions_text",
]

#: Columns of a point. Device, estimator, K, seed and steps identify it; ``state`` is ok, memory, time or failed.
COLUMNS = ("device", "estimator", "model", "iw", "seed", "steps", "state", "message", "memory_mb", "epoch_s", "data")

#: Further columns on the environment, which older points may lack.
RECORDED = ("torch", "python", "version", "hostname")

#: Measure -> its title and unit.
MEASURES = {"memory_mb": ("Peak memory", "MB"), "epoch_s": ("Time of an epoch", "s")}

#: The estimator that the others are compared with.
REFERENCE = "ovis-gamma1"


def add_point(path: Path, point: Mapping[str, Any]) -> None:
    """Add a point, keyed by :data:`COLUMNS`, at the end of the file; it has been written to disk when this returns.

    Raises:
        OSError: nothing was added.
    """
    written = path.read_bytes() if path.exists() else b""
    # A kill may have left a line without its end: it is lost, but must not swallow the new one.
    torn = written != b"" and not written.endswith(b"\n")
    append(path, (b"\n" if torn else b"") + json.dumps(dict(point)).encode() + b"\n")


def read_points(path: Path) -> pd.DataFrame:
    """All points of a file, columns :data:`COLUMNS` and :data:`RECORDED`; incomplete and foreign lines are skipped.

    Of a point that was measured twice (one that failed was tried again) the later one counts.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    points = [point for point in map(_point, lines) if point is not None]
    table = pd.DataFrame(points, columns=[*COLUMNS, *RECORDED])
    return table.drop_duplicates(["device", "estimator", "iw", "seed", "steps"], keep="last").reset_index(drop=True)


def _point(line: bytes) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) and set(COLUMNS) <= set(point) else None


def known_limits(points: pd.DataFrame, device: str) -> dict[str, int]:
    """Estimator -> the smallest K that exceeded the device's memory or the time limit."""
    beyond = points[(points["device"] == device) & points["state"].isin(["memory", "time"])]
    return {str(name): int(rows["iw"].min()) for name, rows in beyond.groupby("estimator")}


def last_devices(points: pd.DataFrame, device: str) -> list[str]:
    """The device, and the most recently measured one of each other kind (``cpu: ...``, ``cuda: ...``)."""
    good = points[points["state"] == "ok"]
    last = {str(name).partition(":")[0]: str(name) for name in good["device"]} | {device.partition(":")[0]: device}
    return [device, *(name for name in last.values() if name != device)]


def cost_table(points: pd.DataFrame, device: str) -> pd.DataFrame:
    """Mean over repetitions, with a band of half a standard deviation.

    Where an estimator's K was measured with several numbers of steps, those with most steps count.

    Args:
        points: see :func:`read_points`.
        device: whose.

    Returns:
        one row per measure, estimator and K: ``measure`` (a key of :data:`MEASURES`), ``estimator, model, iw, mean,
        std`` (NaN for one repetition), ``low, high`` (mean -+ std / 2), ``runs, steps, published`` (NaN where there is
        none).
    """
    good = points[(points["device"] == device) & (points["state"] == "ok")]
    largest = good.groupby(["estimator", "iw"])["steps"].transform("max")
    long = good[good["steps"] == largest].melt(
        id_vars=["estimator", "model", "iw", "steps"], value_vars=list(MEASURES), var_name="measure"
    )
    keys = ["measure", "estimator", "model", "iw", "steps"]
    table = long.astype({"value": float}).groupby(keys)["value"].agg(["mean", "std", "count"]).reset_index()
    table["low"], table["high"] = table["mean"] - table["std"] / 2, table["mean"] + table["std"] / 2
    table = table.merge(read_published("efficiency"), how="left", on=["measure", "estimator", "iw"])
    table["_order"] = table["estimator"].map(style_order)
    table["_measure"] = table["measure"].map(list(MEASURES).index)
    table = table.sort_values(["_measure", "_order", "iw"]).rename(columns={"count": "runs"})
    columns = ["measure", "estimator", "model", "iw", "mean", "std", "low", "high", "runs", "steps", "published"]
    return table[columns].reset_index(drop=True)


def growth_table(costs: pd.DataFrame) -> pd.DataFrame:
    """Growth of the costs: the exponent of K between the two largest K, and the ratio to OVIS~ (gamma = 1) at the last.

    Both are free of most of what differs between machines.

    Returns:
        columns ``measure, estimator, iw`` (the largest), ``exponent, ratio`` and the same of the published costs at
        the same K, ``published_exponent, published_ratio``; NaN where there are none.
    """
    rows = []
    for (measure, estimator), part in costs.groupby(["measure", "estimator"], sort=False):
        last = part.tail(1)
        reference = costs[
            (costs["measure"] == measure) & (costs["estimator"] == REFERENCE) & (costs["iw"] == last["iw"].iloc[0])
        ]
        row = {"measure": measure, "estimator": estimator, "iw": int(last["iw"].iloc[0])}
        for prefix, column in (("", "mean"), ("published_", "published")):
            row[f"{prefix}exponent"] = _exponent(part.tail(2), column)
            row[f"{prefix}ratio"] = (
                float(last[column].iloc[0] / reference[column].iloc[0]) if len(reference) else math.nan
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _exponent(rows: pd.DataFrame, column: str) -> float:
    values, iw = rows[column].to_numpy(float), rows["iw"].to_numpy(float)
    if len(rows) < 2 or not (values > 0).all():
        return math.nan
    return math.log(values[1] / values[0]) / math.log(iw[1] / iw[0])


#: Notes on the published numbers, by device.
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
        costs: see :func:`ovis.paper.efficiency.cost_tables.cost_table`.
        device: whose they are, ``cpu: ...`` or ``cuda: ...``.
    """
    parts = [f"on {device}; {repetitions_text(costs)}"]
    for measure, (title, unit) in MEASURES.items():
        parts.append(f"{title} [{unit}]\n{_grid(costs[costs['measure'] == measure])}")
    parts += [NOTES["cuda" if device.startswith("cuda") else "cpu"], _growth(costs)]
    return "\n\n".join(parts) + "\n"


def limit_text(points: pd.DataFrame, device: str) -> str:
    """For each estimator the smallest K that exceeded the memory or time limit, in one line; empty if none did."""
    beyond = points[(points["device"] == device) & points["state"].isin(["memory", "time"])]
    first = beyond.sort_values("iw").drop_duplicates("estimator")
    rows = zip(estimator_labels(first["estimator"]), first["state"], first["iw"], strict=True)
    return ", ".join(f"{label} out of {state} from K = {k} on" for label, state, k in rows)


def repetitions_text(costs: pd.DataFrame) -> str:
    """``one repetition``, ``mean of 3 repetitions``, ``mean of 1 to 3 repetitions``."""
    low, high = int(costs["runs"].min()), int(costs["runs"].max())
    return "one repetition" if high == 1 else f"mean of {high if low == high else f'{low} to {high}'} repetitions"


def _grid(costs: pd.DataFrame) -> str:
    names = list(dict.fromkeys(costs["estimator"]))
    cells = {(row["estimator"], row["iw"]): _cell(row["mean"], row["published"]) for row in costs.to_dict("records")}
    iw = sorted(costs["iw"].unique())
    labels = zip(estimator_labels(names), names, strict=True)
    columns = {label: [cells.get((name, k), ABSENT) for k in iw] for label, name in labels}
    return pd.DataFrame({"K": iw, **columns}).to_string(index=False)


def _cell(measured: float, published: float) -> str:
    return _short(measured) if math.isnan(published) else f"{_short(measured)} / {_short(published)}"


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _growth(costs: pd.DataFrame) -> str:
    growth = growth_table(costs)
    shown = pd.DataFrame(
        {
            "": estimator_labels(growth["estimator"]),
            "of": [MEASURES[name][0].lower() for name in growth["measure"]],
            "at K": growth["iw"],
            "exponent": _both(growth["exponent"], growth["published_exponent"]),
            "to OVIS~ (γ=1)": _both(growth["ratio"], growth["published_ratio"]),
        }
    )
    head = "Growth, ours / paper: the exponent of K between the two largest K, and the ratio to OVIS~ (γ=1)"
    return f"{head}\n{shown.to_string(index=False)}"


def _both(measured: pd.Series[float], published: pd.Series[float]) -> list[str]:
    pairs = zip(measured, published, strict=True)
    return [ABSENT if math.isnan(a) else f"{a:.2f}" if math.isnan(b) else f"{a:.2f} / {b:.2f}" for a, b in pairs]
