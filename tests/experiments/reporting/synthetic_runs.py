"""Synthetic experiments: run folders with known values, as a training and the queue leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The default metric of an experiment's values.
METRIC = "test:loss/L_k"


@dataclass
class Folder:
    """The folder of an experiment that a test fills with runs."""

    path: Path

    @property
    def root(self) -> Path:
        return self.path.parent

    def add(
        self,
        estimator: str,
        values: Sequence[float | None] | Mapping[str, Sequence[float | None]],
        seed: int = 1,
        status: str | None = "success",
        message: str = "",
        **settings: Any,
    ) -> Path:
        """A run with these values at the steps 100, 200, ..., at one second per evaluation.

        Args:
            estimator: its id.
            values: of ``test:loss/L_k``, or of several metrics by name.
            seed: of the run.
            status: of its outcome; None: it has not ended.
            message: of its outcome.
            settings: that differ from the fixture's.
        """
        table = values if isinstance(values, Mapping) else {METRIC: values}
        lines = [
            {"step": 100 * (i + 1), "time": i + 1.0, "epoch": 1.0, **dict(zip(table, row, strict=True))}
            for i, row in enumerate(zip(*table.values(), strict=True))
        ]
        chosen = {"estimator": estimator, "iw": 10, "seed": seed, "id": "", "lr": 1e-3, "root": "runs/", **settings}
        label = f"{chosen['id']}-" if chosen["id"] else ""
        number = len(list(self.path.iterdir()))
        name = f"{label}digits-sbm-{estimator}-iw{chosen['iw']}-seed{seed}-{number:012x}"
        return write_run(self.path / name, chosen, lines, status, message)


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    status: str | None = "success",
    message: str = "",
) -> Path:
    """Write a run folder."""
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
