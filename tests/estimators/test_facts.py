"""What the table of estimators states without torch is what the classes do."""

from __future__ import annotations

import sys
from typing import ClassVar

import pytest

from ovis.estimators.config import estimator_class, get_config
from ovis.estimators.ids import ESTIMATORS, EstimatorFacts, example_ids, parse_estimator
from ovis.estimators.reinforce import Reinforce
from ovis.experiments.settings import SettingsError, parse_arguments


@pytest.mark.parametrize("family", ESTIMATORS)
def test_what_a_family_lacks_is_refused_with_the_reason(family):
    Estimator = estimator_class(ESTIMATORS[family])
    for option, reason in ESTIMATORS[family].lacks.items():
        with pytest.raises(
            TypeError, match=f"{Estimator.__name__} has no setting '{option}' .{reason}.; valid: mc, iw"
        ):
            Estimator(iw=2, **{option: 0.1})


class Stray(Reinforce):
    """Its facts are those of another row."""

    facts: ClassVar = ESTIMATORS["reinforce"]


def test_a_row_and_its_class_refer_to_each_other(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "stray", EstimatorFacts("stray", f"{__name__}:Stray"))
    assert sys.modules[__name__].Stray is Stray
    with pytest.raises(TypeError, match=r"Stray must say facts = ESTIMATORS\['stray'\]"):
        get_config("stray")


@pytest.mark.parametrize("name", example_ids())
@pytest.mark.parametrize("iw", [1, 2, 10, 11])
def test_the_settings_refuse_the_particles_that_the_class_refuses(name, iw):
    Estimator, config = get_config(name)
    model = "gaussian-vae" if parse_estimator(name).facts.reparameterized else "sbm"
    words = ["--estimator", name, "--iw", str(iw), "--model", model]
    try:
        Estimator(iw=iw, **config)
    except ValueError:
        with pytest.raises(SettingsError, match="--iw"):
            parse_arguments(words)
    else:
        assert parse_arguments(words).iw == iw
