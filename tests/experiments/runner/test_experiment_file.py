"""Experiment files: what they expand to, and that everything wrong with one is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovis.experiments.runner import experiment_file as grid
from ovis.experiments.runner.experiment_file import GridError, load_experiment, parse_experiment

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
VIMCO = {"args": ["--estimator vimco --iw 2"]}
RWS = {"args": ["--estimator rws"]}


def test_runs_are_the_product_of_args_and_lists() -> None:
    experiment = parse_experiment(
        {
            "description": "a test",
            "script": "train",
            "args": ["--estimator vimco --id a", "--estimator rws --lr 1e-4"],
            "global": "--nsteps 1e3 --lr 1e-3",
            "parameters": {"iw": [20, 10], "seed": [1, 2, 3]},
        }
    )
    runs = [run.settings for run in experiment.runs]
    assert [(s.estimator, s.iw, s.seed) for s in runs] == [
        (estimator, iw, seed) for estimator in ("vimco", "rws") for iw in (20, 10) for seed in (1, 2, 3)
    ]
    assert {s.nsteps for s in runs} == {1000}
    assert [s.lr for s in runs] == [1e-3] * 6 + [1e-4] * 6  # an entry overrides what is global
    assert {s.id for s in runs} == {"a", ""}
    assert experiment.description == "a test"


def test_values_may_be_numbers_strings_and_booleans() -> None:
    parameters = {
        "learn_prior": [True, False],
        "freebits": ["none", 0.5],
        "lr": [1],
        "grad_key": ["A,b"],
        "iw": ["1e2"],
    }
    runs = [run.settings for run in parse_experiment({"args": ["--estimator vimco"], "parameters": parameters}).runs]
    assert [(s.learn_prior, s.freebits) for s in runs] == [(True, None), (True, 0.5), (False, None), (False, 0.5)]
    assert {(s.lr, s.grad_key, s.iw) for s in runs} == {(1.0, "A,b", 100)}


def test_zipped_lists_vary_together() -> None:
    runs = parse_experiment(
        {**RWS, "zip": {"iw": [5, 50], "lr": [1e-3, 1e-4]}, "parameters": {"bs": [24, 50]}, "seeds": 2}
    ).runs
    assert [(s.bs, s.iw, s.lr, s.seed) for s in (run.settings for run in runs)] == [
        (bs, iw, lr, seed) for bs in (24, 50) for iw, lr in ((5, 1e-3), (50, 1e-4)) for seed in (1, 2)
    ]


def test_several_zips_multiply() -> None:
    runs = parse_experiment({**RWS, "zip": [{"iw": [5, 50], "bs": [1, 2]}, {"lr": [0.1, 0.2, 0.3]}]}).runs
    assert {(s.iw, s.bs, s.lr) for s in (run.settings for run in runs)} == {
        (iw, bs, lr) for iw, bs in ((5, 1), (50, 2)) for lr in (0.1, 0.2, 0.3)
    }


@pytest.mark.parametrize(("seeds", "expected"), [(3, [1, 2, 3]), ([13, 7], [13, 7])])
def test_seeds(seeds: Any, expected: list[int]) -> None:
    runs = parse_experiment({**VIMCO, "seeds": seeds}).runs
    assert [run.settings.seed for run in runs] == expected
    assert {run.key for run in runs} == {
        run.key for run in parse_experiment({**VIMCO, "parameters": {"seed": expected}}).runs
    }


def test_words_are_split_as_by_a_shell_and_never_run_by_one() -> None:
    (run,) = parse_experiment({"args": ["--id '$(touch x) ; a b'"]}).runs
    assert run.settings.id == "$(touch x) ; a b"


def test_data_root_and_device_may_be_set_for_all_runs() -> None:
    experiment = parse_experiment({**VIMCO, "global": "--data_root /data --device cpu", "parameters": {"seed": [1, 2]}})
    assert (experiment.data_root, experiment.device) == ("/data", "cpu")
    assert (parse_experiment(VIMCO).data_root, parse_experiment(VIMCO).device) == (None, None)


REFUSED: list[tuple[Any, list[str]]] = [
    ([], ["expected a JSON object", "a list"]),
    ({"parametres": {}}, ["unknown key 'parametres'", "did you mean 'parameters'"]),
    ({"script": "trian"}, ["script", "'trian'", "did you mean 'train'"]),
    ({"description": 3}, ["description", "a string", "a number"]),
    ({"global": ["--iw 3"]}, ["global", "a string", "a list"]),
    ({"global": "--id 'open"}, ["global", "split"]),
    ({"report": "--keys iw"}, ["unknown key 'report'"]),
    ({"args": ["--iw 3 --iw 5"]}, ["args[0]", "--iw is there twice"]),
    ({"args": ["--iw=3 --iw 3"]}, ["args[0]", "--iw is there twice"]),
    ({"global": "--mini --no-mini"}, ["global", "--mini is there twice"]),
    ({"args": "--estimator vimco"}, ["args", "a list of strings", "a string"]),
    ({"args": []}, ["args", "empty"]),
    ({"args": ["--iw 3", 4]}, ["args[1]", "a number"]),
    (
        {"args": ["--estimator vimco --iw 2", "--estimater rws"]},
        ["args[1]", "'--estimater'", "did you mean '--estimator'"],
    ),
    ({"args": ["--iw=3 --lerning_rate=4"]}, ["args[0]", "unknown option", "--lerning_rate"]),
    ({"args": ["--iw three"]}, ["args[0]", "--iw", "three"]),
    ({"args": ["stray"]}, ["args[0]", "stray"]),
    ({"args": ["--estimator vimco"]}, ["args[0]", "--iw", "at least 2"]),
    ({"args": ["--estimator rws --freebits 1"]}, ["args[0]", "--freebits", "rws"]),
    ({"args": ["--estimator vimko"]}, ["args[0]", "unknown estimator 'vimko'", "did you mean 'vimco'"]),
    ({"global": "--dataset digitz"}, ["global", "--dataset", "did you mean 'digits'"]),
    ({"global": "--nsteps 0"}, ["global", "--nsteps", "at least 1"]),
    ({"global": "--exp other"}, ["global", "--exp", "manager.py"]),
    ({"args": ["--root=/tmp"]}, ["args[0]", "--root", "manager.py"]),
    ({"parameters": {"root": ["/tmp"]}}, ["parameters.root[0]", "--root", "manager.py"]),
    ({"parameters": ["iw"]}, ["parameters", "an object of lists", "a list"]),
    ({"parameters": {"iww": [3]}}, ["parameters", "'iww'", "did you mean 'iw'"]),
    ({"parameters": {"iw": 3}}, ["parameters.iw", "a list of values", "a number"]),
    ({"parameters": {"seed": [1], "iw": []}}, ["parameters.iw", "empty"]),
    ({"parameters": {"iw": [3, "x"]}}, ["parameters.iw[1]", "x"]),
    ({"parameters": {"iw": [3, 2.5]}}, ["parameters.iw[1]", "2.5"]),
    ({"parameters": {"iw": [3, None]}}, ["parameters.iw[1]", "null"]),
    ({"parameters": {"iw": [[3]]}}, ["parameters.iw[0]", "a list"]),
    ({"parameters": {"iw": [True]}}, ["parameters.iw[0]", "a number or a string", "true"]),
    ({"parameters": {"learn_prior": [1]}}, ["parameters.learn_prior[0]", "true or false", "1"]),
    ({"parameters": {"learn_prior": ["true"]}}, ["parameters.learn_prior[0]", "true or false"]),
    ({"parameters": {"estimator": ["vimco", "vimko"]}}, ["parameters.estimator[1]", "vimko", "did you mean 'vimco'"]),
    ({"parameters": {"lr": [float("nan")]}}, ["parameters.lr[0]", "finite"]),
    ({"args": ["--iw 3"], "parameters": {"iw": [4]}}, ["--iw", "args[0]", "and in parameters"]),
    ({"global": "--iw=3", "parameters": {"iw": [4]}}, ["--iw", "global", "and in parameters"]),
    ({"global": "--no-mini", "parameters": {"mini": [True]}}, ["--mini", "global", "and in parameters"]),
    ({"args": ["--estimator vimco --iw 2", "--estimator vimco-arithmetic --iw 2"]}, ["one run", "args[0]", "args[1]"]),
    ({"args": ["--lr 0.002", ""]}, ["one run", "args[0]", "args[1]"]),  # the default, explicit and implicit
    ({"parameters": {"seed": [1, 2, 1]}}, ["one run", "seed=1"]),
    ({"parameters": {"device": ["cpu", "cuda"]}}, ["one run", "device=cpu"]),
    ({"args": ["--device cpu --seed 1", "--device cuda --seed 2"]}, ["--device", "cpu, cuda"]),
    ({"zip": 3}, ["zip", "an object of lists", "a number"]),
    ({"zip": {"iw": [2, 3], "lr": [1]}}, ["zip", "one length", "iw has 2, lr has 1"]),
    ({"zip": {"iww": [2]}}, ["zip", "'iww'", "did you mean 'iw'"]),
    ({"zip": [{"iw": [2]}, {"lr": []}]}, ["zip[1].lr", "empty"]),
    ({"zip": [{"iw": [2]}, {"iw": [3]}]}, ["--iw", "zip[0] and in zip[1]"]),
    ({"zip": {"iw": [2]}, "parameters": {"iw": [3]}}, ["--iw", "parameters and in zip"]),
    ({"zip": {"iw": [2]}, "global": "--iw 4"}, ["--iw", "global and in zip"]),
    ({"zip": {"seed": [2]}, "seeds": 3}, ["--seed", "zip and in seeds"]),
    ({"seeds": 3, "parameters": {"seed": [3]}}, ["--seed", "parameters and in seeds"]),
    ({"seeds": 0}, ["seeds", "from 1 to", "got 0"]),
    ({"seeds": True}, ["seeds", "a number of seeds or a list", "true/false"]),
    ({"seeds": [1, "x"]}, ["seeds.seed[1]", "x"]),
    ({"seeds": []}, ["seeds.seed", "empty"]),
    ({"seeds": [4, 4]}, ["one run", "seed=4"]),
    ({"parameters": {"seed": list(range(200)), "iw": list(range(1, 201))}}, ["40000 runs", "split"]),
]


@pytest.mark.parametrize(("data", "fragments"), REFUSED, ids=[str(fragments) for _, fragments in REFUSED])
def test_errors_are_one_line_with_the_culprit(data: Any, fragments: list[str]) -> None:
    with pytest.raises(GridError) as caught:
        parse_experiment(data)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_the_message_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"args": []}')
    with pytest.raises(GridError, match=r"x\.json: args"):
        load_experiment(path)


def test_broken_json_is_shown_where_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{\n  "args": [,]\n}')
    with pytest.raises(GridError, match=r"x\.json, line 2, column 12: not valid JSON"):
        load_experiment(path)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"parameters": {"iw": [1], "seed": [1], "iw": [2]}}')
    with pytest.raises(GridError, match=r"x\.json: the key 'iw' is there twice"):
        load_experiment(path)


MANY = list(range(1, 60_001))


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ({"parameters": {"seed": MANY}}, 60_000),
        ({"parameters": {"seed": MANY, "iw": []}}, 60_000),
        ({"zip": {"seed": MANY, "iw": MANY}}, 60_000),
        ({"zip": [{"bs": [1, 2]}, {"seed": MANY, "iw": MANY}]}, 120_000),
        ({"seeds": MANY}, 60_000),
        ({"seeds": 20_000, "args": ["", "--iw 3"]}, 40_000),
        ({"args": [f"--seed {seed}" for seed in MANY]}, 60_000),
    ],
    ids=["list", "beside an empty one", "zip", "zips", "seeds", "number of seeds", "args"],
)
def test_too_many_runs_are_refused_before_any_value_is_converted(
    content: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "_value", None)
    with pytest.raises(GridError, match=rf"^{count} runs: at most 30000 fit one experiment"):
        parse_experiment(content)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"parameters": {"seed": [' + "1" * 5000 + "]}}"], ids=["deep", "long"]
)
def test_json_beyond_the_parser_s_limits_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(GridError, match=r"x\.json: can't be read as JSON: nested too deeply, or a number of too many"):
        load_experiment(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GridError, match=r"can't read the experiment file .*x\.json"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gaussian-mixture-model", 400),
        ("sigmoid-belief-network", 324),
        ("gaussian-vae", 189),
        ("gaussian-toy", 150),
        ("budget-analysis", 105),
        ("budget-analysis-sbm", 105),
        ("mini-vae", 24),
    ],
)
def test_the_reference_experiments_have_their_size(name: str, count: int) -> None:
    assert len(load_experiment(EXPERIMENTS / f"{name}.json").runs) == count


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_experiment_expands(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.description
    assert len({run.record().name for run in experiment.runs}) == len(experiment.runs)


def test_the_order_in_the_file_changes_no_run() -> None:
    one = parse_experiment({"global": "--iw 3 --lr 1e-4", "parameters": {"seed": [1, 2], "N": [3, 4]}})
    two = parse_experiment({"global": "--lr 0.0001 --iw=3", "parameters": {"N": [4, 3], "seed": [2, 1]}})
    assert {run.key for run in one.runs} == {run.key for run in two.runs}


def test_one_parser_serves_a_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    real = grid.build_parser
    monkeypatch.setattr(grid, "build_parser", lambda **options: built.append(1) or real(**options))
    parse_experiment({**VIMCO, "parameters": {"seed": list(range(50))}})
    assert built == [1]


def test_a_record_survives_json() -> None:
    (run,) = parse_experiment(VIMCO).runs
    assert type(run.record()).from_row(json.loads(json.dumps(run.record().to_row()))) == run.record()
