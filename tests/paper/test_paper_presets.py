"""Which runs, series and metrics a report shows: conditions, estimators taken apart, what differs, defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.filters import COLUMNS, filter_runs, parse_condition, split_estimators
from ovis.experiments.reporting.data.read import ExperimentData, read_experiment
from ovis.experiments.reporting.data.select import differing_settings, how_evaluated, report_name
from ovis.experiments.reporting.metrics import Metric, Pivot, is_known, parse_limits, parse_pivot
from ovis.experiments.reporting.presets import Preset, preset_of
from ovis.experiments.reporting.report_spec import ReportRequest, ReportSpec, make_report_spec
from ovis.experiments.settings import TrainSettings
from ovis.paper.paper_presets import PRESETS, find_preset

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def runs(demo: Folder) -> Folder:
    demo.add("vimco", [1.0], iw=5, dataset="binmnist", mini=True)
    demo.add("vimco", [2.0], iw=50, dataset="binmnist")
    demo.add("ovis-gamma1", [3.0], iw=5, dataset="omniglot")
    demo.add("ovis-gamma1", [4.0], iw=50, dataset="omniglot", lr=3e-4)
    return demo


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ([], [1.0, 2.0, 3.0, 4.0]),
        (["iw=50"], [2.0, 4.0]),
        (["iw=50", "dataset=binmnist"], [2.0]),
        (["iw=5", "iw=50"], [1.0, 2.0, 3.0, 4.0]),
        (["estimator=vimco"], [1.0, 2.0]),  # a run's estimator is in its canonical form
        (["lr=0.0003"], [4.0]),
        (["lr=3e-4"], [4.0]),
        (["mini=true"], [1.0]),
    ],
)
def test_conditions(runs: Folder, conditions: list[str], kept: list[float]) -> None:
    experiment = filter_runs(read_experiment(runs.path), [parse_condition(text) for text in conditions])
    assert sorted(experiment.curves["value"]) == kept
    assert len(experiment.runs) == len(kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iw", "--filter: 'iw': expected key=value"),
        ("=3", "expected key=value"),
        ("dataste=binmnist", "--filter: no setting 'dataste'; did you mean 'dataset'? Valid: "),
        ("iw=7", "--filter: no run has iw=7; there: 5, 50"),
        ("dataset=fashion", "--filter: no run has dataset=fashion; there: binmnist, omniglot"),
    ],
)
def test_conditions_that_can_not_hold(runs: Folder, text: str, message: str) -> None:
    with pytest.raises(ValueError, match="--filter") as refused:
        filter_runs(read_experiment(runs.path), [parse_condition(text)])
    assert message in str(refused.value)


def test_conditions_name_the_report() -> None:
    assert (
        report_name("sbn", ["iwbound"], [], ["iw=50", "dataset=binmnist"]) == "sbn-inc=iwbound-iw=50-dataset=binmnist"
    )


def test_estimators_are_taken_apart(demo: Folder) -> None:
    names = [
        "ovis-gamma0.5",
        "ovis-S10-exclusive",
        "ovis-S0.2",
        "tvo-part5-config2-trapz",
        "tvo-part5-beta2",
        "rws",
        "x-y",
    ]
    for name in names:
        demo.add(name, [0.0])
    result = split_estimators(read_experiment(demo.path)).runs.set_index("estimator")[list(COLUMNS)]
    rows = {name: {k: v for k, v in row.items() if v != ""} for name, row in result.to_dict("index").items()}
    assert rows["ovis-gamma0.5"] == {"family": "ovis-gamma", "gamma": 0.5}
    assert rows["ovis-S10-exclusive"] == {"family": "ovis-S", "S": 10, "exclusive": True}
    assert rows["ovis-S0.2"] == {"family": "ovis-S", "S": 0.2, "exclusive": False}
    trapz = {"family": "tvo", "P": 5, "tvo_beta": "config2", "integration": "trapz"}
    assert rows["tvo-part5-config2-trapz"] == trapz
    assert rows["tvo-part5-beta2-left"] == {**trapz, "tvo_beta": 0.01, "integration": "left"}
    assert rows["wake-wake"] == {"family": "wake-wake"}
    assert rows["x-y"] == {"family": "x-y"}


def test_no_column_of_an_estimator_hides_a_setting() -> None:
    assert not set(COLUMNS) & set(TrainSettings.__dataclass_fields__)


def test_they_are_keys_and_conditions(demo: Folder) -> None:
    for name in ("ovis-S1-exclusive", "ovis-S10-exclusive", "vimco"):
        demo.add(name, [0.0])
    experiment = split_estimators(read_experiment(demo.path))
    assert len(filter_runs(experiment, [parse_condition("S=10")]).runs) == 1
    assert len(filter_runs(experiment, [parse_condition("family=ovis-S")]).runs) == 2
    assert make_report_spec(experiment, ReportRequest(keys=["family"]), Preset()).keys == [
        "family",
        "S",
    ]  # a mean is over seeds alone


def test_settings_that_differ_are_named_once(demo: Folder) -> None:
    for seed in (1, 2):
        demo.add("ovis-gamma1", [0.0], seed=seed, id="iwbound", alpha=0.0, warmup=0, alpha_init=0.9)
        demo.add("ovis-gamma1", [0.0], seed=seed, id="iwrbound", alpha=0.0, warmup=1000, alpha_init=0.99)
        demo.add("vimco", [0.0], seed=seed, id="iwbound", alpha=0.0, warmup=0, alpha_init=0.9)
    experiment = read_experiment(demo.path)
    assert differing_settings(experiment, ["estimator", "iw"]) == ["warmup"]
    assert differing_settings(experiment, ["estimator", "id"]) == []
    demo.add("vimco", [0.0], alpha=0.7, warmup=0, id="iwrbound", alpha_init=0.9)
    assert differing_settings(read_experiment(demo.path), ["estimator", "iw"]) == ["alpha", "warmup"]
    assert set(differing_settings(read_experiment(demo.path), [])) >= {"alpha", "warmup", "estimator"}


def chosen(folder: Folder, request: ReportRequest | None = None, preset: Preset | None = None) -> ReportSpec:
    return make_report_spec(read_experiment(folder.path), request or ReportRequest(), preset or Preset())


def test_series_come_apart_by_themselves_or_as_asked(demo: Folder) -> None:
    for alpha in (0.0, 0.7):
        demo.add("ovis-gamma1", [0.0], alpha=alpha, lr=1e-3 * (1 + alpha))
    assert chosen(demo).keys == ["estimator", "iw", "alpha"]
    assert chosen(demo).notes == ["runs of one series differ in alpha: drawn as series of their own"]
    assert chosen(demo, ReportRequest(merge_args=["lr"])).keys == ["estimator", "iw", "lr"]
    assert chosen(demo, ReportRequest(merge_args=["lr"])).notes == []
    averaged = chosen(demo, ReportRequest(merge_args=[]))
    assert averaged.keys == ["estimator", "iw"]
    assert averaged.notes[0].startswith("runs that are averaged differ in lr, alpha: ")
    with pytest.raises(ValueError, match="--merge_args: no setting 'alfa'; did you mean 'alpha'"):
        chosen(demo, ReportRequest(merge_args=["alfa"]))


def test_the_data_set_is_a_key_where_there_are_several(runs: Folder, demo: Folder) -> None:
    assert chosen(runs, ReportRequest(merge_args=[])).keys == ["dataset", "estimator", "iw"]


def once(demo: Folder, held_out: str) -> ExperimentData:
    """Two runs of three evaluations; of valid and test, what is not ``held_out`` is measured in the last one."""
    other = {"valid": "test", "test": "valid"}[held_out]
    for seed in (1, 2):
        values = {"train:loss/L_k": [-3.0, -2.0, -1.0], f"{held_out}:loss/L_k": [-4.0, -3.0, -3.5]}
        path = demo.add("vimco", values, seed=seed, select_on=held_out) / "metrics.jsonl"
        *lines, last = path.read_text().splitlines()
        path.write_text("\n".join([*lines, json.dumps({**json.loads(last), f"{other}:loss/L_k": -3.25})]) + "\n")
    return read_experiment(demo.path)


def test_a_metric_measured_once_is_a_point_and_says_what_chose_it(demo: Folder) -> None:
    evaluated = how_evaluated(once(demo, "valid"))
    assert (evaluated.once, evaluated.chosen_on) == ({METRIC}, "valid")
    pivot = parse_pivot(f"max:{METRIC}", evaluated)
    assert pivot.heading == "chosen on valid"
    assert pivot.phrase == "test bound L_K (chosen on valid)"
    assert pivot.label.splitlines()[1:] == ["test [nats]", "chosen on valid"]
    spec = chosen(demo)
    assert [metric.name for metric in spec.metrics] == ["train:loss/L_k", "valid:loss/L_k"]
    names = [pivot.name for pivot in spec.pivots]
    assert names == [f"max:{METRIC}", "max:train:loss/L_k", "last:train:loss/L_k", "max:time"]
    assert [pivot.name for pivot in spec.drawn] == names[:2]
    asked = chosen(demo, ReportRequest(metrics=[METRIC]))
    assert [metric.name for metric in asked.metrics] == [METRIC]
    assert asked.notes == [f"measured once per run, with the best parameters, so a point and no curve: {METRIC}"]


def test_the_best_on_the_test_set_says_so(demo: Folder) -> None:
    evaluated = how_evaluated(once(demo, "test"))
    assert (evaluated.once, evaluated.chosen_on) == ({"valid:loss/L_k"}, "test")
    pivot = parse_pivot(f"max:{METRIC}", evaluated)
    assert pivot.heading == "best, chosen on test"
    assert pivot.phrase == "best test bound L_K (chosen on test)"
    assert pivot.label.splitlines()[1:] == ["test, best [nats]", "chosen on test"]
    assert parse_pivot("max:train:loss/L_k", evaluated).label.splitlines()[1:] == ["train, best [nats]"]
    assert [metric.name for metric in chosen(demo).metrics] == ["train:loss/L_k", METRIC]


def test_one_evaluation_so_far_is_a_short_curve(demo: Folder) -> None:
    demo.add("vimco", [1.0], status=None)
    assert how_evaluated(read_experiment(demo.path)).once == set()


def test_what_is_not_measured_yet_is_left_out_with_a_note(demo: Folder) -> None:
    demo.add("vimco", {"train:loss/L_k": [1.0, 2.0]})
    spec = chosen(
        demo, ReportRequest(metrics=["train:loss/L_k", METRIC], pivot_metrics=[f"max:{METRIC}", "max:train:loss/L_k"])
    )
    assert [metric.name for metric in spec.metrics] == ["train:loss/L_k"]
    assert [pivot.name for pivot in spec.pivots] == ["max:train:loss/L_k"]
    assert spec.notes == [f"no run has measured this yet: {METRIC}"]
    with pytest.raises(ValueError, match="--metrics: no run has measured any of these; there: train:loss/L_k"):
        chosen(demo, ReportRequest(metrics=[METRIC]))


def test_a_preset_is_shown_as_far_as_the_runs_have_it(demo: Folder) -> None:
    demo.add("vimco", {"valid:gmm/prior_mse": [2.0, 1.0], "train:grads/snr": [1.0, 1.0]})
    spec = chosen(demo, preset=PRESETS["gaussian-mixture-model"])
    assert [metric.name for metric in spec.metrics] == ["valid:gmm/prior_mse", "train:grads/snr"]
    assert [pivot.name for pivot in spec.pivots] == ["min:valid:gmm/prior_mse", "mean:train:grads/snr"]
    assert spec.detailed == spec.metrics
    assert chosen(demo, ReportRequest(metrics=["train:grads/snr"]), PRESETS["gaussian-vae"]).metrics == [
        Metric("train:grads/snr")
    ]


def test_presets_are_valid_and_of_experiments_that_are_there() -> None:
    for name, preset in PRESETS.items():
        assert (EXPERIMENTS / f"{name}.json").is_file()
        pivots = [parse_pivot(text) for text in preset.pivot_metrics]
        assert all(isinstance(pivot, Pivot) for pivot in pivots)
        for metric in (*preset.metrics, *preset.detailed_metrics, *(pivot.metric.name for pivot in pivots)):
            assert is_known(metric), metric
        assert {parse_limits(text)[0] for text in preset.ylims} <= set(preset.metrics)


def test_every_experiment_of_the_paper_has_a_preset_and_small_ones_share_it() -> None:
    trainings = [p.stem for p in EXPERIMENTS.glob("*.json") if "asymptotic" not in p.stem and p.stem != "quickstart"]
    assert all(preset_of(name) != Preset() for name in trainings)
    full, mini = find_preset("sigmoid-belief-network"), find_preset("sigmoid-belief-network-mini")
    assert mini.pivot_metrics == full.pivot_metrics
    assert full.ylims
    assert not mini.ylims  # they are of the full experiment's numbers
    assert preset_of("quickstart") == preset_of("somebody-elses") == Preset()
