"""What names.py tells the runner of the estimators is what the classes do."""

import dataclasses

import pytest

from ovis.estimators.config import ESTIMATORS, get_config
from ovis.estimators.ids import (
    ESTIMATOR_FAMILIES,
    EXAMPLES,
    LEAVE_ONE_OUT,
    OPTIONS_LACKING,
    REPARAMETERIZED,
    parse_estimator,
)
from ovis.experiments.settings import SettingsError, parse_arguments

OPTIONS = {"beta", "tau", "freebits", "alpha"}


def test_families():
    assert set(ESTIMATORS) == set(ESTIMATOR_FAMILIES)


@pytest.mark.parametrize("family", ESTIMATOR_FAMILIES)
def test_a_family_is_what_its_class_is(family):
    cls = ESTIMATORS[family]
    assert (family in REPARAMETERIZED) == cls.reparameterized
    assert (family in LEAVE_ONE_OUT) == (cls.min_particles > 1)
    lacking = OPTIONS - {item.name for item in dataclasses.fields(cls.Settings)}
    if family == "dreg":
        lacking |= {"freebits"}  # it has the field, to say why it can't
        with pytest.raises(ValueError, match="freebits"):
            cls(iw=2, freebits=0.1)
    assert lacking == set(OPTIONS_LACKING.get(family, ()))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("iw", [1, 2, 10, 11])
def test_the_settings_refuse_the_particles_that_the_class_refuses(name, iw):
    Estimator, config = get_config(name)
    model = "gaussian-vae" if parse_estimator(name).family in REPARAMETERIZED else "sbm"
    words = ["--estimator", name, "--iw", str(iw), "--model", model]
    try:
        Estimator(iw=iw, **config)
    except ValueError:
        with pytest.raises(SettingsError, match="--iw"):
            parse_arguments(words)
    else:
        assert parse_arguments(words).iw == iw
