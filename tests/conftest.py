"""What every test shares."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from synthetic_runs import Folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test starts from one random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The tests' tensors are tiny: a second thread would only wait for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def torchvision() -> Iterator[ModuleType]:
    """torchvision's data sets.

    Beside a CPU torch, torchvision's CUDA build can't load its operators and then fails on describing them. They are
    declared here, only where it can't be imported without.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install -r requirements.txt")
    library = None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield importlib.import_module("torchvision.datasets")
    del library  # they are declared as long as this lives


@pytest.fixture
def demo(tmp_path: Path) -> Folder:
    """An experiment ``demo`` without runs."""
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    return Folder(folder)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by their name; in their files there is a single pixel, as writing them takes longer than all else."""
    from PIL import Image

    from ovis.experiments.reporting.figures import save_figure as figures

    result: dict[str, Figure] = {}

    def keep(figure: Figure, folder: Path, name: str) -> list[Path]:
        result[name] = figure
        Image.new("L", (1, 1)).save(folder / f"{name}.png")
        return [folder / f"{name}.png", folder / f"{name}.pdf"]

    monkeypatch.setattr(figures, "save_figure", keep)
    return result
