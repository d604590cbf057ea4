"""``dbutils.py``: look into an experiment's queue, put runs back, cancel them, clean up."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovis.experiments.cli.options import FRESH, OneLineParser, confirm, find_experiment, prepare_streams
from ovis.experiments.runner.display.messages import describe_start
from ovis.experiments.runner.display.status_table import default_limits, plain_status
from ovis.experiments.runner.display.text import is_drawable, make_console, runs_text
from ovis.experiments.runner.orphans import Leftover, LeftoverKind, find_leftovers, remove_leftovers
from ovis.experiments.runner.overview import Overview, take_overview
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.transitions import REQUEUE_LEVELS, RequeueLevel
from ovis.experiments.runner.run_selection import SelectionError, find_runs, pick_runs
from ovis.experiments.runs.paths import ExperimentPaths, is_safe_name
from ovis.experiments.runs.status import Record

__all__ = ["main"]

#: Changed runs that are named one by one.
NAMED = 20

#: Selections of more runs are printed plain on terminals too: rich takes half a millisecond for a row.
RICH_ROWS = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect the runs of an experiment, put them back, cancel them, or clean up.

    Args:
        argv: the command line; None: this process's.

    Returns:
        0; or 2 where there is no such queue or run, or it can't be read or written, or a run can't be put back.
    """
    prepare_streams()
    parser = _parser()
    options = parser.read(argv)
    _check_options(parser, options)
    try:
        _run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 0 if options.watch else 130
    except BrokenPipeError:  # a pager that was left early; without this Python complains at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (LedgerError, SelectionError) as error:
        print(f"dbutils.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"dbutils.py: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="dbutils.py",
        allow_abbrev=False,
        description="Look into an experiment's queue, also while a manager runs: reading takes no lock and writes "
        "nothing. Or put runs back, cancel them, clean up.",
        epilog="KEY is a run's key, the start of one that no other run shares, or a run's full name; several: "
        "separated by commas, or with the option repeated.",
    )
    add = parser.add_argument
    add("--exp", required=True, metavar="NAME", help="name of the experiment")
    add("--root", default="runs/", metavar="DIR", help="folder of all experiments (default: runs/)")
    action = parser.add_mutually_exclusive_group().add_argument
    action("--check", action="store_true", help="show where the runs stand (the default)")
    action("--watch", action="store_true", help="go on showing it until all runs are settled, or Ctrl-C")
    action("--requeue_level", type=int, choices=[level.value for level in RequeueLevel], metavar="LEVEL",
        help=f"put runs back, by level: {REQUEUE_LEVELS}. What is queued or really running stays so")  # fmt: skip
    action("--requeue", action="append", metavar="KEY", help="put this run back, however it ended")
    action("--cancel", action="append", metavar="KEY",
        help="take this run out of the queue; if it is running, its job stops at its next sign of life")  # fmt: skip
    action("--clean", nargs="?", const="strays", choices=("strays", "all"),
        help="list what no run needs: stray leases and temporary files, deleted folders, folders without a record; "
        "then ask, and remove it. Folders with a success, or with more than settings and logs, go only with 'all'; "
        "folders that the runner did not create stay")  # fmt: skip
    add("--fresh", action="store_true", help=f"with --requeue or --requeue_level: {FRESH}")
    add("--find", metavar="TEXT", help="with --check, --watch or --requeue_level: only the runs whose name, key or "
        "options contain all the words of TEXT, e.g. 'vimco iw=10'; plain text, capitals do not matter")  # fmt: skip
    add("--json", action="store_true", help="print JSON; --clean then removes only with --yes")
    add("--yes", action="store_true", help="do not ask before --clean removes")
    return parser


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.find is not None and (options.requeue or options.cancel or options.clean):
        parser.error("--find goes with --check, --watch and --requeue_level only")
    if options.watch and options.json:
        parser.error("--watch is for people: with --json, call --check again and again")
    if options.fresh and options.requeue_level is None and not options.requeue:
        parser.error("--fresh goes with --requeue and --requeue_level only")
    if options.yes and not options.clean:
        parser.error("--yes goes with --clean only")


