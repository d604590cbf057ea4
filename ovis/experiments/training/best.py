"""The best parameters so far: ``best.pt``, a plain state dict, and ``best.json``, which says of which step it is.

The checkpoint knows which step is the best; ``best.pt`` may hold another one's parameters: of the evaluation before,
where the run was killed between the two, or of one that was lost with its checkpoint. So they are taken for the best
only where ``best.json`` says so, and for nobody's where the two files do not fit.
"""

from __future__ import annotations

import copy
import hashlib
import json

import torch

from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.training.build import Run
from ovis.experiments.training.checkpoint import save_model
from ovis.models.template import ParticleModel

__all__ = ["best_model", "is_best", "remove_best", "save_best"]


def save_best(paths: RunPaths, run: Run, step: int) -> None:
    """Write the model's parameters, those of ``step``, as the best ones.

    Raises:
        OSError: not written, a full disk perhaps.
    """
    save_model(paths.best, run)
    failpoint("best.written")
    write_json(paths.best_mark, {"step": step, "sha256": _digest(paths)})
    failpoint("best.saved")


def is_best(paths: RunPaths, step: int) -> bool:
    """Whether ``best.pt`` is whole and holds the parameters of ``step``."""
    try:
        mark = json.loads(paths.best_mark.read_text(encoding="utf-8"))
        return bool(mark["step"] == step and mark["sha256"] == _digest(paths))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def best_model(paths: RunPaths, run: Run) -> ParticleModel:
    """A copy of the model with the best parameters, on its device; ``run`` itself is left alone."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(torch.load(paths.best, map_location="cpu", weights_only=True))
    return model


def remove_best(paths: RunPaths) -> None:
    """Forget what an earlier run left here."""
    for path in (paths.best_mark, paths.best):
        path.unlink(missing_ok=True)


def _digest(paths: RunPaths) -> str:
    return hashlib.sha256(paths.best.read_bytes()).hexdigest()
