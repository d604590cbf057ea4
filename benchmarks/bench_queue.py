"""The queue against its budgets: transactions, contention, an idle manager, kills. No GPU, about two minutes.

    python benchmarks/bench_queue.py --n 100,1000,10000 --storage stock,atomic --procs 1,4 --json out.json

Times are medians of five after a warm-up, with their minimum beside them: on a machine that others use too, only the
minimum says much about the queue. Budgets hold for our own storage and up to 10,000 runs; ``stock`` is TinyDB's, which
writes in place, for comparison. Exits with 1 when a median is over its budget.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import queue_points as points

#: No budget was set for more runs.
LARGEST = 10_000

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        n: runs in the ledger.
        storage: of the ledger.
        unit: of what follows: "s", "ms" or "us"; else what is counted.
        median: of the measurements.
        best: the smallest of them.
        expected: what the queue's prototype took on a machine like CI's, at 10,000 runs.
        budget: the most that the median may be; None: none was set.
        note: what else there is to say.
    """

    what: str
    n: int
    storage: str
    unit: str
    median: float
    best: float
    expected: str = ""
    budget: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.budget is None or self.storage == "stock" or self.n > LARGEST:
            return ""
        return "ok" if self.median <= self.budget else "OVER"

    def __str__(self) -> str:
        budget = "" if self.budget is None else f"{self.budget:g}"
        figures = f"{self.expected:>12s} {budget:>7s} {self.median:9.4g} {self.best:9.4g} {self.unit:10s}"
        return f"{self.what:36s} {self.n:6d} {self.storage:6s} {figures} {self.verdict:5s} {self.note}".rstrip()


HEAD = (
    f"{'':36s} {'runs':>6s} {'':6s} {'expected at':>12s} {'budget':>7s}\n"
    f"{'':36s} {'':6s} {'':6s} {'10,000':>12s} {'for CI':>7s} {'median':>9s} {'minimum':>9s}"
)


