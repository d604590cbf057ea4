"""``ovis.estimator``: one call from an id to a module, whose settings can be listed."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from estimator_cases import ALL, make
from problems import OneBernoulli, ParticleForm
from torch import nn

import ovis
import ovis.estimators
from ovis.estimators.config import estimator_class
from ovis.estimators.estimator_settings import EstimatorSettings
from ovis.estimators.ids import ESTIMATORS, example_ids, parse_estimator

#: settings at other values than the defaults
OTHER: dict[str, Any] = {
    "mc": 2,
    "iw": 7,
    "particles_per_pass": 5,
    "beta": 0.5,
    "tau": 0.5,
    "freebits": 0.1,
    "alpha": 0.3,
}


@pytest.mark.parametrize("name", [*ALL, *example_ids()])
def test_an_id_and_settings_give_the_module_that_get_config_gives(name: str) -> None:
    Estimator, config = ovis.get_config(name)
    settings = {key: value for key, value in OTHER.items() if key not in Estimator.facts.lacks}
    if not Estimator.facts.reparameterized:
        settings.pop("tau", None)
    for lacking in ovis.estimators.ids.parse_estimator(name).lacks:
        settings.pop(lacking, None)
    settings["iw"] = 20  # of which ovis-S10 takes ten
    built = ovis.estimator(name, **settings)
    assert type(built) is Estimator
    assert built.settings == Estimator(**settings, **config).settings
    assert ovis.estimator(name, iw=20).settings == Estimator(iw=20, **config).settings


@pytest.mark.parametrize("name", [*ALL, *example_ids()])
def test_the_id_of_an_estimator_builds_it_again(name: str) -> None:
    built = ovis.estimator(name, iw=20)
    assert built.id == parse_estimator(name).canonical
    assert ovis.estimator(built.id, iw=20).settings == built.settings


def test_settings_of_the_id_may_be_repeated_and_not_contradicted() -> None:
    assert ovis.estimator("ovis-gamma0.5", iw=3, gamma=0.5).settings.gamma == 0.5
    with pytest.raises(ValueError, match=r"^estimator 'ovis-gamma1' has gamma=1.0, got gamma=0.5: change the id$"):
        ovis.estimator("ovis-gamma1", iw=3, gamma=0.5)


@pytest.mark.parametrize("family", ESTIMATORS)
def test_a_wrong_setting_gets_one_line_with_the_valid_ones(family: str) -> None:
    name = next((name for name in example_ids() if parse_estimator(name).family == family), family)
    Estimator = estimator_class(ESTIMATORS[family])
    valid = [field.name for field in fields(Estimator.Settings) if field.name not in Estimator.facts.lacks]
    message = re.escape(f"{Estimator.__name__} has no setting 'alhpa'; valid: {', '.join(valid)}")
    with pytest.raises(TypeError, match=f"^{message}$"):
        ovis.estimator(name, iw=20, alhpa=0.5)
    listed = inspect.signature(Estimator).parameters
    assert list(listed)[-len(valid) :] == valid
    defaults = {field.name: field.default for field in fields(Estimator.Settings)}
    assert all(listed[key].default == defaults[key] for key in valid)


def test_a_baseline_is_given_to_the_estimator_that_has_one() -> None:
    baseline = nn.Linear(1, 1)
    assert ovis.estimator("reinforce-baseline", baseline=baseline).baseline is baseline
    assert "baseline" in inspect.signature(ovis.estimators.ReinforceBaseline).parameters
    with pytest.raises(TypeError, match="Reinforce has no setting 'baseline'"):
        ovis.estimator("reinforce", baseline=baseline)


def test_the_signature_and_the_docstring_list_the_shared_settings_with_their_defaults() -> None:
    parameters = inspect.signature(ovis.estimator).parameters
    for field in fields(EstimatorSettings):
        assert parameters[field.name].default == field.default
        assert parameters[field.name].annotation == field.type
        assert f"    {field.name}: " in ovis.estimator.__doc__
    assert not any("\n" in repr(make(name, iw=20)) for name in ALL if name != "reinforce-baseline")


def test_a_representation_has_the_id_and_what_differs_from_the_defaults() -> None:
    assert repr(ovis.estimator("ovis-gamma1", iw=16)) == "OvisAsymptotic(id='ovis-gamma1', iw=16)"
    assert repr(ovis.estimator("rws", mc=1, alpha=0.0)) == "WakeWake(id='wake-wake')"
    found = repr(ovis.estimator("tvo-part5-beta2-right", iw=16, freebits=0.5, particles_per_pass="auto"))
    assert found == "Tvo(id='tvo-part5-beta2-right', iw=16, particles_per_pass='auto', freebits=0.5)"
    assert repr(ovis.estimator("vimco", iw=2, alpha=torch.tensor(0.5))).endswith("iw=2, alpha=tensor(0.5000))")
    assert "id='reinforce-baseline', iw=3" in repr(ovis.estimator("reinforce-baseline", iw=3))


def test_every_class_can_be_imported_by_its_name_and_is_seen_by_type_checkers() -> None:
    names = {row.implementation.partition(":")[2] for row in ESTIMATORS.values()}
    assert names <= set(ovis.estimators.__all__)
    assert {*ovis.estimators.__all__} <= {*dir(ovis.estimators)}
    assert {*ovis.__all__} <= {*dir(ovis)}
    for module in (ovis, ovis.estimators):
        for name in module.__all__:
            assert getattr(module, name) is not None
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        imported = {alias.name for node in guarded for item in node.body for alias in item.names}  # type: ignore[attr-defined]
        assert imported - {"LoadedRun"} == set(module._LAZY)  # (the type of what load_run returns)
    with pytest.raises(AttributeError, match="has no attribute 'Vimko'"):
        _ = ovis.estimators.Vimko


def test_it_trains_a_model() -> None:
    estimator = ovis.estimator("vimco", iw=3)
    loss, diagnostics, output = estimator(ParticleForm(OneBernoulli()), torch.ones(2, 1, dtype=torch.float64))
    assert loss.shape == diagnostics["loss"]["L_k"].shape == (2,)
    assert output["z"][0].shape[:2] == (2, 3)
