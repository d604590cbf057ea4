"""The options of a training run: what is read, what is refused, and what makes two runs one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import typing

import pytest

from ovis.experiments.runs.identity import differences
from ovis.experiments.settings import SettingsError, TrainSettings, build_parser, parse_arguments

FIELDS = {item.name: item for item in dataclasses.fields(TrainSettings)}
KINDS = {
    name: next(t for t in typing.get_args(kind) or (kind,) if t is not type(None))
    for name, kind in typing.get_type_hints(TrainSettings).items()
}
PARSER = build_parser()


def names(*kinds: type) -> list[str]:
    return [name for name, kind in KINDS.items() if kind in kinds]


def limited(which: str) -> list[str]:
    return [name for name, item in FIELDS.items() if item.metadata[which] is not None]


def parse(*words: str) -> TrainSettings:
    return parse_arguments(words, PARSER, partial=True)


def test_without_options_all_settings_are_defaults():
    assert parse() == TrainSettings()
    assert differences(TrainSettings()) == {}


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_read_from_the_command_line(name):
    item, kind = FIELDS[name], KINDS[name]
    if kind is bool:
        assert getattr(parse(f"--{name}"), name) is True
        assert getattr(parse(f"--no-{name}"), name) is False
        return
    choices = item.metadata["choices"]
    words_of = {"estimator": "vimco", "particles_per_pass": "7"}
    value = list(choices)[-1] if choices else {int: 7, float: 0.25, str: words_of.get(name, "word")}[kind]
    for words in ([f"--{name}", str(value)], [f"--{name}={value}"]):
        result = getattr(parse(*words), name)
        assert result == value
        assert type(result) is kind


@pytest.mark.parametrize("name", names(int, float, bool))
def test_every_option_refuses_a_word_for_a_number(name):
    with pytest.raises(SettingsError, match=f"--{name}"):
        parse(f"--{name}=word")
    with pytest.raises(SettingsError, match=f"^--{name}: expected {KINDS[name].__name__}, got 'word'"):
        TrainSettings(**{name: "word"})


@pytest.mark.parametrize("name", names(str, int, float))
def test_every_option_refuses_a_boolean_for_anything_else(name):
    with pytest.raises(SettingsError, match=f"^--{name}: expected {KINDS[name].__name__}, got True"):
        TrainSettings(**{name: True})


@pytest.mark.parametrize("name", names(str, bool))
def test_words_and_switches_refuse_a_number(name):
    with pytest.raises(SettingsError, match=f"^--{name}: expected {KINDS[name].__name__}, got 1"):
        TrainSettings(**{name: 1})


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "freebits"])
def test_every_option_but_freebits_refuses_none(name):
    with pytest.raises(SettingsError, match=f"^--{name}: expected"):
        TrainSettings(**{name: None})


@pytest.mark.parametrize("name", names(int))
def test_whole_numbers_are_read_as_people_write_them_and_fractions_refused(name):
    assert getattr(parse(f"--{name}", "1e3"), name) == 1000
    assert getattr(parse(f"--{name}", "1_000"), name) == 1000
    assert type(getattr(parse(f"--{name}", "1e3"), name)) is int
    for text in ("1.5", "nan", "inf", "1e400", "", "0x10"):
        with pytest.raises(SettingsError, match=f"argument --{name}: invalid int value: '{text}'"):
            parse(f"--{name}", text)
    with pytest.raises(SettingsError, match=f"^--{name}: expected int, got 1.5"):
        TrainSettings(**{name: 1.5})


@pytest.mark.parametrize("name", names(float))
def test_real_numbers_must_be_finite(name):
    for text in ("nan", "inf", "-inf"):
        with pytest.raises(SettingsError, match=f"^--{name}: must be"):
            parse(f"--{name}={text}")


@pytest.mark.parametrize("name", limited("low"))
def test_every_option_refuses_what_is_below_its_range(name):
    low = FIELDS[name].metadata["low"]
    for value in (low - 1, low - 1000):
        with pytest.raises(SettingsError, match=f"^--{name}: must be at least {low}, got {value}"):
            TrainSettings(**{name: value})
        with pytest.raises(SettingsError, match=f"^--{name}: must be at least {low}"):
            parse(f"--{name}={value}")
    if name != "epochs":
        assert getattr(TrainSettings(**{name: low}), name) == low


@pytest.mark.parametrize("name", limited("high"))
def test_every_option_refuses_what_is_above_its_range(name):
    high = FIELDS[name].metadata["high"]
    with pytest.raises(SettingsError, match=f"^--{name}: must be at most {high}, got {high + 1}"):
        TrainSettings(**{name: high + 1})
    assert getattr(TrainSettings(**{name: high}), name) == high


def test_alpha_of_one_is_refused():
    for name in ("alpha", "alpha_init"):
        with pytest.raises(SettingsError, match=f"^--{name}: must be at most 0.999999, got 1.0"):
            parse(f"--{name}=1")


def test_the_ranges_are_those_that_make_sense():
    unlimited = set(names(int, float)) - set(limited("low"))
    assert unlimited == {"freebits"}
    assert {name for name in names(int) if FIELDS[name].metadata["low"] < 0} == {"epochs"}


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].metadata["choices"]])
def test_every_choice_is_taken_and_others_refused_with_the_nearest(name):
    choices = FIELDS[name].metadata["choices"]
    for choice in choices:
        assert getattr(parse(f"--{name}", choice), name) == choice
        wrong = f"{choice}_"
        with pytest.raises(
            SettingsError, match=f"^--{name}: unknown value '{wrong}'; did you mean '{choice}'.*Valid: "
        ):
            parse(f"--{name}", wrong)
    with pytest.raises(SettingsError, match=f"^--{name}: unknown value ''; Valid: {', '.join(choices)}"):
        parse(f"--{name}=")


def test_particles_of_a_pass_are_a_number_all_or_auto():
    for text in ("all", "auto", "1", "1000"):
        assert parse("--particles_per_pass", text).particles_per_pass == text
    for text in ("0", "-1", "1.5", "1e3", "007", "\u0663", "", "none", "Auto"):
        message = f"^--particles_per_pass: unknown value '{text}'; valid: all, auto, or an integer of at least 1"
        with pytest.raises(SettingsError, match=message):
            parse(f"--particles_per_pass={text}")


def test_batch_normalization_wants_all_particles():
    words = ["--iw=10", "--model=vae", "--prior=normal", "--normalization=batchnorm"]
    for text in ("auto", "3"):
        with pytest.raises(SettingsError, match=r"^--particles_per_pass: --normalization batchnorm sees all particles"):
            parse_arguments([*words, f"--particles_per_pass={text}"])
        parse_arguments([*words, f"--particles_per_pass={text}", "--nlayers=0"])
    parse_arguments([*words, "--particles_per_pass=all"])


def test_zero_epochs_are_refused():
    with pytest.raises(SettingsError, match=r"^--epochs: 0 trains nothing"):
        parse("--epochs", "0")
    assert parse("--epochs", "-1").epochs == -1


@pytest.mark.parametrize(("text", "value"), [("none", None), ("None", None), ("0", 0.0), ("0.5", 0.5), ("-1", -1.0)])
def test_freebits_is_a_number_or_none(text, value):
    assert parse(f"--freebits={text}").freebits == value
    with pytest.raises(SettingsError, match="argument --freebits: invalid float or none value: 'nothing'"):
        parse("--freebits", "nothing")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--estimatr", "--estimator"),
        ("--estimatr=vimco", "--estimator"),
        ("--LR", "--lr"),
        ("--iww", "--iw"),
        ("--n_steps", "--nsteps"),
        ("--warm-up", "--warmup"),
        ("--alpha-init", "--alpha_init"),
        ("--estim", "--estimator"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(word, near):
    with pytest.raises(SettingsError, match=f"unknown option '{word}'; did you mean '{near}'") as refused:
        parse(word)
    assert str(refused.value).endswith("?")  # and not the list of all sixty


@pytest.mark.parametrize("words", [["word"], ["--iw", "5", "6"], ["-x"]])
def test_words_that_are_no_option_are_refused(words):
    with pytest.raises(SettingsError, match="unknown option"):
        parse(*words)


def test_an_option_without_its_value_is_refused():
    for words in (["--iw"], ["--iw", "--lr", "1"]):
        with pytest.raises(SettingsError, match="argument --iw: expected one argument"):
            parse(*words)


@pytest.mark.parametrize("estimator", ["vimko", "ovis-gamma2", "ovis-S0", "tvo-part2", ""])
def test_an_estimator_that_does_not_exist_is_refused(estimator):
    with pytest.raises(SettingsError, match=r"^--estimator: "):
        parse(f"--estimator={estimator}")
    with pytest.raises(SettingsError, match=r"^--estimator: "):
        TrainSettings(estimator=estimator)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainSettings().iw = 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("--estimator=vimco", "--estimator=vimco-arithmetic"),
        ("--estimator=rws", "--estimator=wake-wake"),
        ("--estimator=ovis-gamma1", "--estimator=ovis-gamma1.0"),
        ("--estimator=tvo-part2-config1", "--estimator=tvo-config1-part2-left"),
        ("--nsteps=1e5", "--nsteps=100000"),
        ("--lr=1e-3", "--lr=0.001"),
        ("--lr=1", "--lr=1.0"),
        ("--mini", "--mini"),
        ("--freebits=2", "--freebits=2.0"),
    ],
)
def test_two_spellings_of_one_run_have_equal_differences(one, other):
    result = [json.dumps(differences(parse(word))) for word in (one, other)]
    assert result[0] == result[1] != "{}"


def test_numbers_given_in_code_and_on_the_command_line_make_one_run():
    """To the letter: the run's key is a hash of the JSON."""
    in_code = TrainSettings(lr=1, beta=2, freebits=3, tau=0, alpha=0)
    spelled = parse("--lr=1", "--beta=2.0", "--freebits=3")
    assert json.dumps(differences(in_code)) == json.dumps(differences(spelled))


