"""The queue of one experiment: every transaction on its ledger, its leases and its outcomes.

The ledger holds transitions only. Heartbeats are the leases' mtimes, and a run's outcome is the file in its folder:
that file is the commit point, and marking it in the ledger happens exactly once, whoever finds it first.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ovis.experiments.runner.queue import transitions
from ovis.experiments.runner.queue.leases import Leases
from ovis.experiments.runner.queue.ledger import SNAPSHOTS, Ledger, LedgerError, Row, Transaction
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.queue.transitions import RUNNING, RequeueLevel
from ovis.experiments.runner.snapshot import Snapshot
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.fencing import is_locked, read_fence, withdraw_outcome
from ovis.experiments.runs.paths import ExperimentPaths, RunPaths
from ovis.experiments.runs.process import owner_is_dead
from ovis.experiments.runs.status import AttemptResult, Outcome, Record, State, read_outcome

__all__ = ["Ended", "Event", "Launched", "Queue", "SnapshotMissing", "Tick"]

#: Largest number of runs in a ledger, which every transaction rewrites.
MAX_RUNS = 30_000

STATES = {state.value: state for state in State}


class SnapshotMissing(RuntimeError):
    """The code that attempts are to run on is gone, so no run was claimed.

    Attributes:
        snapshot: that code, as recorded in the ledger.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(f"the snapshot of the code {snapshot.id} is gone")
        self.snapshot = snapshot


@dataclass(frozen=True)
class Ended:
    """A job that ended.

    Attributes:
        key: the run.
        attempt: its number.
        otherwise: the outcome, where the run's folder holds none of this attempt.
    """

    key: str
    attempt: int
    otherwise: Outcome


@dataclass(frozen=True)
class Launched:
    """A job that was submitted, that has started on a node, or that was taken over from another manager.

    Attributes:
        key: the run.
        attempt: its number.
        engine: the ledger's entry on the job: ``{"kind", "id"}``, and ``"detached"`` where it outlives its manager.
        device: where it runs; empty: nowhere yet.
        started: when it began, seconds since 1970; 0: as it was claimed.
    """

    key: str
    attempt: int
    engine: Mapping[str, str]
    device: str
    started: float = 0.0


@dataclass(frozen=True)
class Event:
    """An attempt that has ended, and the run's record after it."""

    record: Record
    outcome: Outcome


@dataclass(frozen=True)
class Tick:
    """The result of one transaction of the manager.

    Attributes:
        claimed: the runs to start now.
        events: the attempts that were settled.
        states: the state of each run that the manager asked about.
        next_start: when the next queued run may start, seconds since 1970; None: none is queued.
        attempts: the valid attempt of each running run, by key; a job of any other attempt no longer counts.
    """

    claimed: list[Record]
    events: list[Event]
    states: dict[str, State]
    next_start: float | None
    attempts: dict[str, int]


