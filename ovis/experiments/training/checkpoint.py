"""Checkpoints, from which a run resumes as if it had not been interrupted, and the best parameters so far.

Two checkpoints are kept, ``checkpoint.pt`` and its predecessor ``checkpoint.previous.pt``. The newest intact one is
used.

``best.pt`` is a plain state dict, and ``best.json`` contains its step and its checksum. The best step is stored in the
checkpoint, too, and ``best.pt`` may be of another step: of the previous evaluation, if the run was killed between the
two writes, or of an evaluation that was lost with its checkpoint. So ``best.pt`` is used only if ``best.json`` confirms
step and checksum.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovis.experiments.runs.atomic import replace_file, sweep, write_bytes, write_json
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.identity import differences
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.retrying import retry
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.random_state import set_random_states
from ovis.models.model import Model

__all__ = [
    "CheckpointError",
    "Position",
    "check_best",
    "is_best",
    "load_best",
    "load_checkpoint",
    "load_parameters",
    "resume",
    "save_best",
    "save_checkpoint",
]

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A run can't resume from its checkpoints; the message, one line, names them and says what to do."""


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        step: optimizer steps taken.
        seconds: time spent so far, over all attempts.
        best: the best value of the selection metric.
        best_step: the step of that value; -1: none yet.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    best_step: int = -1


def resume(paths: RunPaths, run: TrainingRun) -> Position:
    """Restore the last checkpoint, or start from the first step, and remove the leftovers of an earlier attempt.

    Raises:
        CheckpointError: the run can't resume from its checkpoints.
        OSError: a file can't be read or written.
    """
    sweep(paths.folder)
    position = load_checkpoint(paths, run)
    if position is None:
        for path in (paths.best_mark, paths.best):  # left by another run
            path.unlink(missing_ok=True)
        return Position()
    if position.step == position.best_step:
        save_best(paths, run, position.step)  # the run may have been killed between the checkpoint and this
    else:
        check_best(paths, position)
    return position


def save_checkpoint(paths: RunPaths, run: TrainingRun, position: Position, random: dict[str, Any]) -> None:
    """Write a checkpoint atomically; the current one becomes the previous one.

    Args:
        paths: the run's files.
        run: the run whose parameters and optimizer state are saved.
        position: the position of the run.
        random: the random states to resume with: :func:`~ovis.experiments.training.random_state.random_states`.

    Raises:
        OSError: it could not be written, e.g. because the disk is full; the current one is unchanged.
    """
    state = {
        "settings": _settings(run.settings),
        "model": run.model.state_dict(),
        "estimator": run.estimator.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "position": asdict(position),
        "random": random,
    }
    content = _serialize(state)

    def write() -> None:
        with replace_file(paths.checkpoint) as temporary:
            _write(temporary, content)
            failpoint("checkpoint.temporary")
            # from here to the end of the block there is no checkpoint.pt: the previous one is the newest
            if paths.checkpoint.exists():
                os.replace(paths.checkpoint, paths.previous_checkpoint)
            failpoint("checkpoint.rotated")

    retry(write)
    failpoint("checkpoint.saved")


def load_checkpoint(paths: RunPaths, run: TrainingRun) -> Position | None:
    """Restore the newest intact checkpoint; None if there is none. A corrupt one is renamed to ``*.corrupt``.

    Raises:
        CheckpointError: all of them are corrupt (they are left unchanged), or one has other settings.
        OSError: a file can't be read.
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
        reasons = ", ".join(f"{path}: {reason}" for path, reason in corrupt.items())
        them = "it" if len(corrupt) == 1 else "them"
        raise CheckpointError(f"no whole checkpoint ({reasons}); remove {them} to start from the first step")
    return None


def save_best(paths: RunPaths, run: TrainingRun, step: int) -> None:
    """Write the model's parameters, those at ``step``, as the best ones.

    Raises:
        OSError: they could not be written, e.g. because the disk is full.
    """
    write_bytes(paths.best, _serialize(run.model.state_dict()))
    failpoint("best.written")
    write_json(paths.best_mark, {"step": step, "sha256": _best_digest(paths)})
    failpoint("best.saved")


def is_best(paths: RunPaths, step: int) -> bool:
    """Whether ``best.pt`` is intact and holds the parameters of ``step``."""
    return _best_step(paths) == step


def load_best(paths: RunPaths, run: TrainingRun) -> Model:
    """A copy of the model with the best parameters, on its device; ``run`` itself is unchanged."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(torch.load(paths.best, map_location="cpu", weights_only=True))
    return model


