"""The manager: claims runs from the queue, submits them to an engine, records how they end, shows the progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ovis.experiments.runner.display.messages import RunMessages
from ovis.experiments.runner.display.progress import ProgressDisplay, ProgressView, run_weights
from ovis.experiments.runner.display.text import runs_text
from ovis.experiments.runner.engines.interface import (
    Engine,
    EngineError,
    JobHandle,
    JobPhase,
    SubmissionDeferred,
    unreported_outcome,
)
from ovis.experiments.runner.experiment_file import ExperimentRun
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.outage import Outage
from ovis.experiments.runner.overview import RunningRun
from ovis.experiments.runner.plan import restore_snapshot
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.queue import Ended, Launched, Queue, SnapshotMissing, Tick
from ovis.experiments.runner.signals import StopSignals
from ovis.experiments.runner.snapshot import Snapshot
from ovis.experiments.runner.stalls import StallWatch
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.process import new_owner, owner_is_dead
from ovis.experiments.runs.retrying import retry
from ovis.experiments.runs.status import AttemptResult, Outcome, Progress, Record, State, count_states, read_progress

__all__ = ["SETTLED", "Result", "run_experiment"]

#: States that a run leaves only by an explicit requeue.
SETTLED = (State.DONE, State.FAILED, State.CANCELLED)

#: Seconds between two readings of the runs' progress.
VIEW_INTERVAL = 0.5

#: Seconds for a job to write its checkpoint when its run was cancelled, or when the manager itself has failed; and for
#: one that was killed to be seen to have ended.
GRACE = 20.0

#: Seconds for which the manager waits for the ledger's lock in one go, as it does nothing else meanwhile.
PATIENCE = 1.0


@dataclass(frozen=True)
class Result:
    """The state of an experiment when its manager ends.

    Attributes:
        counts: its runs by state.
        failed: the records of the failed ones.
        gone: how many are no longer in the queue, because somebody deleted them.
        interrupted: whether it was asked to stop.
    """

    counts: dict[State, int]
    failed: list[Record]
    gone: int
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return self.counts[State.DONE] == sum(self.counts.values()) + self.gone


def run_experiment(
    runs: Sequence[ExperimentRun],
    queue: Queue,
    engine: Engine,
    display: ProgressDisplay,
    template: JobSpec,
    max_jobs: int | None = None,
    stall_limit: float | None = None,
    interval: float = 0.1,
) -> Result:
    """Execute all runs, as far as possible.

    SIGINT or SIGTERM once: no new run starts, the running ones write their checkpoints and are put back. Twice: they
    are killed, and put back all the same.

    Args:
        runs: the experiment's runs, in the queue already.
        queue: their queue; runs in it that are not in ``runs`` are left alone.
        engine: starts the jobs.
        display: shows the progress.
        template: a job of this experiment; its key and attempt are filled in.
        max_jobs: start at most so many jobs; None: no limit.
        stall_limit: put back a run that shows no progress for so many seconds, and for longer than its own pace
            explains: see :class:`~ovis.experiments.runner.stalls.StallWatch`. None: such runs are only reported.
        interval: seconds between two checks of the jobs.

    Raises:
        LedgerError: the queue can't be read or written, and this does not pass in ten minutes.
        EngineError: the cluster is gone; runs that waited in its queue are put back. In both cases the jobs were asked
            to stop, unless they outlive their manager.
    """
    manager = _Manager(runs, queue, engine, display, template, max_jobs, stall_limit)
    with StopSignals() as stop:
        try:
            with suppress(OSError):  # what can't be removed now is removed at the next start
                queue.remove_stale()
            manager.attach_jobs()
            while manager.step(stop.count):
                time.sleep(interval)
        except EngineError as error:
            manager.record_engine_failure(error)
            raise
        finally:
            manager.close()
            display.close()
    if not stop.count:
        retry(lambda: queue.mark_lost_results(manager.weights.keys()))
    records = [record for record in retry(queue.read) if record.key in manager.weights]
    failed = [record for record in records if record.state is State.FAILED]
    gone = len(manager.weights) - len(records)
    return Result(count_states(record.state for record in records), failed, gone, stop.count > 0)


@dataclass(frozen=True)
class _Job:
    record: Record
    device: str  # empty: it waits in the cluster's queue
    since: float


class _Manager:
    """The state of one manager between two checks of its jobs."""

    def __init__(
        self,
        runs: Sequence[ExperimentRun],
        queue: Queue,
        engine: Engine,
        display: ProgressDisplay,
        template: JobSpec,
        max_jobs: int | None,
        stall_limit: float | None,
    ) -> None:
        self.queue, self.engine, self.display, self.template = queue, engine, display, template
        self.messages = RunMessages(display.print, queue.paths)
        self.owner = new_owner()
        # In the ledger from the claim on: it says whether the runs of a dead manager can still be alive.
        self.engine_entry = {"kind": engine.kind, "detached": "yes"} if engine.detached else {"kind": engine.kind}
        self.weights = run_weights(runs)
        self.jobs: dict[str, _Job] = {}  # by the engine's id
        self.budget = max_jobs if max_jobs is not None else len(runs) * 1000
        self.launched: dict[str, Launched] = {}  # by the engine's id: not yet in the ledger
        self.ended: list[Ended] = []
        self.kill_times: dict[str, float] = {}  # jobs that were asked to stop: when they are killed
        self.stops, self.last_stop = 0, 0.0  # how often the user has asked to stop, and when
        self.states: dict[str, State] = {}
        self.counts, self.settled = count_states(()), 0.0  # runs by state; weight of the settled ones
        self.next_start: float | None = 0.0
        self.last_tick = self.next_view = self.last_renewal = float("-inf")
        self.outage = Outage(display.print)
        self.stall_limit, self.stalls = stall_limit, StallWatch(stall_limit)
        self.has_code = True  # False: no run can start any more
        self.carried: dict[str, float] = {}  # by key: progress before this attempt

    def step(self, stops: int) -> bool:
        """Check the jobs once and act on their states; False when there is nothing left to do.

        Args:
            stops: how often the user has asked to stop.
        """
        self._handle_stop(stops)
        self._collect()
        self._renew_leases()
        if not self._is_tick_due():
            self._report_wait()
        elif self.outage.try_is_due():
            self._tick()
        more = self._has_more()
        if not more or time.monotonic() > self.next_view:
            begin = time.monotonic()
            progress = self._read_progress()  # a file of each running run, which takes its time for a thousand
            self._handle_stalls(progress)
            self.display.show(self._view(progress))
            self.next_view = begin + max(VIEW_INTERVAL, 10 * (time.monotonic() - begin))
        return more

    def attach_jobs(self) -> None:
        """Take over the jobs of a dead manager that have outlived it."""
        if not self.engine.detached:
            return
        candidates = {}
        for record in self.queue.read():
            engine = record.engine or {}
            abandoned = record.state is State.RUNNING and owner_is_dead(record.owner)
            if record.key in self.weights and abandoned and engine.get("kind") == self.engine.kind and engine.get("id"):
                candidates[engine["id"]] = record
        known = set(self.engine.attach(list(candidates)))
        for id, record in candidates.items():
            if id in known:
                self._follow(id, _Job(record, record.device, time.monotonic()))
            else:
                self._put_back([record], f"its job {id} is gone", AttemptResult.LOST)

    def record_engine_failure(self, error: EngineError) -> None:
        """Queue the runs again that waited in the queue of a failed engine, and record the others as started."""
        with suppress(LedgerError, OSError):  # the leases expire later
            waiting = [job.record for job in self.jobs.values() if not job.device]
            location = self.queue.leases.location  # it may have started since the last look
            self._put_back([r for r in waiting if not location(r.key, r.attempt)], str(error), AttemptResult.ORPHANED)
            self._report_ends(self._transact(0), stopping=True)

    def close(self) -> None:
        """Close the engine. Jobs that still run, after an error, get time to write checkpoints; detached ones go on."""
        with suppress(EngineError):
            if not self.engine.detached:
                self.engine.cancel(list(self.jobs))
            deadline = time.monotonic() + GRACE
            while self.jobs and time.monotonic() < deadline and not self.engine.detached:
                self._collect()
                time.sleep(0.1)
        self.engine.close()

    def _has_more(self) -> bool:
        if self.outage.since is not None and not self.jobs and self.stops:
            # How the jobs ended is in their folders, where the next manager finds it.
            return self.stops < 2 and time.monotonic() - max(self.last_stop, self.outage.since) < GRACE
        if self.jobs or self.ended or self.outage.since is not None:
            return True
        open_runs = len(self.states) - sum(self.counts[state] for state in SETTLED)
        return open_runs > 0 and self.budget > 0 and self.has_code and not self.stops

    def _handle_stop(self, stops: int) -> None:
        """Ctrl-C once: the jobs write checkpoints and end; twice: they are killed."""
        if stops <= self.stops:
            return
        if not self.stops:
            self.display.print(
                f"stopping, {runs_text(len(self.jobs))} under way: checkpoints are written; once more to kill"
            )
        if self.stops < 2:
            self.last_stop = time.monotonic()
        self.stops = stops
        self.engine.cancel(list(self.jobs), force=stops > 1)

    def _collect(self) -> None:
        """Ask the engine for the state of the jobs; kill those that should have ended."""
        for id, status in self.engine.poll(list(self.jobs)).items():
            if status.phase is JobPhase.ENDED:
                record = self.jobs.pop(id).record
                self.kill_times.pop(id, None)
                self.stalls.forget(id)
                outcome = unreported_outcome(record, status, self.queue.paths.jobs_log, stopping=self.stops > 0)
                self.ended.append(Ended(record.key, record.attempt, outcome))
                failpoint("finish.seen")
            elif status.phase is JobPhase.RUNNING and not self.jobs[id].device:
                self._follow(id, replace(self.jobs[id], device=status.device or "running", since=time.monotonic()))
        late = [id for id, deadline in self.kill_times.items() if deadline < time.monotonic()]
        if late:
            self.engine.cancel(late, force=True)
        if self.stops > 1 and self.jobs and time.monotonic() - self.last_stop > GRACE:
            # The cluster does not answer. The attempts lose their leases, so jobs that still run stop themselves.
            message = "killed on request, and not heard of since"
            self._put_back([job.record for job in self.jobs.values()], message, AttemptResult.ORPHANED)
            self.jobs.clear()

    def _follow(self, id: str, job: _Job) -> None:
        """Watch a job from now on, and record where it runs and since when."""
        self.jobs[id] = job
        started = time.time() if job.device and not job.record.device else 0.0
        self.launched[id] = Launched(
            job.record.key, job.record.attempt, {**self.engine_entry, "id": id}, job.device, started
        )

    def _renew_leases(self) -> None:
        """Renew the leases of jobs that wait in the cluster's queue: they can't do it themselves."""
        if time.monotonic() - self.last_renewal < self.queue.policy.heartbeat:
            return
        self.last_renewal = time.monotonic()
        for job in self.jobs.values():
            if not job.device:
                with suppress(OSError):  # tried again at the next heartbeat
                    self.queue.leases.beat(job.record.key, job.record.attempt)

    def _free_slots(self) -> int:
        return 0 if self.stops or not self.has_code else max(0, min(self.engine.capacity(), self.budget))

    def _is_waiting(self) -> bool:
        """Whether a queued run could start if a device were free."""
        return self.next_start is not None and self.next_start <= time.time()

    def _report_wait(self) -> None:
        """Report why queued runs don't start."""
        if not self.stops and self.budget > 0 and self._is_waiting():
            self.messages.waiting(self.engine.waiting())

    def _is_tick_due(self) -> bool:
        """Whether a transaction is worth its cost: at 10,000 runs it reads and writes 2 MB."""
        since = time.monotonic() - self.last_tick
        if self.ended or (self._is_waiting() and self._free_slots() > 0):
            return True
        # More often while something is to be recorded, or while only runs of another manager are left.
        return since > (2.0 if self.launched or not self.jobs else self.queue.policy.heartbeat / 2)

    def _transact(self, slots: int) -> Tick:
        """Record what has happened since the last transaction, and claim up to ``slots`` runs."""
        tick = self.queue.tick(
            self.owner, slots, self.ended, self.launched.values(), self.weights.keys(), self.engine_entry, PATIENCE
        )
        self.ended, self.launched = [], {}
        return tick

    def _report_ends(self, tick: Tick, stopping: bool) -> None:
        self.messages.ends([event for event in tick.events if event.record.key in self.weights], stopping)

    def _tick(self) -> None:
        try:
            tick = self._transact(self._free_slots())
        except SnapshotMissing as missing:
            self._restore_code(missing.snapshot)
            return
        except (LedgerError, OSError) as error:
            self.outage.note(error)
            return
        self.outage.end()
        self.states, self.next_start, self.last_tick = tick.states, tick.next_start, time.monotonic()
        self.counts = count_states(tick.states.values())
        self.settled = sum(self.weights[key] for key, state in tick.states.items() if state in SETTLED)
        self._report_ends(tick, stopping=self.stops > 0)
        self._stop_void_attempts(tick)
        if tick.claimed:
            failpoint("claim.committed")
            self._launch(tick.claimed)

    def _restore_code(self, snapshot: Snapshot) -> None:
        """Write the snapshot again, if the code here is still the same; otherwise start no more runs."""
        try:
            self.has_code = restore_snapshot(self.queue, snapshot)
        except OSError as error:
            self.outage.note(error)
            return
        folder = self.queue.paths.snapshot(snapshot.id)
        if self.has_code:
            self.display.print(f"{folder} was gone, and is written again: the code here is the same")
        else:
            self.display.print(
                f"no more runs are started: {folder} is gone, and the code here is no longer the same: put it back, or "
                f"go on with the code here by --update_lib"
            )

    def _stop_void_attempts(self, tick: Tick) -> None:
        """Stop the jobs whose attempts no longer count, as they were cancelled or considered lost."""
        for id, job in self.jobs.items():
            record = job.record
            if tick.attempts.get(record.key) != record.attempt and id not in self.kill_times:
                cancelled = tick.states.get(record.key) is State.CANCELLED
                self.display.print(
                    f"{'cancelled' if cancelled else 'given up'}: {record.name}, its job is being stopped"
                )
                self.engine.cancel([id])
                self.kill_times[id] = time.monotonic() + GRACE

    def _launch(self, records: Sequence[Record]) -> None:
        jobs = [replace(self.template, key=r.key, attempt=r.attempt, snapshot=r.snapshot) for r in records]
        try:
            handles = self.engine.submit(jobs)
        except EngineError as error:
            self._put_back(records, str(error), AttemptResult.ABORTED)
            raise
        self.budget -= sum(not isinstance(handle, SubmissionDeferred) for handle in handles)
        for record, handle in zip(records, handles, strict=True):
            if isinstance(handle, JobHandle):
                self._follow(handle.id, _Job(record, handle.device, time.monotonic()))
                failpoint("job.submitted")
            else:
                ending = AttemptResult.ABORTED if isinstance(handle, SubmissionDeferred) else AttemptResult.LOST
                self._put_back([record], f"can't start the job: {handle}", ending)

    def _put_back(self, records: Iterable[Record], message: str, ending: AttemptResult) -> None:
        """Record that these attempts do not run, or must not. An orphaned one that succeeds all the same counts."""
        now = time.time()
        self.ended += [Ended(r.key, r.attempt, Outcome(ending, r.attempt, message=message, t=now)) for r in records]

    def _read_progress(self) -> dict[str, Progress | None]:
        """The progress of the jobs that have started, by the engine's id."""
        return {
            id: read_progress(self.queue.paths.run(job.record.name), job.record.started)
            for id, job in self.jobs.items()
            if job.device
        }

    def _handle_stalls(self, progresses: Mapping[str, Progress | None]) -> None:
        """Report runs whose progress stands still, or put them back if the user wants that."""
        for id, progress in progresses.items():
            record = self.jobs[id].record
            seconds = None if id in self.kill_times else self.stalls.look(id, progress, record.lost)
            if seconds is not None and self.stall_limit is not None:
                self._put_back([record], f"no progress for {seconds:.0f} s", AttemptResult.LOST)
            elif seconds is not None:
                self.messages.stall(record, progress, seconds)

    def _view(self, progresses: Mapping[str, Progress | None]) -> ProgressView:
        now = time.monotonic()
        running, completed = [], self.settled
        for id, progress in progresses.items():
            job = self.jobs[id]
            key = job.record.key
            running.append(RunningRun(job.record.name, job.device, progress, now - job.since))
            self.carried[key] = self.weights[key] * (progress.carried if progress else 0.0)
            if self.states.get(key) not in SETTLED:  # a cancelled one is complete already
                completed += self.weights[key] * (progress.fraction if progress else 0.0)
        counted = {job.record.key for job in self.jobs.values() if job.device} | {
            k for k in self.carried if self._is_settled(k)
        }
        carried, pending = sum(self.carried[key] for key in counted), len(self.jobs) - len(running)
        return ProgressView(self.counts, completed, running, carried, pending)

    def _is_settled(self, key: str) -> bool:
        return self.states.get(key) in SETTLED
