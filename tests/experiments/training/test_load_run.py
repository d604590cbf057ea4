"""``ovis.load_run``: a run's model, settings and data from its folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import ovis
from ovis.experiments.cli.train import main
from ovis.experiments.datasets import load_dataset
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings

OPTIONS = {"dataset": "digits", "mini": True, "model": "sbm", "N": 4, "depth": 2, "nlayers": 0}
WORDS = (
    "--dataset digits --mini --model sbm --N 4 --depth 2 --nlayers 0 --estimator vimco --iw 3 --nsteps 16 --eval_freq 1"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done."""
    root = tmp_path_factory.mktemp("runs")
    assert (
        main([*WORDS.split(), "--grad_samples", "0", "--iw_valid", "20", "--iw_test", "20", "--root", str(root)]) == 0
    )
    (folder,) = (root / "sandbox").iterdir()
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def best_bound(folder: Path) -> tuple[int, float]:
    """Step and value of the best evaluation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["valid:loss/L_k"])
    return best["step"], best["valid:loss/L_k"]


def test_a_finished_run_gives_its_best_model_settings_and_data(trained: Path) -> None:
    before = torch.get_rng_state()
    run = ovis.load_run(str(trained))
    assert torch.equal(torch.get_rng_state(), before)
    model, settings, data = run
    assert (settings.estimator, settings.iw, settings.N, settings.depth) == ("vimco", 3, 4, 2)
    assert isinstance(settings, TrainSettings)
    assert not any(module.training for module in model.modules())
    best = torch.load(trained / "best.pt", weights_only=True)
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    expected = load_dataset("digits", mini=True)
    assert torch.equal(data.test, expected.test)
    assert torch.equal(data.valid, expected.valid)
    step, bound = best_bound(trained)
    assert json.loads((trained / "best.json").read_text())["step"] == step
    result = ovis.evaluate(model, data.valid.float(), iw=20, seed=0)
    assert abs(result.L_k.mean - bound) < 0.5  # other particles


def test_before_the_first_evaluation_it_is_the_last_checkpoint(folder: Path) -> None:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["model"] = {name: value + 1 for name, value in state["model"].items()}
    torch.save(state, folder / "checkpoint.pt")
    (folder / "best.json").unlink()
    loaded = ovis.load_run(folder).model.state_dict()
    assert all(torch.equal(value, state["model"][name]) for name, value in loaded.items())
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    files = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    previous = torch.load(folder / "checkpoint.previous.pt", weights_only=True)["model"]
    assert all(torch.equal(value, previous[name]) for name, value in ovis.load_run(folder).model.state_dict().items())
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == files


def test_a_damaged_best_file_is_not_loaded(folder: Path) -> None:
    content = bytearray((folder / "best.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "best.pt").write_bytes(content)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in ovis.load_run(folder).model.state_dict().items())


def test_what_is_no_run_gets_one_line(folder: Path, tmp_path: Path) -> None:
    paths = RunPaths(folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder: give that of a run, ROOT/EXP/NAME$"):
        ovis.load_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no config.json; it contains those of runs, such as run$"):
        ovis.load_run(tmp_path)

    for path in (paths.best, paths.checkpoint):
        path.write_bytes(b"damaged")
    paths.previous_checkpoint.unlink()
    with pytest.raises(ValueError, match=r"has no whole best.pt and no whole checkpoint.pt \(checkpoint.pt: .*\)$"):
        ovis.load_run(folder)
    paths.checkpoint.unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint.pt: it is not trained yet$"):
        ovis.load_run(folder)

    config = json.loads(paths.config.read_text())
    config["settings"]["scale"] = 0.5
    paths.config.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"holds no training of this version of ovis: unknown option 'scale'"):
        ovis.load_run(folder)
    paths.config.write_text("[]")
    with pytest.raises(ValueError, match=r"config.json is damaged: it holds no settings$"):
        ovis.load_run(folder)


def test_parameters_of_another_model_get_one_line(folder: Path) -> None:
    paths = RunPaths(folder)
    config = json.loads(paths.config.read_text())
    config["settings"]["depth"] = 1
    paths.config.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^[^\n]*do not fit the model of its config.json[^\n]*$"):
        ovis.load_run(folder)


def test_without_the_runners_packages_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ovis.experiments.training.load_run", None)
    with pytest.raises(ImportError, match=r"^ovis.load_run needs .*: pip install 'ovis\[experiments\]'$"):
        ovis.load_run("runs")
