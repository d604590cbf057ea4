"""A run that no training leaves, or one of another version, is named and left out; the others are drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from mutations import encode
from synthetic_runs import METRIC, Folder

from ovis.experiments.cli.report import main
from ovis.experiments.reporting.data.aggregate import curve_table, pivot_table
from ovis.experiments.reporting.data.read import RESERVED, read_experiment
from ovis.experiments.reporting.metrics import Metric, parse_pivot
from ovis.experiments.reporting.page.provenance import list_environment
from ovis.experiments.reporting.tables import csv_text, wide_table

#: What is odd about a run -> its settings beside those of the other runs (None: the setting is missing), the reason.
ODD = {
    "no id": ({"id": None}, "config.json has no id"),
    "no estimator": ({"estimator": None}, "config.json has no estimator"),
    "iw is text": ({"iw": "many"}, "config.json: --iw: expected int, got 'many'"),
    "iw is huge": ({"iw": 10**400}, f"config.json: --iw: must be at most {2**53}"),
    "no finite number": ({"lr": math.nan}, "config.json: --lr: must be finite, got nan"),
    "estimator is a list": ({"estimator": ["vimco"]}, "config.json: --estimator: expected str, got ['vimco']"),
    "half a character": ({"id": "\ud800"}, "config.json can't be read (UnicodeEncodeError)"),
    "deep": ({"hidden": "<deep 100000>"}, "config.json can't be read (RecursionError)"),
    "metric": ({"metric": 1}, "config.json: no setting can be called 'metric', which is a column of the reports"),
}


def add_odd(demo: Folder, settings: dict[str, object]) -> str:
    """Add a run with these settings; the name of its folder."""
    folder = demo.add("vimco", [-50.0, -40.0])
    config = json.loads((folder / "config.json").read_text())
    changed = {**config["settings"], **settings}
    config["settings"] = {name: value for name, value in changed.items() if settings.get(name, "") is not None}
    (folder / "config.json").write_bytes(encode(config))
    return folder.name


def test_odd_runs_are_named_and_left_out(demo: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.add("vimco", [-90.0, -80.0])
    demo.add("rws", [-91.0, -81.0])
    expected = [f"skipped {add_odd(demo, settings)}: {reason} (unreadable)" for settings, reason in ODD.values()]
    before = {path: path.read_bytes() for path in demo.path.rglob("*.*") if path.is_file()}
    assert main(["--exp=demo", f"--root={demo.root}", f"--output={tmp_path}"]) == 0
    out, err = capsys.readouterr()
    assert sorted(line for line in out.splitlines() if line.startswith("skipped")) == sorted(expected)
    assert err == ""
    table = pd.read_csv(tmp_path / "demo" / "pivot.csv")
    assert dict(zip(table["estimator"], table[f"max:{METRIC}"], strict=True)) == {
        "vimco-arithmetic": -80.0,
        "wake-wake": -81.0,
    }
    assert (tmp_path / "demo" / "curves.png").stat().st_size > 0
    assert {path: path.read_bytes() for path in before} == before


def test_settings_that_no_run_has_are_no_fault(demo: Folder) -> None:
    for seed in (1, 2):
        add_odd(demo, {"id": None, "estimator": None, "seed": seed})
    assert len(read_experiment(demo.path).runs) == 2


def test_no_setting_has_the_name_of_a_column(demo: Folder) -> None:
    demo.add("vimco", [-90.0, -80.0])
    experiment = read_experiment(demo.path)
    pivot = pivot_table(experiment, ["estimator"], [parse_pivot(f"max:{METRIC}")])
    curves = curve_table(experiment, ["estimator"], [Metric(METRIC)], "std", pivot)
    tables = (pivot, curves, experiment.curves, wide_table(pivot, ["estimator"]))
    columns = {name for table in tables for name in table.columns if METRIC not in name}
    assert columns - {"estimator"} <= RESERVED


@pytest.mark.parametrize("line", ["<deep 100000>", {"step": 300, "\ud800:x": 1.0}, {"step": 300, METRIC: "<digits>"}])
def test_an_odd_line_is_skipped(demo: Folder, line: object) -> None:
    folder = demo.add("vimco", [1.0, 2.0])
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(encode(line) + b"\n")
    experiment = read_experiment(demo.path)
    assert (experiment.metrics, list(experiment.curves["value"])) == ([METRIC], [1.0, 2.0])


@pytest.mark.parametrize("started", [10**400, 1e300, -1e300, math.nan, math.inf, "now", None, [1.0]])
def test_an_odd_start_is_none(started: object) -> None:
    assert list_environment([{"started": 86400.0}, {"started": started}]) == [("started", "1970-01-02 00:00 UTC")]


def test_deep_outcomes_are_none(demo: Folder) -> None:
    folder = demo.add("vimco", [1.0])
    (folder / "outcome.json").write_bytes(encode("<deep 100000>"))
    assert list(read_experiment(demo.path).runs["state"]) == ["done"]  # as success.txt says


def test_text_is_no_formula_in_a_spreadsheet() -> None:
    texts = ["=HYPERLINK(0)", "+1+1", "-cmd", "@SUM(A1)", "\t=1", "a=b", "-1.5", "+inf", "", "'=1"]
    table = pd.DataFrame({"id": texts, "=x": 1, "value": [-1.5] * len(texts), "none": math.nan})
    lines = csv_text(table).split("\n")
    assert lines[0] == "id,'=x,value,none"
    cells = ["'=HYPERLINK(0)", "'+1+1", "'-cmd", "'@SUM(A1)", "'\t=1", "a=b", "-1.5", "+inf", "", "'=1"]
    assert lines[1:] == [*(f"{cell},1,-1.5," for cell in cells), ""]


def test_formulas_as_labels_are_text_in_the_tables(demo: Folder, tmp_path: Path) -> None:
    for place, text in enumerate(("=HYPERLINK(0)", r"\input{secret}", "@x")):
        demo.add("vimco", [-90.0 - place], id=text)
    assert main(["--exp=demo", f"--root={demo.root}", f"--output={tmp_path}", "--latex", "--keys=id"]) == 0
    labels = ["'=HYPERLINK(0)", r"\input{secret}", "'@x"]
    assert list(pd.read_csv(tmp_path / "demo" / "pivot.csv")["id"]) == labels
    assert set(pd.read_csv(tmp_path / "demo" / "curves.csv")["id"]) == set(labels)
    assert r"\textbackslash{}input\{secret\}" in (tmp_path / "demo" / "table.tex").read_text()
