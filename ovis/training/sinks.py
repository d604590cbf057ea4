"""Where the numbers of a run go: metrics.jsonl, TensorBoard, progress.json, pictures."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ovis.runner.atomic import replace_file, write_json
from ovis.runner.paths import RunPaths

__all__ = ["Sinks", "image_grid"]


class Sinks:
    """The open files of a run.

    Args:
        paths: the run's files.
        step: steps already taken: what was written of later ones, by an attempt that was cut off, is removed.
    """

    def __init__(self, paths: RunPaths, step: int = 0):
        self.paths = paths
        _cut_after(paths.metrics, step)
        self.metrics = paths.metrics.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(paths.folder), purge_step=step + 1 if step else None)

    def evaluation(self, step: int, epoch: float, seconds: float, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same numbers to TensorBoard. Numbers that are not finite become null."""
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "epoch": round(epoch, 4), "time": round(seconds, 3), **shown}
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        for tag, value in values.items():
            self.board.add_scalar(tag, value, step)
        self.board.flush()

    def progress(self, step: int, nsteps: int, loss: float) -> None:
        """Tell whoever watches how far the run is. A disk that is full then is no reason to stop."""
        shown = loss if math.isfinite(loss) else None
        try:
            write_json(
                self.paths.progress,
                {"step": step, "nsteps": nsteps, "loss": shown, "t": time.time()},
                durable=False,
                indent=None,
            )
        except OSError:
            return

    def images(self, images: Tensor, step: int) -> None:
        """Keep pictures [n, C, H, W] in [0, 1], as a file and in TensorBoard."""
        grid = image_grid(images)
        with replace_file(self.paths.samples, durable=False) as temporary:
            Image.fromarray(grid.numpy()).save(temporary, format="png")
        self.board.add_image("prior/samples", grid.unsqueeze(0), step, dataformats="CHW")

    def close(self) -> None:
        self.metrics.close()
        self.board.close()


def image_grid(images: Tensor, gap: int = 2, height: int = 480) -> Tensor:
    """Pictures side by side in a near-square grid, enlarged in whole pixels to about ``height``.

    Args:
        images: shape [n, C, H, W] in [0, 1]; the mean over C is shown.
        gap: pixels of white between them, before enlarging.
        height: of the result, at most, unless the pictures are larger.

    Returns:
        uint8, shape [H', W'].
    """
    pictures = (images.detach().float().mean(1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    n, h, w = pictures.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = torch.full((rows * (h + gap) + gap, columns * (w + gap) + gap), 255, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        grid[top : top + h, left : left + w] = picture
    factor = max(1, height // grid.shape[0])
    return grid.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def _cut_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to this step; a torn last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    with replace_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
