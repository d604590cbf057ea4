"""``dbutils.py``: look into an experiment's queue, and put runs back."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovis.runner.ledger import LedgerError
from ovis.runner.paths import ExperimentPaths, is_safe_name
from ovis.runner.process import owner_is_dead
from ovis.runner.progress import clock, runs_text
from ovis.runner.queue import Queue
from ovis.runner.status import Record, State, count_states, read_progress
from ovis.runner.transitions import Level

__all__ = ["main"]

#: After the state of a run whose manager was killed.
GONE = " (its manager is gone)"


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect or requeue the runs of an experiment.

    Args:
        argv: the command line; None: this process's.

    Returns:
        0; or 2 where there is no such queue or it can't be read or written.
    """
    options = _parser().parse_args(argv)
    try:
        queue = _open(options)
        if options.requeue_level is not None:
            chosen = queue.requeue(Level(options.requeue_level))
            if not options.json:
                print(f"put back {runs_text(len(chosen))}")
        records = queue.read()
        print(json.dumps(_as_json(queue, records), indent=2) if options.json else _as_table(queue, records))
    except LedgerError as error:
        print(f"dbutils.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"dbutils.py: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dbutils.py",
        allow_abbrev=False,
        description="Look into an experiment's queue (without a lock, writing nothing), or put runs back.",
    )
    add = parser.add_argument
    add("--exp", required=True, metavar="NAME", help="name of the experiment")
    add("--root", default="runs/", metavar="DIR", help="folder of all experiments (default: runs/)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", dest="requeue_level", action="store_const", const=None,
        help="only show where the runs stand (the default)")  # fmt: skip
    levels = "0: none; 1: aborted or lost; 2: also failed; 100: all that are not done; 10000: all"
    choices = [level.value for level in Level]
    action.add_argument("--requeue_level", type=int, choices=choices, metavar="LEVEL",
        help=f"put runs back, by level: {levels}; then show")  # fmt: skip
    add("--json", action="store_true", help="print JSON")
    return parser


def _open(options: argparse.Namespace) -> Queue:
    paths = ExperimentPaths(Path(options.root) / options.exp)
    if not is_safe_name(options.exp) or not paths.ledger.is_file():
        raise LedgerError(f"there is no queue {paths.ledger}")
    return Queue(paths)


def _as_json(queue: Queue, records: Sequence[Record]) -> dict[str, Any]:
    counts, orphans = count_states(record.state for record in records), _orphans(records)
    rows = []
    for record in records:
        progress = read_progress(queue.paths.run(record.name))
        done = progress.fraction if progress else 0.0
        rows.append({**record.to_row(), "manager_gone": record.key in orphans, "progress": done})
    return {"exp": queue.paths.folder.name, "counts": {s.value: n for s, n in counts.items()}, "runs": rows}


def _as_table(queue: Queue, records: Sequence[Record]) -> str:
    """The counts, a line for each run, and the failures with their reasons."""
    counts, orphans = count_states(record.state for record in records), _orphans(records)
    lines = [f"{queue.paths.folder}: {runs_text(len(records))}"]
    lines += [f"  {state.value:9}  {count}" for state, count in counts.items() if count]
    rows = [("run", "state", "attempt", "device", "progress", "time", "reason")]
    for record in records:
        progress = read_progress(queue.paths.run(record.name))
        state = record.state.value + (GONE if record.key in orphans else "")
        done = f"{100 * progress.fraction:.0f}%" if progress else "-"
        rows.append((record.name, state, str(record.attempt), record.device, done, _elapsed(record), record.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += [
        "",
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    failed = [record for record in records if record.state is State.FAILED]
    lines += ["", "failures:"] if failed else []
    for record in failed:
        lines += [f"  {record.name}: {record.error}", f"    {queue.paths.run(record.name).log(record.attempt)}"]
    return "\n".join(lines)


def _orphans(records: Sequence[Record]) -> set[str]:
    """The keys of the runs that only seem to run: their manager is known to be gone, and they ended with it.

    The next manager, or putting runs back, settles them; this here only looks.
    """
    running = [record for record in records if record.state is State.RUNNING]
    dead = {owner for owner in {record.owner for record in running} if owner_is_dead(owner)}
    return {record.key for record in running if record.owner in dead}


def _elapsed(record: Record) -> str:
    """How long the last attempt took, or takes."""
    if not record.started:
        return "-"
    end = time.time() if record.state is State.RUNNING else record.ended
    return clock(end - record.started) if end else "-"
