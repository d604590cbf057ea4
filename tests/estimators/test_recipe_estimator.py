"""The recipe of CONTRIBUTING.md for a new estimator, from one class and one row to the drawn report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ovis.estimators import GradientEstimator, get_config
from ovis.estimators.base import EstimatorInput
from ovis.estimators.ids import ESTIMATORS, EstimatorFacts, EstimatorId, Grammar, LineStyle
from ovis.estimators.types import Estimate
from ovis.experiments.cli import report, train
from ovis.experiments.reporting.figures.style import estimator_look, style_group, style_order
from ovis.functional.log_weights import normalized_weights
from ovis.functional.surrogates import score_factors

#: The row: only the id and the class are required.
FACTS = EstimatorFacts("centred-wake", f"{__name__}:CentredWake", needs_two_particles=True)


class CentredWake(GradientEstimator):
    """Wake-phi minus its mean. Biased for L_K (Nobody 2024)."""

    facts: ClassVar = FACTS
    unbiased_for = None

    def estimate(self, inputs: EstimatorInput) -> Estimate:
        alpha = inputs.settings.alpha
        signal = normalized_weights(inputs.log_w, alpha) - 1 / inputs.log_w.shape[-1]
        return Estimate(score_factors(inputs.log_w, signal, alpha))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, FACTS.family, FACTS)


def command(root: Path, **options: Any) -> list[str]:
    settings = {"exp": "recipe", "root": root, "dataset": "gmm", "N": 4, "iw": 3, "bs": 8, "nsteps": 4, "epochs": -1}
    return [f"--{name}={value}" for name, value in {**settings, "device": "cpu", **options}.items()]


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_one_class_and_one_row_are_trained_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get_config("centred-wake") == (CentredWake, {})
    for name in ("centred-wake", "vimco"):
        assert train.main(command(tmp_path / "runs", estimator=name)) == 0, capsys.readouterr().err
    output = tmp_path / "reports"
    words = ["--exp=recipe", f"--root={tmp_path / 'runs'}", f"--output={output}"]
    assert report.main(words) == 0, capsys.readouterr().err
    assert (output / "recipe" / "curves.png").stat().st_size > 10_000
    assert "centred-wake" in (output / "recipe" / "table.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("registered")
def test_the_settings_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(command(tmp_path, estimator="centred-wake", iw=1)) != 0
    assert "--iw: centred-wake leaves one particle out" in capsys.readouterr().err
    assert train.main(command(tmp_path, estimator="centred-wale")) != 0
    assert "did you mean 'centred-wake'?" in capsys.readouterr().err


@pytest.mark.usefixtures("registered")
def test_it_is_drawn_with_a_default_look_until_the_row_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    look = estimator_look("centred-wake")
    assert look.label == "centred-wake"
    assert style_group("centred-wake") > style_group("stl")
    assert sorted(["centred-wake", "vimco"], key=style_order) == ["vimco", "centred-wake"]
    line = LineStyle("#123456", "solid", "o")
    full = EstimatorFacts(FACTS.family, FACTS.implementation, label="Centred", line=line, legend_group="TVO, RWS")
    monkeypatch.setitem(ESTIMATORS, FACTS.family, full)
    look = estimator_look("centred-wake")
    assert (look.label, look.color, look.marker) == ("Centred", "#123456", "o")
    assert style_group("centred-wake") == style_group("rws")


def test_a_family_with_a_parameter_gets_a_look_for_each_id(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = Grammar(
        "smooth",
        {r"T(\d+)": lambda match: {"temperature": int(match[1])}},
        lambda name, config: EstimatorId(f"smooth-T{config['temperature']}", "smooth", config),
        examples=("smooth-T2",),
    )
    row = EstimatorFacts("smooth", "none:None", grammar=grammar)
    monkeypatch.setitem(ESTIMATORS, "smooth", row)
    two, three = estimator_look("smooth-T2"), estimator_look("smooth-T3")
    assert (two.label, three.label) == ("smooth-T2", "smooth-T3")
    assert (two.color, two.dash, two.marker) != (three.color, three.dash, three.marker)

    def look(known: EstimatorId) -> tuple[str, LineStyle]:
        return f"Smooth (T={known.config['temperature']})", LineStyle("#123456", "dashed", "v")

    lines = {"smooth-T9": LineStyle("#654321", "solid", "o"), "smooth-T3": LineStyle("#ABCDEF", "solid", "o")}
    monkeypatch.setitem(ESTIMATORS, "smooth", replace(row, look=look, lines=lines))
    two, three = estimator_look("smooth-T2"), estimator_look("smooth-T3")
    assert (two.label, two.color, two.marker) == ("Smooth (T=2)", "#123456", "v")
    assert (three.label, three.color, three.marker) == ("Smooth (T=3)", "#ABCDEF", "o")
    ids = ["smooth-T2", "smooth-T3", "smooth-T9"]
    assert sorted(ids, key=style_order) == ["smooth-T9", "smooth-T3", "smooth-T2"]
