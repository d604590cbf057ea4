"""The manager's progress display, and the files of half-written run folders that it reads."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.text import Text

from ovis.experiments.runner.display import progress as module
from ovis.experiments.runner.display import text as text_module
from ovis.experiments.runner.display.progress import ProgressDisplay, ProgressView
from ovis.experiments.runner.display.progress_display import make_display
from ovis.experiments.runner.display.text import clock
from ovis.experiments.runner.overview import RunningRun
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import Progress, State, last_line, read_outcome, read_progress


def view(completed: float, running: int = 1) -> ProgressView:
    counts = {State.QUEUED: 4 - running, State.RUNNING: running, State.DONE: 6, State.FAILED: 0}
    runs = [RunningRun("some-run", "cpu", Progress(50, 200, 93.25), 61.0)] * running
    return ProgressView(counts, completed, runs)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; only the test moves it."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    """A terminal of 100 columns."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(text_module.os, "get_terminal_size", lambda _: os.terminal_size((100, 24)))
    for name, value in {"COLUMNS": "100", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def screen(terminal: Terminal) -> list[str]:
    """What was drawn last."""
    drawn = "[" + terminal.getvalue().rpartition("\x1b[2K[")[2]
    return [line.rstrip() for line in Text.from_ansi(drawn).plain.splitlines()]


def test_plain_lines_come_once_a_minute(now: list[float]) -> None:
    stream = io.StringIO()
    display = make_display(stream)
    at: list[float] = []
    for tenth in range(6001):
        now[0] = 1000.0 + tenth / 10
        before = len(stream.getvalue())
        display.show(view(5.0))
        if len(stream.getvalue()) > before:
            at.append(round(tenth / 10))
    assert at == [*range(0, 601, 60)]


def test_a_plain_line_has_all_figures(now: list[float]) -> None:
    stream = io.StringIO()
    display = make_display(stream)
    display.show(view(6.0))
    now[0] += 60.0
    display.show(view(8.0))
    first, second = stream.getvalue().splitlines()
    assert (
        first == "[00:00] 60% of 10 runs: 3 queued, 1 running, 6 done | cpu  step 50/200  loss 93.25  01:01  some-run"
    )
    assert second.startswith("[01:00] 80% of 10 runs, about 01:00 left: ")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_be_redrawn_gets_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    make_display(terminal).show(view(6.0))
    assert terminal.getvalue().startswith("[00:00] 60% of 10 runs: 3 queued")
    assert "\x1b" not in terminal.getvalue()


def test_a_terminal_shows_a_bar_the_counts_and_the_running_runs(terminal: Terminal, now: list[float]) -> None:
    display = make_display(terminal)
    display.show(view(6.0))
    now[0] += 60.0
    display.show(view(8.0, running=2))
    bar, *table = screen(terminal)
    assert bar.startswith("[01:00] ━")
    assert bar.endswith("━ 80% of 10 runs, about 01:00 left")
    assert table == [
        "2 queued, 2 running, 6 done",
        "device  step    loss   time   run",
        "cpu     50/200  93.25  01:01  some-run",
        "cpu     50/200  93.25  01:01  some-run",
    ]


@pytest.mark.parametrize(("lines", "shown"), [("24", 7), ("10", 5)])
def test_more_running_runs_than_lines_are_counted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, lines: str, shown: int
) -> None:
    monkeypatch.setenv("LINES", lines)
    make_display(terminal).show(view(6.0, running=12))
    _, _, _, *rows = screen(terminal)
    assert rows == ["cpu     50/200  93.25  01:01  some-run"] * shown + [f"and {12 - shown} more"]


def test_printed_lines_stay_above_the_bar(terminal: Terminal) -> None:
    display = make_display(terminal)
    display.show(view(6.0))
    display.print("FAILED a-run: [red]KeyError[/red]" + 100 * "x")
    display.show(view(7.0))
    display.close()
    assert "FAILED a-run: [red]KeyError[/red]" + 100 * "x" + "\n" in terminal.getvalue()
    assert "70% of 10 runs" in screen(terminal)[0]


