"""Which runs a report is about, and what it refuses."""

from __future__ import annotations

import pytest
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.data.select import (
    check_keys,
    check_metrics,
    check_pivots,
    how_evaluated,
    mixed_settings,
    report_name,
    select_runs,
    shared_particles,
)
from ovis.experiments.reporting.metrics import Metric, make_metric, parse_limits, parse_pivot


@pytest.fixture
def labelled(demo: Folder) -> Folder:
    """VIMCO and gamma=1 on the one bound; gamma=1 and TVO on the other; TVO without a label."""
    demo.add("vimco", [1.0], id="iwbound")
    demo.add("ovis-gamma1", [2.0], id="iwbound")
    demo.add("ovis-gamma1", [3.0], id="iwrbound", alpha=0.9)
    demo.add("tvo-part2-config1", [4.0], id="iwrbound")
    demo.add("tvo-part5-config2", [5.0])
    return demo


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        ([], [], [1.0, 2.0, 3.0, 4.0, 5.0]),
        (["iwbound"], [], [1.0, 2.0]),
        (["iwrbound"], [], [3.0, 4.0]),
        (["iwrbound", "tvo"], [], [3.0, 4.0, 5.0]),
        ([], ["tvo"], [1.0, 2.0, 3.0]),
        (["iwrbound", "tvo"], ["tvo"], [3.0]),
        (["vimco-arithmetic"], [], [1.0]),  # the canonical form of what the folder's name calls vimco
        (["0000000000"], [], []),  # the hash is no part of a name
        (["nobody"], [], []),
    ],
)
def test_include_and_exclude(labelled: Folder, include: list[str], exclude: list[str], kept: list[float]) -> None:
    experiment = select_runs(read_experiment(labelled.path), include, exclude)
    assert sorted(experiment.curves["value"]) == kept
    assert len(experiment.runs) == len(kept)


def test_a_run_without_data_is_filtered_by_its_name(labelled: Folder) -> None:
    (labelled.path / "foreign").mkdir()
    empty = labelled.add("rws", [1.0], id="iwbound", status="failed")
    (empty / "metrics.jsonl").unlink()
    everything = read_experiment(labelled.path)
    assert select_runs(everything, ["iwbound"]).states == {"done": 2, "failed": 1}
    assert select_runs(everything, ["iwrbound"]).states == {"done": 2}
    assert [item.name for item in select_runs(everything, ["iwrbound"]).skipped] == ["foreign"]


@pytest.mark.parametrize(
    ("include", "exclude", "name"),
    [
        ([], [], "sbn"),
        (["iwbound"], [], "sbn-inc=iwbound"),
        (["iwrbound", "tvo"], [], "sbn-inc=iwrbound"),
        ([], ["tvo"], "sbn-exc=tvo"),
        (["../a b"], ["x"], "sbn-inc=.._a_b-exc=x"),
    ],
)
def test_name_of_the_report(include: list[str], exclude: list[str], name: str) -> None:
    assert report_name("sbn", include, exclude) == name


def test_what_no_run_has_is_refused_with_the_nearest_valid_word(labelled: Folder) -> None:
    experiment = read_experiment(labelled.path)
    assert check_keys(experiment, ["iw", "estimator", "iw"]) == ["iw", "estimator"]
    assert check_metrics(experiment, [METRIC, METRIC]) == [Metric(METRIC)]
    assert len(check_pivots(experiment, [parse_pivot("max:time"), parse_pivot(f"max:{METRIC}")])) == 2
    with pytest.raises(ValueError, match="no setting 'estimatr'; did you mean 'estimator'"):
        check_keys(experiment, ["estimatr"])
    with pytest.raises(ValueError, match=f"--metrics: no metric 'test:loss/Lk'; did you mean '{METRIC}'"):
        check_metrics(experiment, ["test:loss/Lk"])
    with pytest.raises(ValueError, match=f"--pivot_metrics: no metric 'test:loss/k'; did you mean '{METRIC}'"):
        check_pivots(experiment, [parse_pivot("max:test:loss/k")])