def check_best(paths: RunPaths, position: Position) -> None:
    """Reset the best evaluation if its parameters are lost: after a corrupt checkpoint they may be of a later step."""
    if position.best_step >= 0 and not is_best(paths, position.best_step):
        log.warning("%s is not whole, or not of step %d: the best is chosen anew", paths.best, position.best_step)
        position.best, position.best_step = float("-inf"), -1


def load_parameters(paths: RunPaths) -> dict[str, Tensor]:
    """The model's parameters of a run: the best ones; before its first evaluation, those of its newest checkpoint.

    No file is changed.

    Args:
        paths: the run's files.

    Returns:
        a state dict, on the CPU.

    Raises:
        CheckpointError: there are none, or they are corrupt.
        OSError: a file can't be read.
    """
    if _best_step(paths) is not None:
        best: dict[str, Tensor] = torch.load(paths.best, map_location="cpu", weights_only=True)
        return best
    reasons = []
    for path in (paths.checkpoint, paths.previous_checkpoint):
        if path.exists():
            try:
                parameters: dict[str, Tensor] = _read(path)["model"]
                return parameters
            except (_Corrupt, KeyError, TypeError) as error:
                reasons.append(f"{path.name}: {error}")
    raise CheckpointError(
        f"{paths.folder} has no whole best.pt and no whole checkpoint.pt"
        + (f" ({', '.join(reasons)})" if reasons else ": it is not trained yet")
    )


class _Corrupt(ValueError):
    """A file is not an intact checkpoint."""


def _serialize(state: dict[str, Any]) -> memoryview:
    """The content of a file, made in memory: torch's file writer raises no OSError when the disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def _write(path: Path, content: memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a full disk is noticed before any file is moved


def _read(path: Path) -> dict[str, Any]:
    try:
        # torch.load doesn't verify the checksums that torch.save writes, so a flipped bit would become a parameter
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise _Corrupt(f"wrong checksum in {damaged}")
    except (OSError, MemoryError, _Corrupt):
        raise
    except Exception as error:  # zipfile reports a broken file in half a dozen ways
        raise _Corrupt(_first_line(error)) from error
    try:
        # loaded to the CPU, because running out of GPU memory must not look like a corrupt file
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch's messages advise programmers on the options of torch.load
        raise _Corrupt(f"torch can't load it ({type(error).__name__})") from error
    return state


def _restore(state: dict[str, Any], run: TrainingRun, path: Path) -> Position:
    try:
        _compare(state["settings"], _settings(run.settings))
        run.model.load_state_dict(state["model"])
        run.estimator.load_state_dict(state["estimator"])
        run.optimizer.load_state_dict(state["optimizer"])
        set_random_states(state["random"], run.device)
        return Position(**state["position"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__} {_first_line(error)}" if isinstance(error, KeyError) else _first_line(error)
        raise CheckpointError(f"{path} is not of this run: {reason}; use another folder, or remove it") from error


def _settings(settings: TrainSettings) -> dict[str, Any]:
    """The options that must be equal for a run to resume; its length may change."""
    return {name: value for name, value in differences(settings).items() if name not in ("epochs", "nsteps")}


def _compare(saved: dict[str, Any], current: dict[str, Any]) -> None:
    names = [name for name in sorted(saved.keys() | current.keys()) if saved.get(name) != current.get(name)]
    if names:
        options = ", ".join(f"--{name} {saved.get(name, getattr(TrainSettings, name, None))}" for name in names)
        raise ValueError(f"it has {options}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _best_step(paths: RunPaths) -> int | None:
    """The step of ``best.pt``, from ``best.json``; None if it is missing, or is not what that describes."""
    try:
        mark = json.loads(paths.best_mark.read_text(encoding="utf-8"))
        return int(mark["step"]) if mark["sha256"] == _best_digest(paths) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _best_digest(paths: RunPaths) -> str:
    return hashlib.sha256(paths.best.read_bytes()).hexdigest()
