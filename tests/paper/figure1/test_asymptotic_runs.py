"""Reading draws: parts of one K joined; running, broken, empty and foreign runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_draws import standard_draws, write_draws
from synthetic_runs import Folder

from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import Record, State
from ovis.paper.figure1.asymptotic_runs import read_study, select_estimators, toy_name

DRAWS = standard_draws(10, 3)


def test_parts_are_joined_in_the_order_of_their_draws(demo: Folder) -> None:
    whole = {"iwae": DRAWS, "ovis-gamma0": 2 * DRAWS}
    write_draws(demo.path, 5, {name: of[6:] for name, of in whole.items()}, first=6, part=2, parts=2)
    write_draws(demo.path, 5, {name: of[:6] for name, of in whole.items()}, first=0, part=1, parts=2)
    write_draws(demo.path, 3, {"iwae": DRAWS}, theory={"pathwise-iwae": {"snr": 0.5}})
    study = read_study(demo.path)
    result = [(s.estimator, s.iw, len(s.draws)) for s in study.samples]
    assert result == [("ovis-gamma0", 5, 10), ("pathwise-iwae", 3, 10), ("pathwise-iwae", 5, 10)]
    np.testing.assert_array_equal(study.samples[0].draws, 2 * DRAWS)
    np.testing.assert_array_equal(study.samples[0].numbers, range(10))
    assert [dict(s.theory) for s in study.samples] == [{}, {"snr": 0.5}, {}]
    assert (study.runs, dict(study.states), study.skipped, study.notes) == (3, {"done": 3}, (), ())


def test_a_draw_that_is_in_two_parts_counts_once(demo: Folder) -> None:
    write_draws(demo.path, 5, {"iwae": DRAWS[:6]}, part=1, parts=2)
    write_draws(demo.path, 5, {"iwae": DRAWS[2:]}, first=2)
    (sample,) = read_study(demo.path).samples
    np.testing.assert_array_equal(sample.draws, DRAWS)


def test_what_differs_in_the_toy_is_not_joined(demo: Folder) -> None:
    for epsilon, seed in ((0.01, 10), (0.1, 10), (0.01, 11)):
        write_draws(demo.path, 5, {"iwae": DRAWS}, epsilon=epsilon, seed=seed)
    samples = read_study(demo.path).samples
    toys = [sample.toy for sample in samples]
    assert [toy_name(toy, toys) for toy in toys] == ["ε = 0.01, seed 10", "ε = 0.01, seed 11", "ε = 0.1, seed 10"]
    assert toy_name(toys[0], toys[:1]) == "ε = 0.01"


def test_a_run_on_its_way_is_read_as_far_as_it_is(demo: Folder) -> None:
    run = write_draws(demo.path, 5, {"iwae": DRAWS[:4]}, file="gradients.partial.npz", status=None)
    study = read_study(demo.path)
    assert [len(s.draws) for s in study.samples] == [4]
    assert study.notes == (f"{run.name}: 4 draws so far (unfinished)",)
    assert dict(study.states) == {"unfinished": 1}


def test_runs_without_draws_are_reported(demo: Folder) -> None:
    write_draws(demo.path, 3, {"iwae": DRAWS})
    failed = write_draws(demo.path, 5, {"iwae": DRAWS}, file="", status="exception", message="out of memory")
    (demo.path / "notes").mkdir()
    training = demo.add("vimco", [1.0])
    paths = ExperimentPaths(demo.path)
    Queue(paths).add([Record("0" * 12, "asymptotic-iw9-000000000000", {"iw": 9})])
    study = read_study(demo.path)
    assert (study.runs, dict(study.states)) == (1, {"done": 1, "queued": 1, "failed": 1})
    assert {(s.name, s.reason, s.state) for s in study.skipped} == {
        (failed.name, "no draws yet: out of memory", "failed"),
        ("notes", "no config.json", "foreign"),
        (training.name, "no run of the asymptotic study", "foreign"),
        ("asymptotic-iw9-000000000000", "no folder yet", State.QUEUED.value),
    }


def broken_file(run: Path) -> None:
    (run / "gradients.npz").write_bytes((run / "gradients.npz").read_bytes()[:200])


def empty_file(run: Path) -> None:
    (run / "gradients.npz").write_bytes(b"")


def no_draw(run: Path) -> None:
    np.savez(run / "gradients.npz", draws=np.zeros((0, 1, 3)), first=0, estimators=np.array(["iwae"]), iw=5)


def objects(run: Path) -> None:
    np.savez(run / "gradients.npz", draws=np.array([{}]), first=0, estimators=np.array(["iwae"]), iw=5)


def other_shape(run: Path) -> None:
    np.savez(run / "gradients.npz", draws=np.zeros((4, 2, 3)), first=0, estimators=np.array(["iwae"]), iw=5)


def other_iw(run: Path) -> None:
    np.savez(run / "gradients.npz", draws=np.zeros((4, 1, 3)), first=0, estimators=np.array(["iwae"]), iw=6)


def array_missing(run: Path) -> None:
    np.savez(run / "gradients.npz", draws=np.zeros((4, 1, 3)))


def odd_setting(run: Path) -> None:
    (run / "config.json").write_text(json.dumps({"settings": {"estimators": "iwae", "iw": "many"}}))


def torn_config(run: Path) -> None:
    (run / "config.json").write_text('{"settings": {')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_file, "gradients.npz can't be read"),
        (empty_file, "gradients.npz can't be read"),
        (no_draw, "gradients.npz holds no draw"),
        (objects, "gradients.npz can't be read"),
        (other_shape, "draws of shape (4, 2, 3) and type float64, of 1 estimators"),
        (other_iw, "K = 6, but config.json says 5"),
        (array_missing, "gradients.npz can't be read"),
        (odd_setting, "config.json: --iw"),
        (torn_config, "config.json can't be read"),
    ],
)
def test_a_broken_run_is_reported_in_one_line_and_the_others_are_read(demo: Folder, damage, message: str) -> None:
    damage(write_draws(demo.path, 5, {"iwae": DRAWS}))
    write_draws(demo.path, 3, {"iwae": DRAWS})
    study = read_study(demo.path)
    assert [s.iw for s in study.samples] == [3]
    (skipped,) = study.skipped
    assert message in skipped.reason
    assert "\n" not in skipped.reason


def test_a_theory_that_can_not_be_read_is_no_reason_to_leave_a_run_out(demo: Folder) -> None:
    run = write_draws(demo.path, 3, {"iwae": DRAWS})
    for text in ("{", "[]", '{"theory": 3}', '{"theory": {"iwae": {"statistics": {"snr": "x"}}}}'):
        (run / "asymptotic.json").write_text(text)
        assert [dict(s.theory) for s in read_study(demo.path).samples] == [{}]


def test_estimators_are_selected_by_parts_of_their_ids(demo: Folder) -> None:
    write_draws(demo.path, 3, dict.fromkeys(("ovis-S1-exclusive", "ovis-S10-exclusive", "iwae"), DRAWS))
    study = read_study(demo.path)

    def names(include: list[str], exclude: list[str]) -> list[str]:
        return [s.estimator for s in select_estimators(study, include, exclude)]

    assert names([], ["ovis"]) == ["pathwise-iwae"]
    assert names(["ovis-S1"], []) == ["ovis-S1-exclusive", "ovis-S10-exclusive"]
    assert names(["ovis-S1-", "iwae"], []) == ["ovis-S1-exclusive", "pathwise-iwae"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_study(tmp_path / "none")