def test_runs_that_end_together_do_not_mislead_the_time_left(terminal: Terminal, now: list[float]) -> None:
    display = make_display(terminal)
    for quarter in range(4 * 60):
        now[0] = 1000.0 + quarter / 4
        # Every 15 s two of ten runs end, one shortly after the other.
        done = 2.0 * (quarter // 60) + (quarter >= 60 and quarter % 60 > 0)
        display.show(ProgressView({State.QUEUED: 10}, done, []))
    assert screen(terminal)[0].startswith("[00:59]")
    assert screen(terminal)[0].endswith("70% of 10 runs, about 00:25 left")  # the rate of the last minute: 00:13


def test_runs_that_are_put_back_make_no_negative_rate(terminal: Terminal) -> None:
    display = make_display(terminal)
    for completed in (2.0, 2.9, 1.5):
        display.show(ProgressView({State.QUEUED: 10}, completed, []))
    assert screen(terminal)[0].endswith("━ 15% of 10 runs")


def test_what_resumed_runs_had_done_before_is_no_work_of_now(terminal: Terminal, now: list[float]) -> None:
    lines = io.StringIO()
    displays: list[ProgressDisplay] = [make_display(terminal), make_display(lines)]
    for second, (completed, carried) in {0: (0.0, 0.0), 1: (1.8, 1.8), 60: (2.0, 1.8), 120: (2.0, 1.6)}.items():
        now[0] = 1000.0 + second
        for display in displays:
            display.show(ProgressView({State.QUEUED: 10}, completed, [], carried))
    assert screen(terminal)[0].endswith("20% of 10 runs, about 40:00 left")  # 0.4 runs in two minutes
    assert "[01:00] 20% of 10 runs, about 40:00 left" in lines.getvalue()  # 0.2 in one


def test_rounding_is_no_progress(terminal: Terminal, now: list[float]) -> None:
    display = make_display(terminal)
    for completed, carried in ((0.0, 0.0), (0.1 + 0.2, 0.3)):
        display.show(ProgressView({State.QUEUED: 10}, completed, [], carried))
        now[0] += 1
    assert screen(terminal)[0].endswith("━ 3% of 10 runs")


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("kind", [Broken, type("BrokenTerminal", (Broken, Terminal), {})])
def test_a_display_that_breaks_stops_nothing(kind: type[io.StringIO], terminal: Terminal) -> None:
    display = make_display(kind())
    display.show(view(5.0))
    display.print("failed")
    display.show(view(6.0))
    display.close()


def test_a_run_without_progress_is_starting() -> None:
    assert str(RunningRun("a", "cuda:1", None, 3.0)) == "cuda:1  starting  00:03  a"


def test_the_time_left_is_known_from_the_step_the_attempt_began_at() -> None:
    run = RunningRun("a", "cpu", Progress(60, 200, 1.5, begin=50), 20.0)
    assert (run.rate, run.left) == (0.5, 280.0)
    assert str(run) == "cpu  step 60/200  loss 1.5  00:20<04:40  a"


@pytest.mark.parametrize("progress", [None, Progress(60, 200), Progress(50, 200, begin=50)])
def test_without_a_step_the_time_left_is_not_known(progress: Progress | None) -> None:
    assert RunningRun("a", "cpu", progress, 20.0).left is None


@pytest.mark.parametrize(("seconds", "text"), [(-1, "00:00"), (59.9, "00:59"), (3599, "59:59"), (36061, "10:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_progress_has_the_first_step_of_the_attempt(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    run.progress.write_text('{"step": 3, "nsteps": 9, "loss": null, "t": 1.0}')
    assert read_progress(run) == Progress(3, 9, None, 1.0)
    run.progress.write_text('{"step": 3, "nsteps": 9, "loss": null, "t": 1.0, "begin": 2}')
    assert read_progress(run) == Progress(3, 9, None, 1.0, 2)


def test_progress_of_an_earlier_attempt_gives_no_time_left(tmp_path: Path) -> None:
    """A resumed run, whose training still imports torch: its rate would be all of its steps in no time."""
    run = RunPaths(tmp_path)
    run.progress.write_text('{"step": 80, "nsteps": 90, "loss": 2.5, "t": 99.0, "begin": 0}')
    assert RunningRun("a", "cpu", read_progress(run, since=100.0), 5.0).left is None
    assert str(RunningRun("a", "cpu", read_progress(run, since=100.0), 5.0)) == "cpu  step 80/90  loss 2.5  00:05  a"
    assert RunningRun("a", "cpu", read_progress(run, since=98.0), 5.0).left is not None


def test_what_an_attempt_began_with() -> None:
    carried = [Progress(60, 100, begin=begin).carried for begin in (None, 0, 25, 60, 70)]
    assert carried == [0.0, 0.0, 0.25, 0.6, 0.6]


@pytest.mark.parametrize(
    "content",
    [None, "", "{", '{"step": Infinity, "nsteps": 3}', "[]", "3", '{"step": 3}', '{"step": "x", "nsteps": 3}', "\xff"],
)
def test_what_cannot_be_read_is_not_there(tmp_path: Path, content: str | None) -> None:
    run = RunPaths(tmp_path)
    if content is not None:
        run.progress.write_text(content)
        run.outcome.write_text(content)
    assert read_progress(run) is None
    assert read_outcome(run) is None


def test_fractions_stay_in_bounds() -> None:
    assert [Progress(step, 10).fraction for step in (-1, 0, 5, 10, 11)] == [0, 0, 0.5, 1, 1]
    assert Progress(3, 0).fraction == 0


def test_the_last_line_is_the_last_that_is_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(b"a\n" * 10_000 + b"50%\r100%\rKeyError: '\xff\x1b[31mx'\n\n  \n")
    line = last_line(path)
    assert line.startswith("KeyError: '")
    assert line.isprintable()
    path.write_text("x" * 100_000)
    assert len(last_line(path)) == 300
