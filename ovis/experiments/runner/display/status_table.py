"""How an experiment stands, in lines for people. Pure: what is shown was read before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovis.experiments.runner.display.progress import clock
from ovis.experiments.runner.overview import Overview
from ovis.experiments.runs.status import Record, State

__all__ = ["RowLimits", "draw_table", "fit", "usual_limits"]

#: Digits of a key that are shown: enough to say which run is meant, as any start of a key does that only one has.
KEY_DIGITS = 8

#: Columns that a name has at least, however narrow the terminal.
NAME_WIDTH = 12

#: So many runs are shown one by one without being asked for.
FEW = 50

ABOUT_MORE = "--find TEXT shows those that contain it, --json all"


@dataclass(frozen=True)
class RowLimits:
    """How many runs of a kind get lines of their own; None: all."""

    running: int | None = None
    failed: int | None = None
    others: int | None = None


def usual_limits(overview: Overview) -> RowLimits:
    """Every run of a few, or of those that were asked for; of many the running ones and the first that failed."""
    few = len(overview.records) <= FEW or len(overview.records) < overview.total
    return RowLimits() if few else RowLimits(failed=20, others=0)


def draw_table(overview: Overview, width: int | None = None, limits: RowLimits | None = None) -> list[str]:
    """The counts; the running runs; the failed ones with their last line and their log; the others.

    Args:
        overview: what to show.
        width: columns that tables may take: the long names, which come last, are cut; None: as they come.
        limits: how many lines; None: all.
    """
    limits = limits or RowLimits()
    running = [r for r in overview.records if r.state is State.RUNNING and r.key not in overview.orphans]
    failed = [r for r in overview.records if r.state is State.FAILED]
    others = [r for r in overview.records if r.state not in (State.RUNNING, State.FAILED) or r.key in overview.orphans]
    lines = [overview.title, *([overview.summary] if overview.records else [])]
    if running:
        lines += ["", *_running_lines(overview, running[: limits.running], width)]
        lines += _more(len(running), limits.running, "running")
    if failed:
        lines += ["", *_failed_lines(overview, failed[: limits.failed])]
        lines += _more(len(failed), limits.failed, "failed")
    if others and limits.others != 0:
        lines += ["", *_other_lines(overview, others[: limits.others], width)]
    hidden = _more(len(others), limits.others, "")
    return [*lines, *([""] if hidden and limits.others == 0 else []), *hidden]


def fit(lines: Sequence[str], width: int, height: int) -> list[str]:
    """The lines as a screen can show them: cut at its right, and at its end, where a line says so."""
    if len(lines) > height:
        lines = [*lines[: height - 1], f"... {len(lines) - height + 1} more lines"]
    return [line[:width] for line in lines[:height]]


def _running_lines(overview: Overview, records: Sequence[Record], width: int | None) -> list[str]:
    rows = [("running", "device", "step", "loss", "time", "left", "attempt", "run")]
    for record in records:
        run = overview.running[record.key]
        left = "" if run.left is None else clock(run.left)
        again = str(record.attempt) if record.attempt > 1 else ""
        rows.append((_key(record), run.device, run.steps, run.loss, clock(run.elapsed), left, again, run.name))
    return _align(rows, width)


def _failed_lines(overview: Overview, records: Sequence[Record]) -> list[str]:
    margin = " " * (KEY_DIGITS + 2)
    lines = _align([("failed", "run"), *((_key(record), record.name) for record in records)], None)
    reasons = [[], *([_plain(r.error), str(overview.paths.run(r.name).log(r.attempt))] for r in records)]
    return [text for line, reason in zip(lines, reasons, strict=True) for text in (line, *(margin + r for r in reason))]


def _other_lines(overview: Overview, records: Sequence[Record], width: int | None) -> list[str]:
    rows = [("key", "state", "time", "run")]
    rows += [(_key(record), _state(overview, record), _took(record), record.name) for record in records]
    return _align(rows, width)


def _state(overview: Overview, record: Record) -> str:
    """The state, why it is not what one would expect, and from when on a run that waits may start."""
    if record.key in overview.orphans:
        return "running (its manager is gone)"
    pause = record.not_before - overview.now if record.state is State.QUEUED else 0.0
    why = [_plain(record.reason)] if record.reason else []
    why += [f"in {clock(pause)}"] if pause >= 1.0 else []
    return f"{record.state.value} ({', '.join(why)})" if why else record.state.value


def _took(record: Record) -> str:
    """How long the last attempt took."""
    return clock(record.ended - record.started) if record.started and record.ended else ""


def _key(record: Record) -> str:
    return record.key[:KEY_DIGITS]


def _more(count: int, limit: int | None, kind: str) -> list[str]:
    if limit is None or count <= limit:
        return []
    what = " ".join(filter(None, ("more", kind, "run" if count - limit == 1 else "runs")))
    return [f"and {count - limit} {what}: {ABOUT_MORE}"]


def _align(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Columns below their heads, those that are empty left out; the last one holds names, which may be cut."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns[:-1]]
    taken = sum(len(column[0]) + 2 for column in padded)
    names = columns[-1] if width is None else [_cut(name, max(width - taken, NAME_WIDTH)) for name in columns[-1]]
    return [_plain("  ".join(row)) for row in zip(*padded, names, strict=True)]


def _cut(name: str, width: int) -> str:
    """A name without its hash, and without its beginning: the runs of an experiment differ in its end."""
    if len(name) <= width:
        return name
    name = name.rpartition("-")[0] or name
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _plain(text: str) -> str:
    """Nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
