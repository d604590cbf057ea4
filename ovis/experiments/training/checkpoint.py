"""Checkpoints: all that a run needs to go on as if it had not stopped.

Two are kept: ``checkpoint.pt``, and ``checkpoint.previous.pt``, the one before. The newest that is whole is used.
"""

from __future__ import annotations

import io
import logging
import os
import random
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovis.experiments.runs.atomic import replace_file
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.identity import differences
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import Run

__all__ = [
    "CheckpointError",
    "Position",
    "load_checkpoint",
    "random_states",
    "save_checkpoint",
    "save_model",
    "set_random_states",
]

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A run that can't go on from its checkpoints: one line that names them and what to do."""


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


def save_checkpoint(paths: RunPaths, run: Run, position: Position) -> None:
    """Write parameters, optimizer, position and random states, whole or not at all; the last one becomes the previous.

    Raises:
        OSError: not written, a full disk perhaps; the last one is as it was.
    """
    state = {
        "settings": _settings(run.settings),
        "model": run.model.state_dict(),
        "estimator": run.estimator.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "position": asdict(position),
        "random": random_states(run.device),
    }
    with replace_file(paths.checkpoint) as temporary:
        _write(temporary, state)
        failpoint("checkpoint.temporary")
        # from here to the end of the block there is no checkpoint.pt: the previous one is the newest
        if paths.checkpoint.exists():
            os.replace(paths.checkpoint, paths.previous_checkpoint)
        failpoint("checkpoint.rotated")
    failpoint("checkpoint.saved")


def load_checkpoint(paths: RunPaths, run: Run) -> Position | None:
    """Restore the newest whole checkpoint; None where there is none. A corrupt one is set aside, as ``*.corrupt``.

    Raises:
        CheckpointError: all that are there are corrupt (they stay where they are), or one is of other settings.
        OSError: a file that can't be read.
    """
    corrupt: dict[Path, str] = {}
    for path in (paths.checkpoint, paths.previous_checkpoint):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except _Corrupt as error:
            corrupt[path] = str(error)
            continue
        position = _restore(state, run, path)
        for bad, reason in corrupt.items():
            os.replace(bad, f"{bad}.corrupt")
            log.warning("%s.corrupt: %s; going on from %s, step %d", bad, reason, path.name, position.step)
        return position
    if corrupt:
        told = ", ".join(f"{path}: {reason}" for path, reason in corrupt.items())
        raise CheckpointError(f"no whole checkpoint ({told}); remove {_it(corrupt)} to start from the first step")
    return None


def save_model(path: Path, run: Run) -> None:
    """Write the model's parameters alone, whole or not at all."""
    with replace_file(path) as temporary:
        _write(temporary, run.model.state_dict())


class _Corrupt(ValueError):
    """Why a file is no whole checkpoint."""


def _write(path: Path, state: dict[str, Any]) -> None:
    # by way of memory: where the disk is full, torch's own writer raises no OSError
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with path.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # what the disk has no room for is known before anything is moved


def _read(path: Path) -> dict[str, Any]:
    try:
        # torch.load takes a flipped bit for a parameter: it skips the checksums that it has written
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise _Corrupt(f"wrong checksum in {damaged}")
        # to the CPU: a lack of the GPU's memory is not the file's fault
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError, _Corrupt):
        raise
    except Exception as error:  # zipfile and torch report a broken file in a dozen ways
        raise _Corrupt(_first_line(error)) from error
    return state


def _restore(state: dict[str, Any], run: Run, path: Path) -> Position:
    try:
        _compare(state["settings"], _settings(run.settings))
        run.model.load_state_dict(state["model"])
        run.estimator.load_state_dict(state["estimator"])
        run.optimizer.load_state_dict(state["optimizer"])
        set_random_states(state["random"], run.device)
        return Position(**state["position"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        told = f"{type(error).__name__} {_first_line(error)}" if isinstance(error, KeyError) else _first_line(error)
        raise CheckpointError(f"{path} is not of this run: {told}; use another folder, or remove it") from error


def _settings(settings: TrainSettings) -> dict[str, Any]:
    """What has to be equal for a run to go on; its length may be changed."""
    return {name: value for name, value in differences(settings).items() if name not in ("epochs", "nsteps")}


def _compare(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    names = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    if names:
        told = ", ".join(f"--{name} {theirs.get(name, getattr(TrainSettings, name, None))}" for name in names)
        raise ValueError(f"it has {told}")


def random_states(device: torch.device) -> dict[str, Any]:
    """All global ones: training draws from torch's, a library may draw from the others."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Bring all global ones to where :func:`random_states` has found them."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _it(paths: dict[Path, str]) -> str:
    return "it" if len(paths) == 1 else "them"