def timing(
    what: str, n: int, storage: str, unit: str, times: Sequence[float], expected: str = "",
    budget: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    """A line of seconds, shown in ``unit``."""
    scale = UNITS[unit]
    return Row(what, n, storage, unit, scale * statistics.median(times), scale * min(times), expected, budget, note)


def measure_ledger(folder: Path, n: int, storage: str, processes: Sequence[int]) -> Iterator[Row]:
    """One ledger's transactions."""
    bench = points.Bench(folder, n)
    yield timing("add all at once", n, storage, "s", bench.add(), "0.05-0.2", 1.0)
    singly = bench.add_singly()
    total = statistics.median(singly) * n / 2  # its cost grows with what is there
    yield timing("add one more", n, storage, "ms", singly, note=f"one by one {total:.3g} s in all, extrapolated")
    yield timing("claim 1", n, storage, "ms", bench.claim(), "60-145", 300.0)
    yield timing("finish 1", n, storage, "ms", bench.finish(), "60-145", 300.0)
    tick = bench.tick()
    yield timing("finish 16 and claim 16", n, storage, "ms", tick, "45-60", 300.0, f"{bench.size / 1e6:.2g} MB")
    with points.use_storage(storage, fsync=False):
        yield timing("finish 16 and claim 16, fsync off", n, storage, "ms", bench.tick())
    drain = [seconds * n / points.BATCH for seconds in tick]
    yield timing("drain, ledger's part, 16 a tick", n, storage, "s", drain, "30-95", 120.0, "extrapolated")
    running = min(100, n // 2)
    yield timing(f"find nothing to do, {running} running", n, storage, "ms", bench.idle_tick(running))
    yield timing(f"reap {running} of a dead manager", n, storage, "ms", bench.reap(running))
    yield timing("heartbeat", n, storage, "us", bench.heartbeat(), "2", 1000.0)
    yield timing("read all, without a lock", n, storage, "ms", bench.read(), "30-60", 200.0)
    for count in processes:
        waits = bench.contention(count, storage)
        note = f"95 %: {1e3 * waits[int(0.95 * len(waits))]:.0f}, longest: {1e3 * waits[-1]:.0f} ms"
        yield timing(f"claim or finish 1, {count} contending", n, storage, "ms", waits, note=note)


def measure_whole(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Experiment file, manager and engine, and what kills leave."""
    largest = max(options.n)
    yield timing("expand and validate a file", largest, "", "s", points.expansion(folder, largest), "1-2", 10.0)
    share = points.idle_manager(folder, largest)
    yield Row("idle manager, 2 running: CPU a minute", largest, "atomic", "s", 60 * share, 60 * share)
    count = options.end_to_end
    managed, alone = points.drain(folder, count)
    note = f"{count / managed:.3g} runs/s; 1,000 runs in {1000 * managed / count:.0f} s, extrapolated"
    yield timing("run nothing, local engine, 2 slots", count, "atomic", "ms", [managed / count], note=note)
    yield timing("overhead over the commands alone", count, "atomic", "ms", [(managed - alone) / count])
    for storage in options.storage:
        with points.use_storage(storage):
            (subfolder := folder / f"kills-{storage}").mkdir()
            torn = points.kill_writers(subfolder, storage, options.kills)
        yield Row(f"{options.kills} kills of a writer", 1000, storage, "unreadable", torn, torn, "", 0)
    verdict = points.chaos(folder, options.chaos, options.chaos)
    note = f"{sum(verdict.kills.values())} kills, {verdict.starts} trainings started"
    for what in ("lost", "done_twice", "overlaps", "unreadable"):
        count = getattr(verdict, what)
        yield Row("chaos", options.chaos, "atomic", what.replace("_", " "), count, count, "", 0, note)


def measure(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """All lines of the table."""
    for n in options.n:
        for storage in options.storage:
            with points.use_storage(storage):
                (subfolder := folder / f"{storage}{n}").mkdir()
                yield from measure_ledger(subfolder, n, storage, options.procs)
    yield from measure_whole(folder, options)


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(len(mount), kind) for mount, kind in mounts if folder.resolve().is_relative_to(mount)]
    return max(above)[1]


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def storages(text: str) -> list[str]:
    unknown = set(text.split(",")) - points.STORAGES.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(sorted(unknown))}; valid: {', '.join(points.STORAGES)}")
    return text.split(",")


def main() -> int:
    """Print the table.

    Returns:
        0: every median is within its budget; 3: one is not (a traceback ends with 1).
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=numbers, default="100,1000,10000", help="runs in the ledger")
    parser.add_argument("--storage", type=storages, default="stock,atomic", help="how the ledger is written")
    parser.add_argument("--procs", type=numbers, default="1,4", help="processes that want the lock")
    parser.add_argument("--end_to_end", type=int, default=60, help="runs through the local engine")
    parser.add_argument("--kills", type=int, default=200, help="writers to kill")
    parser.add_argument("--chaos", type=int, default=8, help="runs, and processes to kill meanwhile")
    parser.add_argument("--folder", help="where to write (default: the system's folder for temporary files)")
    parser.add_argument("--json", type=Path, help="write the table here, too")
    options = parser.parse_args()
    begin, load = time.monotonic(), os.getloadavg()
    print(HEAD)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kind = file_system(Path(folder))
        for row in measure(Path(folder), options):
            rows.append(row)
            print(row, flush=True)
    machine = {
        "python": platform.python_version(),
        "tinydb": version("tinydb"),
        "filelock": version("filelock"),
        "cores": len(os.sched_getaffinity(0)),
        "file system": kind,
        "load before": [round(figure, 2) for figure in load],
        "load after": [round(figure, 2) for figure in os.getloadavg()],
        "seconds": round(time.monotonic() - begin, 1),
    }
    print("; ".join(f"{name} {value}" for name, value in machine.items()))
    over = [row for row in rows if row.verdict == "OVER"]
    print(f"{len(over)} over budget" if over else "all within budget")
    if options.json:
        table = [{**asdict(row), "verdict": row.verdict} for row in rows]
        options.json.write_text(json.dumps({"machine": machine, "rows": table}, indent=2) + "\n")
    return 3 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
