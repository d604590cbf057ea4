"""Where the numbers of a run go: metrics.jsonl, TensorBoard, progress.json, pictures."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from ovis.experiments.runs.atomic import append, replace_file, write_json, write_text
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.training.tensorboard_events import Board

__all__ = ["Sinks"]


class Sinks:
    """The files that a run tells its numbers to.

    Args:
        paths: the run's files.
        step: steps already taken: what was written of later ones, by an attempt that was cut off, is removed.

    Raises:
        OSError: a file can't be written; its ``filename`` says which.
    """

    def __init__(self, paths: RunPaths, step: int = 0):
        self.paths, self.begin = paths, step
        _cut_after(paths.metrics, step)
        self.board = Board(paths.folder, step)

    def evaluation(
        self,
        step: int,
        epoch: float,
        seconds: float,
        values: dict[str, float],
        pictures: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Tell of an evaluation, so that it outlives a kill.

        Args:
            step: optimizer steps so far.
            epoch: the same in epochs.
            seconds: spent on training so far.
            values: one line of metrics.jsonl and as many scalars in TensorBoard; what is not finite becomes null.
            pictures: grey levels, uint8 [H, W], by TensorBoard tag: ``prior/samples`` and ``reconstructions/train``,
                which are kept as files, too.

        Raises:
            OSError: no room on the disk; metrics.jsonl is as it was.
        """
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "epoch": round(epoch, 4), "time": round(seconds, 3), **shown}
        append(self.paths.metrics, f"{json.dumps(line)}\n".encode())
        files = {"prior/samples": self.paths.samples, "reconstructions/train": self.paths.reconstructions}
        images = {tag: _png(grid) for tag, grid in (pictures or {}).items()}
        for tag, png in images.items():
            with replace_file(files[tag], durable=False) as temporary:
                temporary.write_bytes(png)
        self.board.add(step, values, images)

    def progress(self, step: int, nsteps: int, loss: float) -> None:
        """Tell whoever watches how far the run is. A disk that is full then is no reason to stop."""
        shown = loss if math.isfinite(loss) else None
        try:
            write_json(
                self.paths.progress,
                {"step": step, "nsteps": nsteps, "loss": shown, "t": time.time(), "begin": self.begin},
                durable=False,
                indent=None,
            )
        except OSError:
            return


def _png(grid: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grid.numpy()).save(buffer, format="png")
    return buffer.getvalue()


def _cut_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to this step; a torn line goes too."""
    if not path.exists():
        return
    text, kept = path.read_text(encoding="utf-8", errors="replace"), []
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    if "".join(kept) != text:
        write_text(path, "".join(kept))
