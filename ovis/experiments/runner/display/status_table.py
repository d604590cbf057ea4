"""The status of an experiment: the running runs, the failed ones with the reason and the log, the others.

Plain text without rich, which takes half a millisecond for a row; ``rich_status.py`` draws the same on a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ovis.experiments.runner.display.text import clock, printable
from ovis.experiments.runner.overview import Overview, RunningRun
from ovis.experiments.runs.status import Record, State

__all__ = ["RowLimits", "RunTable", "StatusLine", "default_limits", "plain_status", "running_cells", "status_blocks"]

#: Digits of a key that are shown. Commands accept any unambiguous beginning of a key.
KEY_DIGITS = 8

#: Experiments with at most this number of runs are listed in full.
FEW = 50

ABOUT_MORE = "--find TEXT shows those that contain it, --json all"


@dataclass(frozen=True)
class RowLimits:
    """How many runs of a kind get rows of their own; None: all."""

    running: int | None = None
    failed: int | None = None
    others: int | None = None


class StatusLine(NamedTuple):
    """A line of text and its style on a terminal."""

    text: str
    style: str = ""


class RunTable:
    """Rows of cells below a head; the last column is the run's name. Empty columns are left out."""

    def __init__(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
        self.head, *self.rows = zip(*columns, strict=True)

    def plain(self) -> list[str]:
        """Its lines, nothing cut."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)) for row in (self.head, *self.rows))
        return [printable(line).rstrip() for line in lines]


def default_limits(overview: Overview) -> RowLimits:
    """All runs of a small experiment or of a selection; of many the running ones and the first failed ones."""
    few = len(overview.records) <= FEW or len(overview.records) < overview.total
    return RowLimits() if few else RowLimits(failed=20, others=0)


def plain_status(overview: Overview, limits: RowLimits | None = None) -> list[str]:
    """The status in lines of text, names in full; ``limits`` None: the default ones."""
    lines: list[str] = []
    for block in status_blocks(overview, limits or default_limits(overview)):
        lines += block.plain() if isinstance(block, RunTable) else [block.text]
    return lines


def status_blocks(overview: Overview, limits: RowLimits) -> list[StatusLine | RunTable]:
    """The title, the counts and the tables."""
    running = [r for r in overview.records if r.state is State.RUNNING and r.key not in overview.orphans]
    failed = [r for r in overview.records if r.state is State.FAILED]
    others = [r for r in overview.records if r.state not in (State.RUNNING, State.FAILED) or r.key in overview.orphans]
    blank = StatusLine("")
    blocks: list[StatusLine | RunTable] = [StatusLine(overview.title)]
    blocks += [StatusLine(overview.summary)] if overview.records else []
    if running:
        blocks += [blank, _running_table(overview, running[: limits.running])]
        blocks += _more(len(running), limits.running, "running")
    if failed:
        blocks += [blank, *_failed_lines(overview, failed[: limits.failed])]
        blocks += _more(len(failed), limits.failed, "failed")
    if others and limits.others != 0:
        blocks += [blank, _other_table(overview, others[: limits.others])]
    hidden = _more(len(others), limits.others, "")
    return [*blocks, *([blank] if hidden and limits.others == 0 else []), *hidden]


def running_cells(run: RunningRun) -> tuple[str, ...]:
    """Device, step, loss, time, time left and name of a running run."""
    return run.device, run.steps, run.loss, clock(run.elapsed), "" if run.left is None else clock(run.left), run.name


def _running_table(overview: Overview, records: Sequence[Record]) -> RunTable:
    rows = []
    for record in records:
        *cells, name = running_cells(overview.running[record.key])
        rows.append((_key(record), *cells, str(record.attempt) if record.attempt > 1 else "", name))
    return RunTable(("running", "device", "step", "loss", "time", "left", "attempt", "run"), rows)


def _failed_lines(overview: Overview, records: Sequence[Record]) -> list[StatusLine]:
    margin = " " * (KEY_DIGITS + 2)
    lines = [StatusLine("failed    run", "bold")]
    for record in records:
        log = overview.paths.run(record.name).log(record.attempt)
        lines.append(StatusLine(f"{_key(record):{KEY_DIGITS}}  {record.name}"))
        lines.append(StatusLine(printable(margin + record.error), "red"))
        lines.append(StatusLine(f"{margin}{log}"))
    return lines


def _other_table(overview: Overview, records: Sequence[Record]) -> RunTable:
    rows = [(_key(record), _state(overview, record), _duration(record), record.name) for record in records]
    return RunTable(("key", "state", "time", "run"), rows)


def _state(overview: Overview, record: Record) -> str:
    """The state, its reason where it is unexpected, and when a waiting run may start."""
    if record.key in overview.orphans:
        return "running (its manager is gone)"
    pause = record.not_before - overview.now if record.state is State.QUEUED else 0.0
    why = [record.reason] if record.reason else []
    why += [f"in {clock(pause)}"] if pause >= 1.0 else []
    return f"{record.state.value} ({', '.join(why)})" if why else record.state.value


def _duration(record: Record) -> str:
    """How long the last attempt took."""
    return clock(record.ended - record.started) if record.started and record.ended else ""


def _key(record: Record) -> str:
    return record.key[:KEY_DIGITS]


def _more(count: int, limit: int | None, kind: str) -> list[StatusLine]:
    if limit is None or count <= limit:
        return []
    what = " ".join(filter(None, ("more", kind, "run" if count - limit == 1 else "runs")))
    return [StatusLine(f"and {count - limit} {what}: {ABOUT_MORE}")]
