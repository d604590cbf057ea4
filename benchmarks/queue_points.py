"""What ``bench_queue.py`` measures: each function a point, through the runner's own classes. All times are in seconds.

The points of a ledger are taken in the middle of a drain, half of its runs done: rows grow as runs are claimed and end,
so that is what a transaction costs on average.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

from tinydb import JSONStorage

from ovis.experiments.runner.display.progress import ProgressView
from ovis.experiments.runner.engines.local import LocalEngine
from ovis.experiments.runner.experiment_file import load_experiment
from ovis.experiments.runner.gpus.device_choice import DeviceSource
from ovis.experiments.runner.gpus.devices import list_devices
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import run_experiment
from ovis.experiments.runner.queue import ledger, transitions
from ovis.experiments.runner.queue.ledger import AtomicStorage, LedgerError
from ovis.experiments.runner.queue.queue import Ended, Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runs.fencing import publish_outcome
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.process import new_owner
from ovis.experiments.runs.status import AttemptResult, Outcome, Record

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "experiments" / "runner"))
from chaos import Chaos, Verdict
from laboratory import Lab, dead_owner

#: TinyDB's own storage writes in place. It does not look at what it reads; ours refuses what no queue has written.
STORAGES: dict[str, Callable[[Path], Any]] = {
    "stock": functools.partial(JSONStorage, separators=(",", ":")),
    "atomic": AtomicStorage,
}

BATCH = 16
NOTHING = (sys.executable, "-c", "pass")
SLEEP = (sys.executable, "-c", "import time; time.sleep(3600)")


@contextlib.contextmanager
def use_storage(name: str, fsync: bool = True) -> Iterator[None]:
    """Let the ledgers be written by this storage."""
    with mock.patch.object(ledger, "AtomicStorage", STORAGES[name]), contextlib.ExitStack() as stack:
        if not fsync:
            stack.enter_context(mock.patch.object(os, "fsync"))
        yield


def timed(action: Callable[[], object], before: Callable[[], object] = lambda: None) -> list[float]:
    """How long an action takes, five times after a warm-up; what comes before it is not counted."""
    times = []
    for _ in range(6):
        before()
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return times[1:]


def write_experiment(folder: Path, n: int) -> Path:
    """An experiment file of ``n`` runs."""
    path = folder / "runs.json"
    path.write_text(json.dumps({"args": ["--estimator ovis-gamma1 --iw 10 --nsteps 1000"], "seeds": n}))
    return path


def expansion(folder: Path, n: int) -> list[float]:
    """Reading an experiment file: all its runs expanded and validated."""
    path = write_experiment(folder, n)
    return timed(lambda: load_experiment(path))


class Bench:
    """A queue of ``n`` runs, half of them done."""

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n, self.me, self.dead = folder, n, new_owner(), dead_owner()
        self.records = [run.record() for run in load_experiment(write_experiment(folder, n)).runs]
        self.names = (folder / f"queue{number}" for number in itertools.count())
        self.queue = self._empty()
        self.queue.add(self.records)
        self.claimed: list[Record] = []
        now = time.time()
        with self.queue.ledger.transaction() as transaction:
            for key, row in list(transaction.rows.items())[: n // 2]:
                transitions.claim(row, self.me, now)
                row.update(engine={"kind": "local", "id": "12345"}, device="cpu")
                transitions.finish(row, Outcome(AttemptResult.SUCCESS, 1), self.queue.policy, now)
                transaction.touch(key)

    def _empty(self) -> Queue:
        return Queue(ExperimentPaths(next(self.names)))

    @property
    def size(self) -> int:
        """Of the ledger, in bytes."""
        return self.queue.paths.ledger.stat().st_size

    def add(self) -> list[float]:
        """All runs at once."""
        return timed(lambda: self._empty().add(self.records))

    def add_singly(self, count: int = 20) -> list[float]:
        """One run more, for the last of these runs, the others being there."""
        queue = self._empty()
        queue.add(self.records[:-count])
        times = []
        for record in self.records[-count:]:
            begin = time.perf_counter()
            queue.add([record])
            times.append(time.perf_counter() - begin)
        return times

    def claim(self) -> list[float]:
        """A transaction that claims one run."""
        return timed(lambda: self._tick(1), self._put_back)

    def finish(self) -> list[float]:
        """A transaction that settles one run."""
        return timed(self._put_back, lambda: self._tick(1))

    def tick(self) -> list[float]:
        """A transaction that settles 16 runs and claims 16."""
        self._tick(BATCH)
        times = timed(lambda: self._tick(BATCH, self._ended()), self._publish)
        self._put_back()
        return times

    def idle_tick(self, running: int) -> list[float]:
        """A transaction that finds nothing to do; the leases of the running runs are looked at."""
        self._tick(running)
        times = timed(lambda: self.queue.tick(self.me, 0))
        self._put_back()
        return times

    def reap(self, running: int) -> list[float]:
        """A transaction that puts back the runs of a manager that died."""
        return timed(lambda: self.queue.tick(self.me, 0), lambda: self.queue.tick(self.dead, running))

    def heartbeat(self, count: int = 1000) -> list[float]:
        """A lease renewed."""
        self.queue.leases.create("0" * 12, 1)

        def beat() -> None:
            for _ in range(count):
                self.queue.leases.beat("0" * 12, 1)

        return [seconds / count for seconds in timed(beat)]

    def read(self) -> list[float]:
        """All records, without a lock."""
        return timed(self.queue.read)

    def contention(self, processes: int, storage: str, turns: int = 8) -> list[float]:
        """Transactions of processes that all want the lock; each claims a run and settles it, ``turns`` times."""
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, _meet, [context.Barrier(processes)]) as pool:
            calls = [(self.queue.paths.folder, storage, turns)] * processes
            return sorted(itertools.chain(*pool.starmap(contend, calls, chunksize=1)))

    def _tick(self, room: int, ended: Sequence[Ended] = ()) -> None:
        self.claimed = self.queue.tick(self.me, room, ended).claimed

    def _publish(self) -> None:
        """The claimed runs' jobs end. They were asked to, so that runs to claim do not run out."""
        for record in self.claimed:
            run = self.queue.paths.run(record.name)
            run.folder.mkdir(exist_ok=True)
            publish_outcome(run, Outcome(AttemptResult.ABORTED, record.attempt))

    def _ended(self) -> list[Ended]:
        return aborted(self.claimed)

    def _put_back(self) -> None:
        self._tick(0, self._ended())