def _run(options: argparse.Namespace) -> None:
    queue = _open(options)
    if options.clean:
        _clean(queue, options)
    elif options.watch:
        from ovis.experiments.runner.display.watch import watch  # imports rich, which --help need not wait for

        watch(lambda: _look(queue, options), sys.stdout)
        if is_drawable(sys.stdout):  # its tables are gone with the alternate screen
            _print_status(_look(queue, options))
    else:
        changed = _change(queue, options)
        overview = _look(queue, options)
        if options.json:
            print(json.dumps({**overview.to_json(), "changed": [record.key for record in changed]}, indent=2))
        else:
            _print_status(overview)


def _open(options: argparse.Namespace) -> Queue:
    root = Path(options.root)
    paths = ExperimentPaths(find_experiment(root, options.exp) or root / options.exp)
    if not is_safe_name(options.exp) or not paths.ledger.is_file():
        there = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{paths.ledger.name}")))
        raise LedgerError(f"there is no queue {paths.ledger}; experiments in {options.root}: {there or 'none'}")
    return Queue(paths)


def _look(queue: Queue, options: argparse.Namespace) -> Overview:
    records = queue.read()
    return take_overview(queue.paths, _selected(records, options), len(records))


def _selected(records: list[Record], options: argparse.Namespace) -> list[Record]:
    """The runs selected on the command line."""
    if options.find is not None:
        return find_runs(records, options.find)
    keys = options.requeue or options.cancel
    return pick_runs(records, keys) if keys else records


def _change(queue: Queue, options: argparse.Namespace) -> list[Record]:
    """Put back or cancel runs as requested, and report it."""
    if options.requeue_level is None and not options.requeue and not options.cancel:
        return []
    selected = _selected(queue.read(), options)
    keys = {record.key for record in selected}
    if options.cancel:
        verb, changed = "cancelled", queue.cancel(keys)
    elif options.requeue:
        verb, changed = "put back", queue.requeue(RequeueLevel.ALL, keys, strict=True, fresh=options.fresh)
    else:
        verb, changed = "put back", queue.requeue(RequeueLevel(options.requeue_level), keys, fresh=options.fresh)
    if not options.json:
        print(f"{verb} {runs_text(len(changed))}")
        for record in changed[:NAMED] if options.requeue_level is None else ():
            print(f"  {record.name}")
        if not options.cancel and (note := describe_start(selected, changed, options.fresh)):
            print(note)
        if options.requeue_level is None:
            _print_unchanged(queue, keys - {record.key for record in changed})
    return changed


def _print_unchanged(queue: Queue, keys: set[str]) -> None:
    for record in queue.read():
        if record.key in keys:
            print(f"unchanged: {record.name} is {record.state.value} already")


def _print_status(overview: Overview) -> None:
    limits = default_limits(overview)
    if not is_drawable(sys.stdout) or len(overview.records) > RICH_ROWS:
        print("\n".join(plain_status(overview, limits)))
        return
    from ovis.experiments.runner.display.rich_status import draw_status  # imports rich, for terminals only

    make_console(sys.stdout).print(draw_status(overview, limits), crop=False)


def _clean(queue: Queue, options: argparse.Namespace) -> None:
    leftovers = find_leftovers(queue)
    kept = () if options.clean == "all" else (LeftoverKind.RESULTS,)
    going = [item for item in leftovers if not item.kind.stays and item.kind not in kept]
    if options.json:
        removed = remove_leftovers(queue, going) if options.yes else []
        print(json.dumps({"exp": options.exp, "found": _as_json(leftovers), "removed": _as_json(removed)}, indent=2))
        return
    _print_leftovers("kept:", [item for item in leftovers if item not in going])
    _print_leftovers("to be removed:", going)
    if not going:
        print(f"{queue.paths.folder}: nothing to remove")
    elif not options.yes and not sys.stdin.isatty():
        print("nothing was removed: say --yes where there is no terminal to ask at")
    elif options.yes or confirm(f"remove these {len(going)}? [y/N] "):
        print(f"removed {len(remove_leftovers(queue, going))}")
    else:
        print("nothing was removed")


def _print_leftovers(title: str, leftovers: Sequence[Leftover]) -> None:
    if leftovers:
        print(title)
    for item in leftovers:
        print(f"  {item.path}  ({item.kind.value})")


def _as_json(leftovers: Sequence[Leftover]) -> list[dict[str, Any]]:
    return [{"path": str(item.path), "kind": item.kind.name.lower(), "why": item.kind.value} for item in leftovers]
