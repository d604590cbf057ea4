"""Figure 4's VAE on the published images: where it starts, and the bound after 2,000 steps, measured independently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ovis.analysis.evaluate import evaluate
from ovis.experiments.datasets import load_dataset
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run

REAL = os.environ.get("OVIS_TEST_DATA", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL, reason="OVIS_TEST_DATA names no data folder with the published files"),
]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    root = tmp_path_factory.mktemp("data")  # what is cached stays here
    (root / "binmnist").symlink_to(Path(REAL).resolve() / "binmnist")
    return load_dataset("binmnist", data_root=str(root))


@pytest.mark.parametrize(("use_data_mean", "start", "end"), [(False, 547, 171), (True, 206, 145)])
def test_the_bound_at_the_start_and_after_2000_steps(
    splits: Splits, use_data_mean: bool, start: float, end: float
) -> None:
    """IWAE with K = 10, batches of 24, Adam. The authors' start is near 784 log 2 = 543, without the data's mean."""
    architecture = {"prior": "normal", "N": 200, "hdim": 200, "nlayers": 2, "use_data_mean": use_data_mean}
    options = {"estimator": "pathwise-iwae", "iw": 10, "bs": 24, "optimizer": "adam", "lr": 3e-4, "seed": 0}
    run = build_run(TrainSettings(dataset="binmnist", model="vae", **options, **architecture), splits)
    rows = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:500]  # sorted by class
    x = splits.test[rows].float()
    torch.manual_seed(0)
    assert -evaluate(run.model, x, 10, progress=False).L_k.mean == pytest.approx(start, abs=5)
    for batch in run.batches(0, 2000):
        run.optimizer.zero_grad()
        run.estimator(run.model, batch, backward=True, return_diagnostics=False)
        run.optimizer.step()
    # (the standard error of a mean of 500 images is 1.3)
    assert -evaluate(run.model, x, 100, progress=False).L_k.mean == pytest.approx(end, abs=5)
