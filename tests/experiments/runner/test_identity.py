"""A run's id says what it computes and nothing else; its folder can't leave the run root."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ovis.estimators.ids import example_ids
from ovis.experiments.models import MODELS
from ovis.experiments.runs.identity import differences, identify, restore_settings
from ovis.experiments.runs.paths import ExperimentPaths, is_safe_name
from ovis.experiments.settings import TrainSettings, parse_arguments

BASE = TrainSettings(estimator="ovis-gamma1", dataset="digits", model="sbm", iw=10, id="iwbound")

HOSTILE = [
    *(
        "..",
        ".",
        "/",
        "../../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "..\\..\\x",
        "~root",
        ".hidden",
        "-rf",
        "--rf",
    ),
    *(
        "a\nb",
        "a\0b",
        "$(reboot)",
        "`reboot`",
        "a;b",
        "x" * 5000,
        "日本語",
        "é",
        " ",
        "\u202e",
        "%00",
        "con:",
        "a'b\"c",
    ),
]


def test_the_name_can_be_read() -> None:
    assert identify(BASE).name == f"iwbound-digits-sbm-ovis-gamma1-iw10-seed1-{identify(BASE).key}"


def test_the_name_has_the_model_that_is_trained() -> None:
    assert identify(TrainSettings(dataset="gmm")).name.startswith("gmm-gmm-reinforce-iw1-seed1-")


def test_the_key_is_pinned() -> None:
    """A change here would make every run of every user a new one."""
    assert identify(BASE).key == "8e751b01788c"


def test_the_key_ignores_where_a_run_is_computed() -> None:
    moved = replace(BASE, root="/elsewhere", data_root="/data", exp="other", device="cpu")
    assert identify(moved).key == identify(BASE).key
    assert identify(moved).name == identify(BASE).name


def test_names_of_one_estimator_are_one_run() -> None:
    assert identify(TrainSettings(estimator="vimco")).key == identify(TrainSettings(estimator="vimco-arithmetic")).key


@pytest.mark.parametrize("change", [{"seed": 2}, {"iw": 11}, {"nsteps": 7}, {"id": "x"}, {"lr": 0.5}])
def test_the_key_distinguishes_runs(change: dict[str, object]) -> None:
    assert identify(replace(BASE, **change)).key != identify(BASE).key  # type: ignore[arg-type]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_label_stays_in_the_run_root(label: str, tmp_path: Path) -> None:
    settings = replace(BASE, id=label)
    name = identify(settings).name
    assert is_safe_name(name)
    assert name.isascii()
    folder = ExperimentPaths(tmp_path).run(name).folder
    assert folder.resolve().parent == tmp_path.resolve()
    folder.mkdir()  # not too long either
    stored = json.loads(json.dumps(identify(settings).settings))
    assert restore_settings(TrainSettings, stored) == replace(settings, exp="sandbox")


@pytest.mark.parametrize("name", ["..", "", ".", "a/b", "/a", ".a", "a\n", "a\0", "-a", "a" * 300])
def test_paths_refuse_a_hostile_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unsafe run name"):
        ExperimentPaths(tmp_path).run(name)


@pytest.mark.parametrize("estimator", example_ids())
def test_every_estimator_makes_a_folder(estimator: str) -> None:
    assert is_safe_name(identify(TrainSettings(estimator=estimator)).name)


def test_settings_are_restored_from_their_differences() -> None:
    settings = replace(BASE, learn_prior=True, freebits=0.5, lr=3e-4, alpha=0.7, epochs=3, root="/elsewhere")
    again = restore_settings(TrainSettings, json.loads(json.dumps(identify(settings).settings)))
    assert differences(again) == differences(settings)
    assert again.root == TrainSettings().root


def test_only_models_that_may_go_without_the_mean_of_the_data_differ_by_it() -> None:
    for name, entry in MODELS.items():
        changed = differences(TrainSettings(model=name, use_data_mean=False))
        assert ("use_data_mean" in changed) == ("use_data_mean" in entry.options)
    assert {name for name in MODELS if "use_data_mean" in MODELS[name].options} == {"gaussian-vae", "vae", "conv-vae"}


def test_the_default_parameters_of_the_analysis_may_be_explicit() -> None:
    unsaid = parse_arguments(["--dataset=gmm"])
    assert unsaid.analysed_parameters == "phi"
    assert identify(unsaid) == identify(parse_arguments(["--dataset=gmm", "--grad_key=phi"]))
    assert identify(unsaid).key != identify(parse_arguments(["--dataset=gmm", "--grad_key=theta"])).key
    assert parse_arguments(["--dataset=digits"]).analysed_parameters == "inference_network"
