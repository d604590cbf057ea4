"""Synthetic experiments: run folders with known values, as a training and the queue leave them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    status: str | None = "success",
    message: str = "",
) -> Path:
    """A run folder; ``status`` None: it has not ended."""
    folder.mkdir(parents=True)
    config = {"settings": dict(settings), "run_id": "0", "version": "0.1.0", "device": "cpu"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))
    if status:
        outcome = {"status": status, "attempt": 1, "exit": 0, "signal": None, "message": message, "t": 1.0}
        (folder / "outcome.json").write_text(json.dumps(outcome))
    if status == "success":
        (folder / "success.txt").touch()
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> tuple[Path, Write]:
    """The folder of an experiment, and what puts a run with these settings and values of a metric into it.

    ``add(estimator, values, seed=1, ...)``: the values of ``test:loss/L_k`` at the steps 100, 200, ...; a dictionary
    gives the values of several metrics. The time is a hundredth of the step.
    """
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)

    def add(
        estimator: str, values: Sequence[float] | Mapping[str, Sequence[float]], seed: int = 1, **others: Any
    ) -> Path:
        table = values if isinstance(values, Mapping) else {"test:loss/L_k": values}
        count = len(next(iter(table.values())))
        lines = [
            {
                "step": 100 * (i + 1),
                "time": float(i + 1),
                "epoch": 1.0,
                **{name: column[i] for name, column in table.items()},
            }
            for i in range(count)
        ]
        ending = {name: others.pop(name) for name in ("status", "message") if name in others}
        settings = {"estimator": estimator, "iw": 10, "seed": seed, "id": "", "lr": 1e-3, "root": "runs/", **others}
        name = f"digits-sbm-{estimator}-iw{settings['iw']}-seed{seed}-{len(list(folder.iterdir())):012x}"
        label = f"{settings['id']}-" if settings["id"] else ""
        return write_run(folder / f"{label}{name}", settings, lines, **ending)

    return folder, add
