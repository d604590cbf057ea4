"""The scripts of examples/ and the models of docs/models.md run."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

import ovis

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DOCS = EXAMPLES.parent / "docs" / "models.md"


@pytest.mark.slow
def test_gmvae_learns_and_draws_its_clusters(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "gmvae.py"), "--epochs", "10", "--output", "clusters.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    first, last = (float(bound) for bound in re.findall(r"= (-[\d.]+) nats", done.stdout))
    assert last > first + 5
    image = matplotlib.image.imread(tmp_path / "clusters.png")
    assert image.std() > 0.1


def test_the_convolutional_model_is_that_of_the_documentation_and_encodes_once() -> None:
    source = (EXAMPLES / "conv_model.py").read_text()
    code = source[source.index("class ConvModel") : source.index("\n\ndef main")].rstrip()
    assert f"```python\n{code}\n```" in DOCS.read_text()
    model = runpy.run_path(str(EXAMPLES / "conv_model.py"))["ConvModel"](latents=4)
    x = (torch.rand(5, 1, 8, 8) < 0.3).float()
    assert ovis.check_model(model, x).passed
    rows: list[int] = []
    model.inference_network.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    loss, _, _ = ovis.estimator("ovis-gamma1", iw=7)(model, x, backward=True)
    assert loss.shape == (5,)
    assert rows == [5]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model(x)["px"].mean.shape == x.shape


@pytest.mark.slow
def test_the_convolutional_model_learns(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "conv_model.py", "--epochs", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    first, last = (float(bound) for bound in re.findall(r"L_10 = (-[\d.]+) nats", done.stdout))
    assert last > first + 5
    assert "no problem found" in done.stdout
    assert re.search(r"L_1000 +-[\d.]+ \+- 0\.\d+ nats", done.stdout)


def test_the_model_of_padded_sequences_does_not_see_the_padding() -> None:
    (code,) = re.findall(r"```python\n(from torch import nn\n[^`]*class Topics.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict[str, Any] = {"ovis": ovis, "torch": torch}
    exec(code, names)
    tokens, mask = names["tokens"], names["mask"]
    assert not mask.all()
    model, losses = names["Topics"](), []
    for padding in (tokens, tokens.where(mask, 7)):
        torch.manual_seed(0)
        losses.append(ovis.estimator("vimco", iw=4)(model, {"tokens": padding, "mask": mask})[0])
    assert torch.equal(*losses)
