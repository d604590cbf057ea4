"""Checkpoints: all that a run needs to go on as if it had not stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ovis.runner.atomic import replace_file
from ovis.training.build import Run

__all__ = ["Position", "load_checkpoint", "save_checkpoint", "save_model"]


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        step: optimizer steps taken.
        seconds: time spent so far, over all attempts.
        best: the best value of the selection metric.
        best_step: where it was reached.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    best_step: int = -1


def save_checkpoint(path: Path, run: Run, position: Position) -> None:
    """Write parameters, optimizer, position and random states, whole or not at all."""
    cuda = torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None
    state = {
        "model": run.model.state_dict(),
        "estimator": run.estimator.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "position": asdict(position),
        "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
    }
    with replace_file(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, run: Run) -> Position:
    """Restore what :func:`save_checkpoint` wrote.

    Raises:
        ValueError: the file can't be read, or is of another model.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=run.device, weights_only=True)
        run.model.load_state_dict(state["model"])
        run.estimator.load_state_dict(state["estimator"])
        run.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if run.device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu(), run.device)
        return Position(**state["position"])
    except Exception as error:  # torch reports a broken file in half a dozen ways
        raise ValueError(f"can't resume from {path}: {error}; remove it to start from the first step") from error


def save_model(path: Path, run: Run) -> None:
    """Write the model's parameters alone, whole or not at all."""
    with replace_file(path) as temporary:
        torch.save(run.model.state_dict(), temporary)
