"""The asymptotic study: parts, kills and stops change no number; its command and its experiment files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovis.analysis.gradients import compare_gradients
from ovis.experiments.runner.experiment_file import GridError, load_experiment, parse_experiment
from ovis.experiments.runs.context import RunContext
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import SettingsError
from ovis.paper.figure1 import asymptotic_study as asymptotic
from ovis.paper.figure1.asymptotic_settings import GRADIENTS, PARTIAL, RESULTS, AsymptoticSettings
from ovis.paper.figure1.asymptotic_study import build_estimators, build_toy, run_asymptotic
from ovis.paper.figure1.run import main

SMALL = AsymptoticSettings(
    estimators="ovis-gamma0,ovis-S2-exclusive,iwae,vimco", iw=7, mc_samples=30, npoints=20, D=3, samples_per_batch=400
)


def run(settings: AsymptoticSettings, folder: Path, **options: object) -> bool:
    folder.mkdir(exist_ok=True)
    return run_asymptotic(settings, RunContext(RunPaths(folder), **options))  # type: ignore[arg-type]


def draws(folder: Path) -> np.ndarray:
    with np.load(folder / GRADIENTS) as result:
        return result["draws"]


def test_the_results_are_those_of_the_analysis(tmp_path: Path) -> None:
    assert run(SMALL, tmp_path)
    model, x = build_toy(SMALL, torch.device("cpu"))
    estimators = build_estimators(SMALL)
    expected = compare_gradients(estimators, model, x, 30, "b", seed=10, samples_per_batch=400, return_grads=True)
    actual = json.loads((tmp_path / RESULTS).read_text())
    assert (
        list(actual["estimators"])
        == SMALL.names
        == ["ovis-gamma0", "ovis-S2-exclusive", "pathwise-iwae", "vimco-arithmetic"]
    )
    for index, (name, (stats, meta)) in enumerate(expected.items()):
        mine = actual["estimators"][name]
        for key in ("variance", "snr", "dsnr", "magnitude", "snr_p50"):
            assert mine["statistics"][key] == pytest.approx(stats["grads"][key].item(), rel=1e-4)
        np.testing.assert_allclose(mine["mean"], meta.mean, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(draws(tmp_path)[:, index], meta.grads, rtol=1e-5, atol=1e-8)
        theory = actual["theory"][name]
        assert theory["statistics"]["magnitude"] == pytest.approx(mine["statistics"]["magnitude"], rel=1.0)
    assert json.loads(RunPaths(tmp_path).progress.read_text())["step"] == 30


def test_parts_are_pieces_of_the_whole(tmp_path: Path) -> None:
    run(SMALL, tmp_path / "whole")
    for part in (1, 2, 3):
        run(replace(SMALL, part=part, parts=3), tmp_path / f"{part}")
    joined = np.concatenate([draws(tmp_path / f"{part}") for part in (1, 2, 3)])
    np.testing.assert_array_equal(joined, draws(tmp_path / "whole"))
    with np.load(tmp_path / "2" / GRADIENTS) as result:
        assert (int(result["first"]), int(result["iw"])) == (10, 7)


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run(SMALL, tmp_path / "whole")
    stops = 0
    while not run(SMALL, tmp_path / "stopped", should_stop=lambda: True):
        stops += 1
        assert (tmp_path / "stopped" / PARTIAL).exists()
        assert not (tmp_path / "stopped" / RESULTS).exists()
    assert stops > 3
    np.testing.assert_array_equal(draws(tmp_path / "stopped"), draws(tmp_path / "whole"))
    one, other = (json.loads((tmp_path / name / RESULTS).read_text()) for name in ("whole", "stopped"))
    assert one["estimators"] == other["estimators"]
    assert not (tmp_path / "stopped" / PARTIAL).exists()


class Killed(BaseException):
    pass


def test_a_killed_run_has_the_draws_of_its_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(SMALL, tmp_path / "whole")
    monkeypatch.setattr(asymptotic, "SAVE", 0.0)
    calls = iter([False, False, False, True])

    def stop() -> bool:
        if next(calls):
            raise Killed
        return False

    with pytest.raises(Killed):
        run(SMALL, tmp_path / "killed", should_stop=stop)
    assert run(SMALL, tmp_path / "killed")
    np.testing.assert_array_equal(draws(tmp_path / "killed"), draws(tmp_path / "whole"))


def test_a_torn_or_foreign_file_is_not_used(tmp_path: Path) -> None:
    run(SMALL, tmp_path / "whole")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / PARTIAL).write_bytes(b"PK torn")
    assert run(SMALL, tmp_path / "torn")
    run(replace(SMALL, seed=11), tmp_path / "foreign", should_stop=lambda: True)
    assert run(SMALL, tmp_path / "foreign")
    for name in ("torn", "foreign"):
        np.testing.assert_array_equal(draws(tmp_path / name), draws(tmp_path / "whole"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--root", str(tmp_path), "--iw=3", "--mc_samples=4", "--npoints=5", "--D=2", "--q_scale=variance"]
    assert main(words) == 0
    (folder,) = (tmp_path / "sandbox").iterdir()
    assert folder.name.startswith("asymptotic-iw3-seed10-")
    assert (folder / RESULTS).exists()
    assert json.loads((folder / "outcome.json").read_text())["status"] == "success"
    assert main([*words, "--part=2"]) == 2
    assert "--part" in capsys.readouterr().err
    assert main([*words, "--key_filter=nothing"]) == 2
    assert main(["--estimators=ovis-gama0"]) == 2


def test_the_options() -> None:
    assert AsymptoticSettings(estimators="iwae, vimco").names == ["pathwise-iwae", "vimco-arithmetic"]
    with pytest.raises(SettingsError, match="twice"):
        AsymptoticSettings(estimators="iwae,pathwise-iwae")
    with pytest.raises(SettingsError, match="--iw"):
        AsymptoticSettings(estimators="vimco", iw=1).check_combination()
    parts = [AsymptoticSettings(mc_samples=10, part=i, parts=3).draws for i in (1, 2, 3)]
    assert [i for part in parts for i in part] == list(range(10))


@pytest.mark.parametrize(
    ("name", "runs", "estimators"), [("", 10, 6), ("-extended", 50, 7), ("-rainforth", 8, 5), ("-mini", 3, 3)]
)
def test_the_experiment_files(name: str, runs: int, estimators: int) -> None:
    experiment = load_experiment(Path(__file__).parents[3] / "experiments" / f"asymptotic-analysis{name}.json")
    assert experiment.script == "asymptotic"
    assert len(experiment.runs) == runs
    assert {len(run.settings.names) for run in experiment.runs} == {estimators}  # type: ignore[union-attr]
    with pytest.raises(GridError, match="unknown option 'estimator'"):
        parse_experiment({"script": "asymptotic", "parameters": {"estimator": ["vimco"]}})
