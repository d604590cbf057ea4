"""Random kills of managers, jobs and trainings: nothing is lost, done twice or overwritten. Without the guards, it is.

The runs last longer than a lease, or orphans would end before anybody could take them for lost.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import pytest
from chaos import Chaos
from laboratory import Lab, record
from slow_cases import slow_except
from tinydb import TinyDB
from tinydb.storages import JSONStorage

from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.queue.transitions import RequeueLevel

SHORT = {"runs": 8, "kills": 10, "step": 0.15}
LONG = {"runs": 60, "kills": 60, "step": 0.25}


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.policy = Policy(heartbeat=0.25, ttl=1.5)
    return lab


@pytest.mark.slow
def test_short_chaos(lab: Lab) -> None:
    verdict = Chaos(lab, **SHORT).run()
    assert verdict.holds, verdict
    assert sum(verdict.kills.values()) == SHORT["kills"]
    assert verdict.starts > SHORT["runs"]  # something was killed that then began again


@pytest.mark.slow
def test_without_its_guards_the_same_chaos_writes_over_itself(lab: Lab) -> None:
    slow = SHORT | {"step": 0.3}  # on a busy machine a shorter training ends before its second job has started
    verdict = Chaos(lab, **slow, unguarded="deathsignal,runlock", targets={"job": 1}).run()
    assert verdict.overlaps > 0, verdict


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_long_chaos(lab: Lab) -> None:
    verdict = Chaos(lab, **LONG, seed=1).run()
    print(verdict)
    assert verdict.holds, verdict
    assert sum(verdict.kills.values()) == LONG["kills"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_long_chaos_where_children_outlive_their_parents(lab: Lab) -> None:
    """As on macOS: the run's lock alone keeps two processes apart, and refuses some."""
    verdict = Chaos(lab, **LONG, seed=4, unguarded="deathsignal").run()
    print(verdict)
    assert verdict.holds, verdict
    assert verdict.refused > 0


def test_the_watcher_notices_a_run_that_is_done_twice(lab: Lab) -> None:
    lab.write(args=["--estimator vimco --iw 2"])
    chaos = Chaos(lab, runs=1, kills=0)
    assert lab.run() == 0
    chaos.watch()
    lab.queue.requeue(RequeueLevel.ALL)
    assert lab.run() == 0
    chaos.watch()
    assert chaos.verdict.done_twice == 1
    assert not dataclasses.replace(chaos.verdict, runs=1).holds


@pytest.mark.parametrize("storage", slow_except(["stock"], ["atomic", "stock"]))
def test_a_reader_without_a_lock_never_sees_half_a_ledger(lab: Lab, storage: str) -> None:
    """The stock storage of TinyDB writes in place, which shows that this test can fail."""
    queue = lab.queue
    queue.add([record(f"{number:012x}") for number in range(300)])
    stop = threading.Event()

    def write() -> None:
        for error in itertools.cycle(["x" * 1000, ""]):  # the file grows and shrinks
            if stop.is_set():
                return
            if storage == "atomic":
                with queue.ledger.transaction() as transaction:
                    for key, row in transaction.rows.items():
                        row["error"] = error
                        transaction.touch(key)
            else:
                with TinyDB(lab.paths.ledger, storage=JSONStorage) as database:
                    database.table("runs").update({"error": error})

    writer = threading.Thread(target=write)
    writer.start()
    broken, deadline = 0, time.monotonic() + 2.0
    while time.monotonic() < deadline and not (broken and storage == "stock"):
        try:
            assert len(queue.read()) == 300
        except (LedgerError, AssertionError):
            broken += 1
    stop.set()
    writer.join()
    assert (broken > 0) is (storage == "stock"), broken