def aborted(records: Sequence[Record]) -> list[Ended]:
    """What a manager says of jobs that it has asked to stop."""
    return [Ended(record.key, record.attempt, Outcome(AttemptResult.ABORTED, record.attempt)) for record in records]


def _meet(barrier: Barrier) -> None:
    barrier.wait()


def contend(folder: Path, storage: str, turns: int) -> list[float]:
    """What one of the processes does: how long each of its transactions took, waiting included."""
    queue, me, times = Queue(ExperimentPaths(folder)), new_owner(), []
    with use_storage(storage):
        for _ in range(turns):
            begin = time.perf_counter()
            claimed = queue.tick(me, 1).claimed
            middle = time.perf_counter()
            queue.tick(me, 0, aborted(claimed))
            times += [middle - begin, time.perf_counter() - middle]
    return times


def drain(folder: Path, count: int, slots: int = 2) -> tuple[float, float]:
    """Runs that do nothing, through a manager and its local engine; and the same commands without them.

    Returns:
        seconds for all of them, both ways.
    """
    runs = load_experiment(write_experiment(folder, count)).runs
    queue = Queue(ExperimentPaths(folder / "drain"))
    begin = time.perf_counter()
    queue.add([run.record() for run in runs])
    engine = LocalEngine(DeviceSource(list_devices("cpu")), slots)
    result = run_experiment(runs, queue, engine, _Silence(), JobSpec(queue.paths.folder, "", 0, command=NOTHING))
    managed = time.perf_counter() - begin
    if not result.complete:
        raise RuntimeError(f"not all runs are done: {result.counts}")
    begin = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(lambda run: subprocess.run([*NOTHING, json.dumps(run.identity.settings)], check=True), runs))
    return managed, time.perf_counter() - begin


class _Silence:
    """A display that shows nothing."""

    def show(self, view: ProgressView) -> None:
        pass

    def print(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Stopwatch(_Silence):
    """Notes the manager's CPU time from some seconds after its runs have started, and interrupts it after a while."""

    SETTLING = 3.0  # the start of the runs has been noted in the ledger

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begin = float("inf")
        self.marks: list[tuple[float, float]] = []  # real time and CPU time

    def show(self, view: ProgressView) -> None:
        now = time.monotonic()
        if len(view.running) == 2:
            self.begin = min(self.begin, now + self.SETTLING)
        if now >= self.begin:
            self.marks.append((now, time.process_time()))
        if now >= self.begin + self.seconds:
            signal.raise_signal(signal.SIGTERM)

    def share(self) -> float:
        """CPU time per time."""
        (begin, cpu_begin), (end, cpu_end) = self.marks[0], self.marks[-1]
        return (cpu_end - cpu_begin) / (end - begin)


def idle_manager(folder: Path, n: int, seconds: float = 10.0) -> float:
    """The share of a core that a manager takes while two runs are under way for long and ``n`` are queued.

    Args:
        seconds: to watch it; it looks at its ledger every five.
    """
    runs = load_experiment(write_experiment(folder, n)).runs
    queue = Queue(ExperimentPaths(folder / "idle"))
    queue.add([run.record() for run in runs])
    watch = _Stopwatch(seconds)
    engine = LocalEngine(DeviceSource(list_devices("cpu")), 2)
    run_experiment(runs, queue, engine, watch, JobSpec(queue.paths.folder, "", 0, command=SLEEP))
    return watch.share()


def kill_writers(folder: Path, storage: str, kills: int, n: int = 1000) -> int:
    """Kill processes that write a ledger, without mercy.

    Returns:
        how often the ledger was unreadable after it.
    """
    bench, chance = Bench(folder, n), random.Random(0)
    path = bench.queue.paths.ledger
    good, unreadable = path.read_bytes(), 0
    for _ in range(kills):
        writer = multiprocessing.get_context("fork").Process(target=_write_forever, args=(bench.queue,))
        writer.start()
        time.sleep(chance.uniform(0.01, 0.04))
        writer.kill()
        writer.join()
        try:
            if len(bench.queue.read()) != n:
                raise ValueError("runs are missing")
            good = path.read_bytes()
        except (LedgerError, ValueError):
            unreadable += 1
            path.write_bytes(good)
    return unreadable


def _write_forever(queue: Queue) -> None:
    me = new_owner()
    while True:  # the ledger grows and shrinks
        queue.tick(me, 0, aborted(queue.tick(me, BATCH).claimed))


def chaos(folder: Path, runs: int, kills: int) -> Verdict:
    """Managers, jobs and trainings killed at random; runs last longer than the lease, or orphans would go unseen."""
    return Chaos(Lab(folder, Policy(heartbeat=0.25, ttl=1.5)), runs, kills, slots=2, step=0.15).run()
