"""The table of runs, and choosing runs by what people type."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from laboratory import record

from ovis.experiments.runner.display.rich_status import draw_status
from ovis.experiments.runner.display.status_table import RowLimits, plain_status
from ovis.experiments.runner.display.text import make_console
from ovis.experiments.runner.display.watch import FittedLines
from ovis.experiments.runner.overview import Overview, RunningRun
from ovis.experiments.runner.run_selection import SelectionError, find_runs, pick_runs
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import Progress, Record, State

NOW = 10_000.0


def named(key: str, state: State = State.QUEUED, **more: Any) -> Record:
    name = f"iwbound-fashion-mnist-sbm-ovis-gamma1-iw100-seed1-{key}"
    return record(key, **{"name": name, "state": state, **more})


def overview(*records: Record, total: int = 0, progress: Progress | None = None, orphans: str = "") -> Overview:
    running = {
        r.key: RunningRun(r.name, r.device, progress, NOW - r.started) for r in records if r.state is State.RUNNING
    }
    paths = ExperimentPaths(Path("runs/lab"))
    return Overview(paths, records, total or len(records), running, frozenset(orphans.split()), NOW)


def drawn(seen: Overview, width: int, height: int | None = None) -> list[str]:
    """What a terminal of this size shows."""
    stream = io.StringIO()
    tables = draw_status(seen, RowLimits())
    console = make_console(stream, width)
    console.print(FittedLines(tables) if height else tables, crop=False, height=height)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


RUNS = (
    named("aa" * 6, State.DONE, started=NOW - 900, ended=NOW - 839),
    named("bb" * 6, State.FAILED, attempt=2, error="ValueError: the loss\x1b[2J is not finite", reason="exception"),
    named("cc" * 6, State.RUNNING, device="cuda:0", started=NOW - 61, attempt=1),
    named("dd" * 6, reason="signal", not_before=NOW + 30),
    named("ee" * 6, State.CANCELLED),
)


def test_the_table_at_80_columns() -> None:
    seen = overview(*RUNS, progress=Progress(5000, 20_000, 93.256, begin=2000))
    assert drawn(seen, 80) == [
        "runs/lab: 5 runs",
        "1 queued, 1 running, 1 done, 1 failed, 1 cancelled",
        "",
        "running   device  step        loss   time   left   run",
        "cccccccc  cuda:0  5000/20000  93.26  01:01  05:05  ...bm-ovis-gamma1-iw100-seed1",
        "",
        "failed    run",
        "bbbbbbbb  iwbound-fashion-mnist-sbm-ovis-gamma1-iw100-seed1-bbbbbbbbbbbb",
        "          ValueError: the loss [2J is not finite",
        "          runs/lab/iwbound-fashion-mnist-sbm-ovis-gamma1-iw100-seed1-bbbbbbbbbbbb/log.2.txt",
        "",
        "key       state                      time   run",
        "aaaaaaaa  done                       01:01  ...mnist-sbm-ovis-gamma1-iw100-seed1",
        "dddddddd  queued (signal, in 00:30)         ...mnist-sbm-ovis-gamma1-iw100-seed1",
        "eeeeeeee  cancelled                         ...mnist-sbm-ovis-gamma1-iw100-seed1",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_only_names_are_cut(width: int) -> None:
    seen = overview(*RUNS, progress=Progress(5000, 20_000, -93.256, begin=2000))
    lines = [line for line in drawn(seen, width) if not line.startswith(("bb", " "))]
    assert max(map(len, lines)) <= width
    assert all(
        line.endswith("iw100-seed1") or RUNS[0].name[:30] in line
        for line in lines
        if line[:8] in ("aaaaaaaa", "cccccccc", "dddddddd", "eeeeeeee")
    )
    assert any("-93.26  01:01  05:05" in line for line in lines)
    assert RUNS[0].name in "\n".join(plain_status(seen))  # not cut where there is no terminal


def test_a_run_without_its_manager_is_not_among_the_running() -> None:
    lines = plain_status(overview(RUNS[2], orphans="cccccccccccc"))
    assert lines[:2] == ["runs/lab: 1 run", "1 running (1 without a manager)"]
    assert lines[3] == "key       state                          run"
    assert lines[4].startswith("cccccccc  running (its manager is gone)  iwbound")


def test_what_is_not_known_takes_no_column() -> None:
    assert plain_status(overview(RUNS[2]))[3].split() == ["running", "device", "step", "time", "run"]
    retried = named("cc" * 6, State.RUNNING, attempt=3)
    lines = plain_status(overview(retried, progress=Progress(5, 20, 1.0)))
    assert lines[3].split() == ["running", "step", "loss", "time", "attempt", "run"]
    assert lines[4].split()[-2:] == ["3", retried.name]


def test_few_runs_are_listed_in_full_and_many_are_not() -> None:
    few = [named(f"{n:012x}", State.DONE) for n in range(50)]
    many = [*few, named("f" * 12, State.DONE)]
    assert len(plain_status(overview(*few))) == 50 + 4
    assert plain_status(overview(*many)) == [
        "runs/lab: 51 runs",
        "51 done",
        "",
        "and 51 more runs: --find TEXT shows those that contain it, --json all",
    ]
    selection = overview(*many, total=60)  # asked for
    assert len(plain_status(selection)) == 51 + 4


def test_of_many_failures_the_first_are_shown() -> None:
    seen = overview(*(named(f"{n:012x}", State.FAILED, error=f"error {n}") for n in range(60)))
    lines = plain_status(seen)
    assert lines[-1] == "and 40 more failed runs: --find TEXT shows those that contain it, --json all"
    assert sum("error" in line for line in lines) == 20


def test_running_and_failed_runs_come_first_on_a_small_screen() -> None:
    seen = overview(*RUNS, *(named(f"{n:012x}") for n in range(20)))
    lines = drawn(seen, 60, 10)
    assert (len(lines), max(map(len, lines))) == (10, 60)
    assert lines[4].startswith("cccccccc")
    assert lines[7].startswith("bbbbbbbb")
    assert lines[-1] == "... 26 more lines"


RECORDS = [
    record("1a2b00000000", name="first-1a2b00000000", settings={"estimator": "vimco-arithmetic", "iw": 10}),
    record("1a2c00000000", name="Second-1a2c00000000", settings={"estimator": "ovis-gamma1", "iw": 10, "id": "a b"}),
    record("9f0000000000", name="third-9f0000000000", settings={"estimator": "vimco-arithmetic", "iw": 5}),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vimco", "1a2b 9f00"),
        ("iw=10  VIMCO", "1a2b"),
        ("second", "1a2c"),
        ("9f0", "9f00"),
        (".*", ""),
        ("__import__('os')", ""),
        ("vimco ovis", ""),
    ],
)
def test_finding_runs(text: str, expected: str) -> None:
    assert [r.key[:4] for r in find_runs(RECORDS, text)] == expected.split()


def test_an_empty_word_finds_no_run() -> None:
    for text in ("", "  "):
        with pytest.raises(SelectionError, match="no word"):
            find_runs(RECORDS, text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1a2b00000000"], "1a2b"),
        (["first-1a2b00000000"], "1a2b"),
        (["9"], "9f00"),
        (["9f0, 1a2c"], "9f00 1a2c"),
        (["9f0", "1a2b", "9f00"], "9f00 1a2b"),
    ],
)
def test_picking_runs(texts: list[str], expected: str) -> None:
    assert [r.key[:4] for r in pick_runs(RECORDS, texts)] == expected.split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1a2", r"'1a2' could be 1a2b00000000 \(first-1a2b00000000\), 1a2c00000000 \(Second-1a2c00000000\): say more"),
        ("thrid-9f0000000000", "no run has the key or name 'thrid-9f0000000000'; nearest: third-9f0000000000"),
        ("first", "no run has the key or name 'first'; --check or --find"),
        ("9f0,", "no run has the key or name ''"),
        ("", "no run has the key or name ''"),
    ],
)
def test_an_unknown_or_ambiguous_key_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SelectionError, match=message) as caught:
        pick_runs(RECORDS, [text])
    assert "\n" not in str(caught.value)


def test_many_candidates_are_cut() -> None:
    with pytest.raises(SelectionError, match="and 7 more: say more of the key"):
        pick_runs([record(f"a{n:011x}") for n in range(10)], ["a"])