@pytest.mark.parametrize("name", FIELDS)
def test_a_difference_is_what_is_not_the_default_and_matters(name):
    item, kind = FIELDS[name], KINDS[name]
    other = {
        bool: lambda default: not default,
        int: lambda default: default + 6,
        float: lambda default: 0.125,
        str: lambda default: next((c for c in item.metadata["choices"] or () if c != default), "vimco"),
    }
    value = "7" if name == "particles_per_pass" else other[kind](item.default)
    readers = {
        "baseline_lr": {"estimator": "reinforce-baseline"},
        "b_nlayers": {"estimator": "reinforce-baseline"},
        "alpha_init": {"warmup": 5},
        "warmup_offset": {"warmup": 5},
        "warmup_mode": {"warmup": 5},
        "depth": {"model": "sbm"},
        "K": {"prior": "categorical"},
        "kdim": {"prior": "categorical"},
        "npoints_au_analysis": {"mc_au_analysis": 5},
    }
    reader = readers.get(name, {})
    expected = {name: "vimco-arithmetic" if name == "estimator" else value} if item.metadata["identity"] else {}
    if name == "dataset":  # digits and shapes are images, gmm brings a model
        value = expected[name] = "digits"
    assert differences(TrainSettings(**reader, **{name: value})) == {**reader, **expected}