@dataclass
class Queue:
    """The queue of one experiment.

    Attributes:
        paths: the experiment's files.
        policy: times and limits.
    """

    paths: ExperimentPaths
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.paths)
        self.leases = Leases(self.paths)

    def read(self) -> list[Record]:
        """All records, without a lock.

        Raises:
            LedgerError: the ledger can't be read.
        """
        return [Record.from_row(row) for row in self.ledger.read()]

    def find(self, key: str) -> Record | None:
        """One record, without a lock; None: there is none.

        Raises:
            LedgerError: the ledger can't be read.
        """
        return next((Record.from_row(row) for row in self.ledger.read() if row["key"] == key), None)

    def snapshot(self) -> Snapshot | None:
        """The code that attempts run on from now on; None: none was taken, they run on the code at hand.

        Raises:
            LedgerError: the ledger can't be read.
        """
        rows = self.ledger.read(SNAPSHOTS)
        return Snapshot.from_row(rows[-1]) if rows else None

    def add(self, records: Sequence[Record], snapshot: Snapshot | None = None) -> int:
        """Queue the runs that are not known yet; the known ones stay as they are.

        A run whose folder is there without a record goes on from it.

        Args:
            records: the runs.
            snapshot: the code that attempts run on from now on, those of other managers too; None: as it was.

        Returns:
            how many were new.
        """
        self.paths.folder.mkdir(parents=True, exist_ok=True)
        now, known = time.time(), {row["key"] for row in self.ledger.read()}
        rows = {r.key: _new_row(self.paths, r, self.policy, now) for r in records if r.key not in known}
        with self.ledger.transaction() as transaction:
            for record in (record for record in records if rows.get(record.key, {}).get("attempt")):
                if not self.paths.run(record.name).folder.exists():  # cleaned away since it was looked at
                    rows[record.key] = _new_row(self.paths, record, self.policy, now)
            new = [row for key, row in rows.items() if key not in transaction.rows]
            if len(transaction.rows) + len(new) > MAX_RUNS:
                raise LedgerError(
                    f"{len(transaction.rows) + len(new)} runs in one experiment: the queue {self.paths.ledger} is made "
                    f"for at most {MAX_RUNS}; split it"
                )
            transaction.insert(new)
            if snapshot is not None:
                transaction.use_snapshot(snapshot.to_row())
        return len(new)

    def tick(
        self,
        owner: str,
        slots: int,
        ended: Iterable[Ended] = (),
        launched: Iterable[Launched] = (),
        keys: Collection[str] | None = None,
        engine: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> Tick:
        """One transaction: record launched, ended and lost jobs, and claim up to ``slots`` runs.

        It may be repeated after an error, as nothing was recorded or claimed.

        Args:
            owner: name of the claiming process.
            slots: how many runs it can start now.
            ended: its jobs that ended.
            launched: its jobs that were started since the last tick.
            keys: claim and report only these runs; None: all.
            engine: the ledger's entry on the jobs of the claimed runs.
            patience: seconds to wait for the ledger's lock; None: as long as it takes.

        Raises:
            LedgerLocked: another process has the lock.
            LedgerError: the ledger can't be read or written.
            OSError: a lease can't be written.
            SnapshotMissing: there are runs to claim, but not their code.
        """
        now = time.time()
        with self.ledger.transaction(patience) as transaction:
            for job in launched:
                row = self._running(transaction, job.key, job.attempt)
                if row is not None:
                    started = job.started or row["started"]
                    row.update(engine=dict(job.engine), device=job.device, owner=owner, started=started)
            events = [event for job in ended if (event := self._finish(transaction, job, now))]
            events += self._reap(transaction, now)
            mine = [row for key, row in transaction.rows.items() if keys is None or key in keys]
            due = {row["key"]: t for row in mine if (t := transitions.due(row, self.policy, now)) is not None}
            ready: list[Row] = [transaction.rows[key] for key, t in due.items() if t <= now]
            ready.sort(key=lambda row: -row["priority"])  # stable: else in the order of the file
            claimed = self._claim(transaction, ready[: max(slots, 0)], owner, now, engine)
            for record in claimed:
                del due[record.key]
            states = {row["key"]: STATES[row["state"]] for row in mine}
            attempts = {row["key"]: row["attempt"] for row in mine if row["state"] == RUNNING}
        for event in events:
            with suppress(OSError):  # the ledger is written: what stays is removed as stale
                self.leases.release(event.record.key, event.record.attempt)
        return Tick(claimed, events, states, min(due.values(), default=None), attempts)

    def requeue(
        self,
        level: RequeueLevel,
        keys: Collection[str] | None = None,
        strict: bool = False,
        fresh: bool = False,
    ) -> list[Record]:
        """Put runs back by how they ended, and those whose manager died.

        The ledger is written first and says from which attempt on an outcome counts; only then the outcomes go.

        Args:
            level: which runs.
            keys: of these only; None: of all.
            strict: refuse where one of them is running, instead of leaving it alone.
            fresh: begin at step 0. The next attempt deletes the files of earlier ones before it begins. With
                ``strict``, this applies to queued runs, too.

        Returns:
            those put back.

        Raises:
            LedgerError: as of ``strict``; nothing was changed.
        """
        if level is RequeueLevel.NOTHING:
            return []
        now = time.time()
        with self.ledger.transaction() as transaction:
            lost = [event.record for event in self._reap(transaction, now)]
            rows = [row for key, row in transaction.rows.items() if keys is None or key in keys]
            running = [row["name"] for row in rows if row["state"] == RUNNING]
            if strict and running:
                raise LedgerError(f"nothing was put back, as {_are_running(running)}: cancel first")
            chosen: list[Record] = []
            for row in rows:
                if transitions.requeued_by(row, level) or (fresh and strict and row["state"] == State.QUEUED.value):
                    if fresh:
                        row["attempt"] = _last_attempt(self.paths.run(row["name"]), row["attempt"])
                    transitions.requeue(row, now, fresh)
                    transaction.touch(row["key"])
                    chosen.append(Record.from_row(row))
        failpoint("requeue.written")
        for record in chosen:
            withdraw_outcome(self.paths.run(record.name), record.valid_from)
        return chosen + [r for r in lost if r.state is State.QUEUED and (keys is None or r.key in keys)]

    def cancel(self, keys: Collection[str]) -> list[Record]:
        """Cancel runs: a queued one won't start; a running one loses its lease, so that its job stops.

        One that has come to its end by itself, which nobody has noted yet, is settled by that instead.

        Returns:
            those cancelled; others of ``keys`` were settled before.
        """
        now = time.time()
        cancelled = []
        with self.ledger.transaction() as transaction:
            for key, row in transaction.rows.items():
                if key not in keys or not transitions.is_open(row):
                    continue
                transaction.touch(key)
                self.leases.revoke(key, row["attempt"])
                published = read_outcome(self.paths.run(row["name"]))
                if published is not None and transitions.settles(row, published):
                    transitions.finish(row, published, self.policy, now)
                if transitions.is_open(row):
                    transitions.cancel(row, now)
                    cancelled.append(Record.from_row(row))
        failpoint("cancel.written")
        return cancelled

    def clear(self, others: Collection[str] = ()) -> int:
        """Delete every run and its folder, the snapshots and the copy of the experiment file.

        Args:
            others: names of run folders without a record that are deleted too.

        Returns:
            how many runs there were.

        Raises:
            LedgerError: a run is still running, or a process is at work in a folder; nothing was deleted.
        """
        trash = self.paths.trash(uuid.uuid4().hex[:8])
        with self.ledger.transaction() as transaction:
            self._reap(transaction, time.time())
            records = [Record.from_row(row) for row in transaction.rows.values()]
            running = [record for record in records if record.state is State.RUNNING]
            if running:
                alone = [r.key for r in running if transitions.is_detached(r.to_row()) and owner_is_dead(r.owner)]
                outlives = f"its job outlives its manager: dbutils.py --exp {self.paths.folder.name} --cancel "
                remedy = outlives + alone[0] if alone else "stop the manager first"
                raise LedgerError(f"{_are_running([record.name for record in running])}: {remedy}")
            names = {*(record.name for record in records), *others}
            # A training by hand, or a cancelled one on its way out: it would go on in the new run's folder.
            busy = [run.folder for name in names if is_locked(run := self.paths.run(name))]
            if busy:
                raise LedgerError(f"a process is at work in {busy[0]}: stop it first, or wait for it")
            trash.mkdir()
            # Aside first: a kill leaves records without folders, never old folders for new runs.
            for name in names:
                folder = self.paths.run(name).folder
                if folder.exists() or folder.is_symlink():
                    folder.rename(trash / name)
            failpoint("clear.renamed")
            self.paths.experiment.unlink(missing_ok=True)
            if self.paths.snapshots.exists():
                self.paths.snapshots.rename(trash / self.paths.snapshots.name)
            transaction.clear()
        shutil.rmtree(trash, ignore_errors=True)
        return len(records)

    def mark_lost_results(self, keys: Collection[str]) -> list[Record]:
        """Mark runs as failed that are done, but whose outcome is no longer in their folder.

        Args:
            keys: of these runs only.

        Returns:
            those that were marked.

        Raises:
            LedgerError: the ledger can't be read or written.
        """

        def is_lost(row: Row) -> bool:
            done = row["key"] in keys and row["state"] == State.DONE.value
            return done and not self.paths.run(row["name"]).outcome.exists()

        if not any(map(is_lost, self.ledger.read())):  # without the lock
            return []
        now, lost = time.time(), []
        with self.ledger.transaction() as transaction:
            for key, row in transaction.rows.items():
                if is_lost(row):
                    run = self.paths.run(row["name"])
                    gone = run.outcome.name if run.folder.exists() else "its folder"
                    transitions.lose_results(row, now, f"it was done, but {gone} is gone, and with it the results")
                    transaction.touch(key)
                    lost.append(Record.from_row(row))
        return lost

    def remove_stale(self) -> None:
        """Remove what earlier kills left behind."""
        running = {f"{row['key']}.{row['attempt']}" for row in self.ledger.read() if row["state"] == RUNNING}
        self.leases.remove_stale(running)
        kept = {row["id"] for row in self.ledger.read(SNAPSHOTS)}
        for folder in self.paths.all_snapshots():
            if folder.name not in kept and self.leases.is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _claim(
        self, transaction: Transaction, rows: list[Row], owner: str, now: float, engine: Mapping[str, str] | None
    ) -> list[Record]:
        if rows and transaction.snapshots and not self.paths.has_snapshot(transaction.snapshot):
            raise SnapshotMissing(Snapshot.from_row(transaction.snapshots[-1]))
        for row in rows:
            row["attempt"] = _last_attempt(self.paths.run(row["name"]), row["attempt"])
            self.leases.create(row["key"], row["attempt"] + 1)
            failpoint("claim.leased")
            transitions.claim(row, owner, now, transaction.snapshot, engine)
            transaction.touch(row["key"])
        return [Record.from_row(row) for row in rows]

    def _finish(self, transaction: Transaction, job: Ended, now: float) -> Event | None:
        row = self._running(transaction, job.key, job.attempt)
        if row is None:  # late: somebody else has settled this attempt
            return None
        published = read_outcome(self.paths.run(row["name"]))
        accepted = published is not None and transitions.accepts(row, published, job.attempt)
        outcome = published if published is not None and accepted else job.otherwise
        transitions.finish(row, outcome, self.policy, now)
        return Event(Record.from_row(row), outcome)

    def _reap(self, transaction: Transaction, now: float) -> list[Event]:
        """Update the running rows whose manager died or whose job is lost."""
        events = []
        dead: dict[str, bool] = {}
        for key, row in transaction.rows.items():
            if row["state"] != RUNNING:
                continue
            owner, attempt = row["owner"], row["attempt"]
            if owner not in dead:
                dead[owner] = owner_is_dead(owner)
            if dead[owner] and not transitions.is_detached(row):
                ending, message = AttemptResult.ORPHANED, "its manager ended before it did"
            elif self.leases.silent(key, attempt, self.policy.ttl, 1.5 * self.policy.heartbeat):
                ending, message = AttemptResult.LOST, f"no sign of life for {self.policy.ttl:.0f} s"
            else:
                continue
            self.leases.revoke(key, attempt)
            otherwise = Outcome(ending, attempt, message=message, t=now)
            event = self._finish(transaction, Ended(key, attempt, otherwise), now)
            events += [event] if event else []
        return events

    def _running(self, transaction: Transaction, key: str, attempt: int) -> Row | None:
        row = transaction.rows.get(key)
        if row is None or row["state"] != RUNNING or row["attempt"] != attempt:
            return None
        transaction.touch(key)
        return row


def _are_running(names: Sequence[str]) -> str:
    return f"{names[0]} is running" if len(names) == 1 else f"{len(names)} runs are running, e.g. {names[0]}"


def _new_row(paths: ExperimentPaths, record: Record, policy: Policy, now: float) -> Row:
    """A run's first row in the ledger.

    A run whose folder exists, as the ledger was lost or the run was trained by hand, continues from it: its attempts
    count on, as the fence never decreases, and an outcome in the folder is the run's outcome.

    Args:
        paths: the experiment's files.
        record: the run as it is to be queued.
        policy: says what a failure means.
        now: seconds since 1970.
    """
    row: Row = {**record.to_row(), "created": now}
    run = paths.run(record.name)
    if run.folder.is_dir():
        outcome = read_outcome(run)
        # A copy of the folder may be without its hidden files, of which the fence is one.
        row["attempt"] = _last_attempt(run, outcome.attempt if outcome else 0)
        if outcome is not None and transitions.settles(row, outcome):
            transitions.finish(row, outcome, policy, outcome.t)
    return row


def _last_attempt(run: RunPaths, known: int) -> int:
    """The number of the last attempt. The ledger may not know it: it is an old copy, or a training was started by hand.

    Args:
        run: the run.
        known: the last one in the ledger.
    """
    try:
        return max(known, read_fence(run))
    except OSError:  # the job reports what is wrong with the folder
        return known
