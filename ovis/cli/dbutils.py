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
from ovis.runner.progress import clock
from ovis.runner.queue import Queue
from ovis.runner.status import Record, State, count_states, read_progress
from ovis.runner.transitions import Level

__all__ = ["main"]


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
                print(f"put back {len(chosen)} runs")
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
        prog="dbutils.py", allow_abbrev=False, description="Look into an experiment's queue, and put runs back."
    )
    add = parser.add_argument
    add("--exp", required=True, metavar="NAME", help="name of the experiment")
    add("--root", default="runs/", metavar="DIR", help="folder of all experiments (default: runs/)")
    add("--check", action="store_true", help="show where the runs stand; reads only (this is the default)")
    levels = "0: none; 1: aborted or lost; 2: also failed; 100: all that are not done; 10000: all"
    choices = [level.value for level in Level]
    add("--requeue_level", type=int, choices=choices, metavar="LEVEL", help=f"put runs back, by level: {levels}")
    add("--json", action="store_true", help="print JSON")
    return parser


def _open(options: argparse.Namespace) -> Queue:
    paths = ExperimentPaths(Path(options.root) / options.exp)
    if not is_safe_name(options.exp) or not paths.ledger.is_file():
        raise LedgerError(f"there is no queue {paths.ledger}")
    return Queue(paths)


def _as_json(queue: Queue, records: Sequence[Record]) -> dict[str, Any]:
    counts = count_states(record.state for record in records)
    rows = []
    for record in records:
        progress = read_progress(queue.paths.run(record.name))
        rows.append({**record.to_row(), "progress": progress.fraction if progress else 0.0})
    return {"exp": queue.paths.folder.name, "counts": {s.value: n for s, n in counts.items()}, "runs": rows}


def _as_table(queue: Queue, records: Sequence[Record]) -> str:
    """The counts, a line for each run, and the failures with their reasons."""
    counts = count_states(record.state for record in records)
    lines = [f"{queue.paths.folder}: {len(records)} runs"]
    lines += [f"  {state.value:9}  {count}" for state, count in counts.items() if count]
    rows = [("run", "state", "attempt", "device", "progress", "time", "reason")]
    for record in records:
        progress = read_progress(queue.paths.run(record.name))
        done = f"{100 * progress.fraction:.0f}%" if progress else "-"
        rows.append(
            (record.name, record.state.value, str(record.attempt), record.device, done, _elapsed(record), record.reason)
        )
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


def _elapsed(record: Record) -> str:
    """How long the last attempt took, or takes."""
    if not record.started:
        return "-"
    end = time.time() if record.state is State.RUNNING else record.ended
    return clock(end - record.started) if end else "-"