def test_averages_over_more_than_seeds_are_noticed(labelled: Folder) -> None:
    experiment = read_experiment(labelled.path)
    assert mixed_settings(experiment, ["estimator", "id"]) == []
    assert set(mixed_settings(experiment, ["estimator"])) == {"id", "alpha"}  # the two runs of gamma=1
    assert set(mixed_settings(experiment, [])) == {"estimator", "id", "alpha"}


def test_a_mean_over_seeds_and_places_is_none_of_them(demo: Folder) -> None:
    demo.add("vimco", [1.0], seed=1, root="a/")
    demo.add("vimco", [1.0], seed=2, root="b/")
    assert mixed_settings(read_experiment(demo.path), ["estimator"]) == []


def test_pivots_and_limits_are_read() -> None:
    pivot = parse_pivot("max:test:loss/L_k")
    assert (pivot.aggregate, pivot.metric.name, pivot.name) == ("max", "test:loss/L_k", "max:test:loss/L_k")
    assert parse_limits("test:loss/L_k:-94:-88") == ("test:loss/L_k", (-94.0, -88.0))


@pytest.mark.parametrize("text", ["test:loss/L_k", "mox:test:loss/L_k", "max:", "max"])
def test_wrong_pivots(text: str) -> None:
    with pytest.raises(ValueError, match="expected agg:metric"):
        parse_pivot(text)


@pytest.mark.parametrize(
    "text", ["test:loss/L_k:-94", "test:loss/L_k:a:b", "-1:1", "x:2:1", "x:1:1", "x:nan:1", "x:-inf:1"]
)
def test_wrong_limits(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected metric:lo:hi|must lie below"):
        parse_limits(text)


@pytest.mark.parametrize(
    ("name", "label", "text"),
    [
        ("train:loss/L_k", r"$\log\,p(x)$ bound $L_{K}$, train [nats]", "train bound L_K [nats]"),
        ("train:grads/snr", "gradient SNR, train", "train SNR"),
        ("time", "wall time per run [s]", "time [s]"),
        ("train:new/some_thing", "new/some thing, train", "train new/some_thing"),
    ],
)
def test_labels_of_metrics(name: str, label: str, text: str) -> None:
    assert (Metric(name).label, Metric(name).text) == (label, text)


def test_a_bound_says_with_how_many_particles_it_is_evaluated(demo: Folder) -> None:
    for seed in (1, 2):
        demo.add("rws", [-1.0], seed=seed, iw_test=100, iw_valid=10 * seed)
    evaluated = how_evaluated(read_experiment(demo.path))
    assert evaluated.particles == {"train": 100, "test": 100}  # the runs differ in iw_valid
    assert parse_pivot("max:test:loss/L_k", evaluated).metric.text == "test bound L_100 [nats]"
    assert make_metric("train:loss/L_k", evaluated).label == r"$\log\,p(x)$ bound $L_{100}$, train [nats]"
    assert make_metric("valid:loss/L_k", evaluated).text == "valid bound L_K [nats]"
    demo.add("vimco", [-1.0])  # of a version without this setting
    assert shared_particles(read_experiment(demo.path)) == {}


@pytest.mark.parametrize(
    ("text", "heading"),
    [
        ("max:test:loss/L_k", "best, chosen on test"),
        ("max:train:loss/L_k", "best"),
        ("min:test:loss/L_k", "min"),
        ("min:train:loss/kl_q_p", "best"),
        ("last:test:loss/L_k", "final"),
        ("mean:train:grads/snr", "mean"),
        ("max:unknown", "max"),
        ("max:time", "per run"),
    ],
)
def test_headings_of_pivots(text: str, heading: str) -> None:
    assert parse_pivot(text).heading == heading
