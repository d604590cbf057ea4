"""Plugins: tables that modules extend, and the paper, which is one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovis.experiments.cli.commands import COMMANDS
from ovis.experiments.plugins import PluginTable
from ovis.experiments.reporting.presets import PRESETS, preset_of
from ovis.experiments.runner.display.progress import run_weights
from ovis.experiments.runner.experiment_file import parse_experiment
from ovis.experiments.settings import RunSettings, SettingsError, option
from ovis.experiments.studies import STUDIES, Study, experiment_name

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class DiceSettings(RunSettings):
    """The options of a study that a plugin brings."""

    seed: int = option(0, "seed", low=0)
    throws: int = option(10, "throws of the dice", low=1)
    faces: str = option("six", "faces of a die", choices=("six", "6", "twenty"), canonical=lambda text: text[:3])
    loaded: bool = option(False, "whether one face is more probable than the others")
    bias: float = option(0.1, "how much more probable, if --loaded", low=0.0, high=1.0)

    @property
    def labels(self) -> tuple[str, ...]:
        return "dice", self.faces, f"seed{self.seed}"

    @property
    def work(self) -> int:
        return self.throws

    @property
    def unused(self) -> tuple[str, ...]:
        return () if self.loaded else ("bias",)

    def check_combination(self) -> None:
        if self.loaded and self.faces == "twenty":
            raise SettingsError("--loaded: dice with twenty faces are fair")


@pytest.fixture
def dice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STUDIES, "_rows", dict(STUDIES))
    row = Study(DiceSettings, "dice.run", report="report", results="throws.csv", aliases={"cubes": "dice"})
    STUDIES.register("dice", row)


@pytest.mark.usefixtures("dice")
def test_an_experiment_of_a_plugins_study() -> None:
    data = {"script": "dice", "args": ["--faces twenty", "--loaded"], "parameters": {"throws": [30, 10]}, "seeds": [1]}
    runs = parse_experiment(data).runs
    settings = [{"faces": "twe", "seed": 1, "throws": 30}, {"faces": "twe", "seed": 1}]
    settings += [{"loaded": True, "seed": 1, "throws": 30}, {"loaded": True, "seed": 1}]
    assert [dict(run.identity.settings) for run in runs] == settings
    assert runs[0].identity.name == f"dice-twenty-seed1-{runs[0].key}"
    assert list(run_weights(runs).values()) == [1.5, 0.5, 1.5, 0.5]
    assert experiment_name("cubes") == "dice"


@pytest.mark.usefixtures("dice")
@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("dise", "", "script: unknown study 'dise'; did you mean 'dice'"),
        ("dice", "--throws 0", "--throws: must be at least 1, got 0"),
        ("dice", "--loaded --faces twenty", "--loaded: dice with twenty faces are fair"),
        ("dice", "--iw 5", "unknown option '--iw'"),
    ],
)
def test_what_is_invalid_in_a_plugins_study(script: str, args: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_experiment({"script": script, "args": [args]})


@pytest.mark.usefixtures("dice")
def test_what_a_run_does_not_use_or_spells_otherwise_is_no_other_run() -> None:
    data = {"script": "dice", "zip": {"bias": [0.1, 0.5], "faces": ["six", "six"]}}
    with pytest.raises(ValueError, match="two entries are one run"):
        parse_experiment(data)


def test_a_name_is_registered_once() -> None:
    table: PluginTable[int] = PluginTable("number", {"one": 1})
    table.register("two", 2)
    assert dict(table) == {"one": 1, "two": 2}
    assert len(table) == 2
    with pytest.raises(ValueError, match="there is a number 'one' already"):
        table.register("one", 3)


def test_the_paper_is_a_plugin() -> None:
    assert list(STUDIES) == ["train", "asymptotic"]
    assert list(COMMANDS) == ["run", "status", "report", "train", "figure1", "figure3", "efficiency"]
    assert list(PRESETS) == ["paper"]
    assert preset_of("gaussian-mixture-model").metrics
    assert not preset_of("unknown").metrics
    assert experiment_name("asymptotic-variance") == "asymptotic-analysis"


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of a package that is in ``folder`` and not installed."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("paper", [True, False], ids=["with the paper", "without the paper"])
def test_the_package_alone_without_an_installation(paper: bool, tmp_path: Path) -> None:
    """What a wheel and the copy of a sweep's code hold: the package, without the scripts in the root of a clone."""
    absent = shutil.ignore_patterns("__pycache__", *([] if paper else ["paper"]))
    shutil.copytree(ROOT / "ovis", tmp_path / "ovis", ignore=absent)
    (tmp_path / "study.json").write_text('{"script": "asymptotic", "parameters": {"iw": [10, 20]}}')
    (tmp_path / "training.json").write_text('{"args": ["--dataset digits"], "seeds": 2}')
    assert "2 new" in start(tmp_path, "-m", "ovis", "run", "--exp", "training.json", "--dry_run").stdout
    help, study = start(tmp_path, "-m", "ovis"), start(tmp_path, "-m", "ovis", "run", "--exp=study.json", "--dry_run")
    if paper:
        assert "figure1" in help.stderr
        assert "2 new" in study.stdout
    else:
        assert "figure1" not in help.stderr
        assert (study.returncode, study.stderr) == (
            2,
            "manager.py: study.json: script: unknown study 'asymptotic'; Valid: train\n",
        )