def test_only_where_to_run_does_not_matter():
    unmarked = {name for name, item in FIELDS.items() if not item.metadata["identity"]}
    assert unmarked == {"exp", "root", "data_root", "device"}


def test_differences_are_sorted_and_read_back():
    settings = parse("--seed=3", "--iw=5", "--estimator=vimco", "--alpha=0.5", "--mini", "--freebits=0.5")
    result = differences(settings)
    assert list(result) == sorted(result)
    assert differences(TrainSettings(**result)) == result
    assert json.loads(json.dumps(result)) == result


def test_help_shows_every_option_once():
    text = PARSER.format_help()
    for name in FIELDS:
        assert len(re.findall(rf"^  --{name}[ ,]", text, re.MULTILINE)) == 1
    assert isinstance(PARSER, argparse.ArgumentParser)
    assert all(item.metadata["help"] for item in FIELDS.values())


def test_help_leaves_by_itself_and_nothing_else_does(capsys):
    with pytest.raises(SystemExit) as left:
        parse("--help")
    assert left.value.code == 0
    assert "--estimator" in capsys.readouterr().out


def test_infinities_are_refused_in_code_too():
    for value in (math.nan, math.inf):
        with pytest.raises(SettingsError, match=r"^--lr: must be finite"):
            TrainSettings(lr=value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--estimator rws --freebits 1", "--freebits"),
        ("--estimator tvo-part2-config1 --iw 5 --warmup 10", "--warmup"),
        ("--estimator vimco --iw 4 --tau 0.5", "--tau"),
        ("--estimator iwae --prior normal --tau 0.5", "--tau"),
        ("--estimator iwae --dataset gaussian-toy --tau 0.5", "--tau"),
        ("--seed 20000000000000", "--seed"),
        ("--estimator ovis-S4 --iw 4", "--iw"),
        ("--estimator iwae --model sbm", "reparameterized"),
        ("--estimator iwae --dataset gmm", "reparameterized"),
        ("--estimator iwae --prior categorical", "--tau"),
        ("--model gmm --dataset digits", "--dataset gmm"),
        ("--grad_samples 1", "--grad_samples"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message):
    with pytest.raises(SettingsError, match=message):
        parse_arguments(words.split())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("--model sbm --prior normal", "--model sbm --prior bernoulli"),
        ("--model vae --kdim 4", "--model vae"),
        ("--model gaussian-vae --depth 5 --K 3", "--model gaussian-vae"),
        ("--dataset gmm --model sbm", "--dataset gmm"),
        ("--epochs 3 --nsteps 7", "--epochs 3"),
        ("--alpha_init 0.5 --warmup_mode linear", ""),
        ("--b_nlayers 3 --baseline_lr 1", ""),
        ("--grad_samples 0 --grad_bs 3", "--grad_samples 0"),
    ],
)
def test_options_that_nothing_reads_make_no_other_run(a, b):
    assert differences(parse_arguments(a.split())) == differences(parse_arguments(b.split()))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("--model vae --prior categorical --kdim 4", "--model vae --prior categorical"),
        ("--dataset gaussian-toy --N 3", "--dataset gaussian-toy"),
        ("--estimator reinforce-baseline --b_nlayers 3", "--estimator reinforce-baseline"),
        ("--estimator vimco --iw 2 --warmup 10 --alpha_init 0.5", "--estimator vimco --iw 2 --warmup 10"),
        ("--nsteps 7", ""),
        ("--model sbm --depth 2", "--model sbm"),
    ],
)
def test_options_that_something_reads_make_another_run(a, b):
    assert differences(parse_arguments(a.split())) != differences(parse_arguments(b.split()))


def test_help_lists_the_valid_values():
    assert "gaussian-toy, gmm, mnist, omniglot, shapes" in " ".join(build_parser().format_help().split())
