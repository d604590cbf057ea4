"""dbutils.py --watch: what a terminal and what a file get to see, and how it ends."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest
from laboratory import Lab, record
from queue_by_hand import ME, lost, publish
from rich.text import Text

from ovis.experiments.runner.display import watch as module
from ovis.experiments.runner.overview import Overview, take_overview
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runs.status import AttemptResult

#: How a terminal switches to its alternate screen, and back.
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def steps(queue: Queue, *actions: Callable[[], object]) -> Callable[[], Overview]:
    """Looks at the queue; something happens between two of them."""
    waiting = list(actions)

    def look() -> Overview:
        records = queue.read()
        seen = take_overview(queue.paths, records, len(records))
        if waiting:
            waiting.pop(0)()
        return seen

    return look


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes while the watch sleeps only."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    return now


def test_a_file_gets_a_line_for_a_change_once_a_minute_and_at_the_end(lab: Lab, clock: list[float]) -> None:
    queue, stream = lab.queue, io.StringIO()
    queue.add([record("aa"), record("bb")])

    def claim() -> None:
        queue.tick(ME, 1)

    def nothing() -> None:
        pass

    def finish() -> None:
        for r in queue.read():
            publish(queue, r, AttemptResult.SUCCESS, attempt=1)
        queue.tick(ME, 9, ended=[lost(r) for r in queue.read() if r.attempt])
        queue.tick(ME, 0, ended=[lost(r) for r in queue.read() if r.attempt])

    module.watch(steps(queue, claim, *[nothing] * 40, finish), stream)
    head = f"{lab.paths.folder}: 2 runs:"
    assert stream.getvalue().splitlines() == [
        f"[00:00] {head} 2 queued",
        f"[01:00] {head} 1 queued, 1 running",
        f"[01:24] {head} 2 done",
    ]


def test_a_settled_experiment_is_reported_at_once(lab: Lab, clock: list[float]) -> None:
    stream = io.StringIO()
    lab.queue.add([record("aa")])
    lab.queue.cancel({"aa"})
    module.watch(steps(lab.queue), stream)
    assert stream.getvalue() == f"[00:00] {lab.paths.folder}: 1 run: 1 cancelled\n"


def watched(lab: Lab, until: str, then: Callable[[subprocess.Popen[bytes]], None], rows: int = 10) -> tuple[int, str]:
    """What a terminal of 60 columns shows, up to the end; something happens once it shows ``until``."""
    terminal, child = pty.openpty()
    subprocess.run(["stty", "rows", str(rows), "cols", "60"], stdin=child, check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["TERM"] = "xterm"

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        lab.dbutils_command("--watch"), stdin=child, stdout=child, stderr=child, preexec_fn=hear, env=environment
    ) as process:
        os.close(child)
        shown, watchdog = "", threading.Timer(20.0, process.kill)
        watchdog.start()
        try:
            while chunk := os.read(terminal, 65536):
                shown += chunk.decode()
                if until and until in shown:
                    until = ""
                    then(process)
        except OSError:  # how Linux says that the other side is closed
            pass
        watchdog.cancel()
    os.close(terminal)
    return process.returncode, shown.replace("\r\n", "\n")


def test_ctrl_c_restores_the_terminal(lab: Lab) -> None:
    lab.queue.add([record(f"{n:012x}", name=f"a-very-long-name-of-a-run-{n:048x}") for n in range(30)])
    lab.queue.tick(ME, 2)
    code, shown = watched(lab, "more lines", lambda process: process.send_signal(signal.SIGINT))
    assert code == 0
    assert shown.startswith(ENTER)
    assert shown.endswith(LEAVE)
    *_, drawn = shown.partition(LEAVE)[0].split("\x1b[H")
    lines = [line.rstrip() for line in Text.from_ansi(drawn).plain.splitlines()]
    assert len(lines) == 10
    assert max(map(len, lines)) <= 60
    assert lines[3].startswith("running")
    assert [line[:8] for line in lines[4:6]] == ["0" * 8, "0" * 8]


@pytest.mark.slow
def test_it_ends_with_the_whole_table_when_all_is_settled(lab: Lab) -> None:
    queue = lab.queue
    queue.add([record("aa"), record("bb")])
    (claimed,) = queue.tick(ME, 1).claimed

    def settle(process: subprocess.Popen[bytes]) -> None:
        publish(queue, claimed, AttemptResult.EXCEPTION)
        queue.tick(ME, 0, ended=[lost(claimed)])
        queue.cancel({"bb"})

    code, shown = watched(lab, "1 queued, 1 running", settle)
    assert code == 0
    last = shown.partition(LEAVE)[2]
    assert "2 runs\n1 failed, 1 cancelled\n" in last
    assert "some reason" in last


@pytest.mark.slow
def test_a_queue_that_breaks_while_it_is_watched_is_one_line(lab: Lab) -> None:
    lab.queue.add([record("aa")])
    code, shown = watched(lab, "1 queued", lambda process: lab.paths.ledger.write_text("{") and None)
    assert code == 2
    (line,) = shown.partition(LEAVE)[2].splitlines()
    assert line.startswith("dbutils.py: ")
    assert ".db.json" in line
