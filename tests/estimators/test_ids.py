"""The grammar of estimator ids."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ovis.estimators.ids import (
    _ELSEWHERE,
    ESTIMATORS,
    example_ids,
    parse_estimator,
)

#: Ids of the issue and of the experiments, with what they mean.
MEANINGS = {
    "reinforce": ("reinforce", "reinforce", {}),
    "reinforce-baseline": ("reinforce-baseline", "reinforce-baseline", {}),
    "vimco": ("vimco-arithmetic", "vimco-arithmetic", {}),
    "vimco-geometric": ("vimco-geometric", "vimco-geometric", {}),
    "rws": ("wake-wake", "wake-wake", {}),
    "wake-sleep": ("wake-sleep", "wake-sleep", {}),
    "vae": ("pathwise-vae", "pathwise-vae", {}),
    "iwae": ("pathwise-iwae", "pathwise-iwae", {}),
    "ovis-gamma0": ("ovis-gamma0", "ovis-gamma", {"gamma": 0.0}),
    "ovis-gamma0.50": ("ovis-gamma0.5", "ovis-gamma", {"gamma": 0.5}),
    "ovis-gamma1.0": ("ovis-gamma1", "ovis-gamma", {"gamma": 1.0}),
    "ovis-S10": ("ovis-S10", "ovis-S", {"auxiliary": 10, "exclusive": False}),
    "ovis-S010-exclusive": ("ovis-S10-exclusive", "ovis-S", {"auxiliary": 10, "exclusive": True}),
    "ovis-exclusive-S10": ("ovis-S10-exclusive", "ovis-S", {"auxiliary": 10, "exclusive": True}),
    "ovis-S0.10": ("ovis-S0.1", "ovis-S", {"auxiliary": 0.1, "exclusive": False}),
    "ovis-S1.0": ("ovis-S1.0", "ovis-S", {"auxiliary": 1.0, "exclusive": False}),
    "tvo-part2-config1": (
        "tvo-part2-config1-left",
        "tvo",
        {"partitions": 2, "first": "config1", "integration": "left"},
    ),
    "tvo-part5-beta2-trapz": (
        "tvo-part5-beta2-trapz",
        "tvo",
        {"partitions": 5, "first": 0.01, "integration": "trapz"},
    ),
    "tvo-beta1.5-right-part5": (
        "tvo-part5-beta1.5-right",
        "tvo",
        {"partitions": 5, "first": 10**-1.5, "integration": "right"},
    ),
}

#: Ids whose numbers have many digits, or would print with an exponent, whose dash would split the id.
LONG_NUMBERS = [
    *("ovis-gamma0.1234567890123", "ovis-gamma0.00001", "ovis-gamma0.1", "ovis-S0.00001", "ovis-S0.3333333333333333"),
    *("ovis-S100", "ovis-S1000000", "ovis-S2.5", "tvo-part2-beta0.00001", "tvo-part3-beta1.3333333333"),
    *("tvo-part10-beta3", "tvo-part100-beta10", "tvo-part2-beta300", "tvo-part1", "tvo-part1-beta2-right"),
]


@pytest.mark.parametrize("name", MEANINGS)
def test_an_id_means_what_the_table_says(name):
    result = parse_estimator(name)
    canonical, family, config = MEANINGS[name]
    assert (result.canonical, result.family, dict(result.config)) == (canonical, family, config)
    assert {k: type(v) for k, v in result.config.items()} == {k: type(v) for k, v in config.items()}


@pytest.mark.parametrize("name", [*example_ids(), *MEANINGS, *LONG_NUMBERS])
def test_the_canonical_id_parses_to_itself_with_the_same_settings(name):
    result = parse_estimator(name)
    assert result.family in ESTIMATORS
    again = parse_estimator(result.canonical)
    assert again == result
    assert again.canonical == result.canonical


def test_examples_show_every_family():
    assert {parse_estimator(name).family for name in example_ids()} == set(ESTIMATORS)


def test_different_settings_have_different_canonical_ids():
    names = [
        "ovis-gamma0.1234567",
        "ovis-gamma0.1234568",
        "ovis-S1",
        "ovis-S1.0",
        "ovis-S10",
        "ovis-S100",
        "ovis-S1-exclusive",
    ]
    names += ["tvo-part2-beta2", "tvo-part2-beta2.0000001", "tvo-part2-config1", "tvo-part2-config2", "tvo-part3-beta2"]
    names += [
        "tvo-part2-beta2-right",
        "tvo-part2-beta2-trapz",
        *(name for name, row in ESTIMATORS.items() if row.grammar is None),
    ]
    assert len({parse_estimator(name).canonical for name in names}) == len(names)


@pytest.mark.parametrize(("alias", "name"), [(a, row.family) for row in ESTIMATORS.values() for a in row.aliases])
def test_an_alias_is_its_family(alias, name):
    assert parse_estimator(alias) == parse_estimator(name)
    assert parse_estimator(alias).canonical == name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vimko", "vimco"),
        ("reinforse", "reinforce"),
        ("ovis", "ovis-S1"),
        ("ovis-gama1", "ovis-gamma1"),
        ("ovis-gamma", "ovis-gamma1"),
        ("ovis-gamma-1", "ovis-gamma1"),
        ("ovis-gamma1e-1", "ovis-gamma1"),
        ("ovis-gamma.5", "ovis-gamma1"),
        ("ovis-s10", "ovis-S10"),
        ("ovis-S10-exclusiv", "ovis-S10-exclusive"),
        ("ovis-S-10", "ovis-S10"),
        ("tvo-part2-confg1", "tvo-part2-config1"),
        ("tvo-part2-config3", "tvo-part2-config1"),
        ("tvo-part5-beta2-lft", "tvo-part5-beta2-left"),
        ("tvo-part5-beta2-left-", "tvo-part5-beta2-left"),
        ("tvo-part5.5-beta2", "tvo-part5-beta2"),
        ("vimco-", "vimco"),
        ("vimco-harmonic", "vimco-arithmetic"),
        ("wakewake", "wake-wake"),
        (" vimco", "vimco"),
        ("vimco\n", "vimco"),
        ("VIMCO-geometric", "vimco-geometric"),
        ("dreg-left", "dreg"),
    ],
)
def test_an_unknown_id_is_refused_with_the_did_you_mean(name, near):
    with pytest.raises(ValueError, match="did you mean") as refused:
        parse_estimator(name)
    assert repr(name) in str(refused.value)
    assert f"did you mean '{near}'?" in str(refused.value)
    assert "Valid: wake-wake, " in str(refused.value)


@pytest.mark.parametrize("name", ["", "-", "nothing-at-all-like-it", "__import__('os')"])
def test_what_resembles_nothing_is_refused_with_the_list(name):
    with pytest.raises(ValueError, match=r"unknown estimator .*Valid: wake-wake, "):
        parse_estimator(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ovis-gamma1.5", r"gamma must lie in \[0, 1\]"),
        ("ovis-gamma1-exclusive", "needs gamma<g> or S<s>"),
        ("ovis-gamma1-S10", "needs gamma<g> or S<s>"),
        ("ovis-exclusive", "needs gamma<g> or S<s>"),
        ("ovis-S0", "at least one auxiliary sample"),
        ("ovis-S0.0", "at least one auxiliary sample"),
        ("ovis-S1-S2", "contradictory part 'S2'"),
        ("ovis-gamma1-gamma1", "contradictory part 'gamma1'"),
        ("tvo-part2", "needs part<P> and beta<b>"),
        ("tvo-config1", "needs part<P> and beta<b>"),
        ("tvo-part0-beta2", "needs part<P> and beta<b>"),
        ("tvo-part2-beta0", "beta must lie in"),
        ("tvo-part2-beta400", "beta must lie in"),
        ("tvo-part2-beta2-config1", "contradictory part 'config1'"),
        ("tvo-part2-beta2-left-right", "contradictory part 'right'"),
        ("ovis-left", "unknown part 'left'"),
        ("tvo-part2-beta2-gamma1", "unknown part 'gamma1'"),
    ],
)
def test_a_combination_that_means_nothing_is_refused_with_its_reason(name, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        parse_estimator(name)
    assert repr(name) in str(refused.value)


def test_names_and_settings_import_no_torch():
    modules = "ovis.estimators.ids, ovis.experiments.settings"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("nvil", "it is reinforce-baseline"),
        ("reinmax", "exact discrete samples; closest: vimco"),
        ("Gumbel-Softmax", "iwae with tau > 0"),
        ("msc", "closest: rws"),
        ("disarm", "coupled particles; closest: vimco, rloo"),
        ("piwae", "e.g. piwae-vimco"),
        ("vr-iwae", "with alpha=0.5"),
    ],
)
def test_names_of_the_literature_are_answered_with_the_closest(name, answer):
    with pytest.raises(ValueError, match=rf"estimator '{name}' is not in ovis: .*{answer}"):
        parse_estimator(name)


def test_every_answer_names_an_id_that_exists():
    for name, answer in _ELSEWHERE.items():
        with pytest.raises(ValueError, match="is not in ovis"):
            parse_estimator(name)
        words = {word.rstrip(".") for word in re.findall(r"[a-z][\w.-]*", answer)}
        assert words & set(example_ids()), f"{name}: {answer}"
