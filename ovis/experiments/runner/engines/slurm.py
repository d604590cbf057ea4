"""Jobs on a Slurm cluster. They outlive the manager; the next one finds them by their ids.

Slurm decides where they run and reports their states. How a run ended is read from its own folder, and that its job has
ended from a folder beside the experiments (``slurm_dir.py``): nothing depends on accounting, which a site may not have.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.interface import (
    EngineError,
    EngineRequest,
    JobHandle,
    JobPhase,
    JobStatus,
    SubmissionDeferred,
)
from ovis.experiments.runner.engines.slurm_commands import (
    QueueWatch,
    SlurmError,
    cancel_jobs,
    cancel_waiting,
    exit_code,
    find_commands,
    run_command,
)
from ovis.experiments.runner.engines.slurm_dir import JobsFolder
from ovis.experiments.runner.engines.slurm_job import NO_ROOT, UNSUITED, submit_array
from ovis.experiments.runner.engines.slurm_resources import plan_resources, read_nodes
from ovis.experiments.runner.job import JobSpec

__all__ = ["SlurmEngine"]

#: Seconds between two queries of squeue and of the marks of ended jobs.
LOOK = 0.3

#: Seconds to wait after Slurm has refused a job like those that it has accepted.
REFUSED = 60.0

WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "CONFIGURING"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}

#: Reasons for waiting that are permanent.
HOPELESS = {"PartitionTimeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
            "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit"}  # fmt: skip


@dataclass
class _SlurmRun:
    """A run's job: one of those that share the Slurm job with the id ``slurm``."""

    folder: JobsFolder
    slurm: str
    name: str  # key.attempt
    submitted: float
    cancelled: int = 0  # 1: asked to stop; 2: killed


class SlurmEngine:
    """Runs Slurm jobs, each with one run or with several that share its GPUs.

    Args:
        options: of ``--engine slurm``.
        request: the device, and how many runs share one.

    Raises:
        EngineError: there is no Slurm, it does not answer, or it has no such partition or no such GPUs in it.
    """

    kind = "slurm"
    detached = True

    def __init__(self, options: SlurmOptions, request: EngineRequest) -> None:
        find_commands()
        try:
            listing = run_command("sinfo", "--noheader", "--Node", "--format=%P|%N|%c|%G|%t")
        except SlurmError as error:
            raise EngineError(f"no Slurm cluster answers here: {error}") from None
        self._options = replace(options, partition=options.partition or os.environ.get("SBATCH_PARTITION", ""))
        self._partition, self._nodes = read_nodes(listing, self._options.partition)
        self._resources = plan_resources(options, request, self._nodes)
        self._folder: JobsFolder | None = None
        self._largest = 1  # array
        self._runs: dict[str, _SlurmRun] = {}  # by our id, "<folder>/<Slurm's id>/<key>.<attempt>"
        self._codes: dict[str, int] = {}  # exit codes of ended runs' jobs, by name
        self._cancels: dict[str, bool] = {}  # Slurm's ids of jobs to cancel, and whether by force
        self._watch = QueueWatch()
        self._looked = self._resume = float("-inf")
        self._submitted, self._refusal, self._fault, self._closed = False, "", "", False
        self._limit: int | None = None  # how many of our jobs Slurm accepts, once it has refused one
        self._unsuited: dict[str, str] = {}  # nodes that cannot run our jobs, and why

    @property
    def location(self) -> str:
        count = len(self._nodes)
        return f"Slurm, partition {self._partition} of {count} node{'s' * (count > 1)}, {self._resources}"

    @property
    def slots(self) -> int:
        return min(self._options.array_parallelism * self._resources.runs, max(1, self._resources.slots(self._nodes)))

    def check(self, root: Path) -> None:
        options = [f"--{name}={value}" for name, value in self._request().items()]
        try:
            run_command("sbatch", "--test-only", *options, "--output=/dev/null", "--wrap=true")
        except SlurmError as error:
            raise EngineError(f"Slurm refuses such a job: {error}") from None
        self._largest = _largest_array(run_command("scontrol", "show", "config"))
        self._folder = JobsFolder.create(root)

    def capacity(self) -> int:
        if time.monotonic() < self._resume or self._watch.silence or self._fault:
            return 0
        limit = self._options.array_parallelism
        if self._limit is not None:
            limit = min(limit, self._limit + 1)  # one more, to see whether Slurm still refuses it
        return max(0, limit - self._accepted()) * self._resources.runs

    def waiting(self) -> str:
        if self._watch.silence:
            return f"Slurm's controller does not answer: {self._watch.silence}"
        return f"Slurm takes no more jobs: {self._refusal}" if time.monotonic() < self._resume else ""

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        device = "cuda" if self._resources.gpus or self._resources.shards else "cpu"
        specs, runs = [replace(job, device=device) for job in jobs], self._resources.runs
        packs = [specs[start : start + runs] for start in range(0, len(specs), runs)]
        handles: list[JobHandle | OSError] = []
        size = self._largest
        while packs:
            array = packs[:size]
            try:
                handles += self._submit_array(array)
            except (SlurmError, OSError) as error:
                if isinstance(error, SlurmError) and error.may_accept_fewer and len(array) > 1:
                    size = len(array) // 2  # a limit on the jobs in the queue refuses an array as a whole
                    continue
                handles += [self._refused(error)] * sum(map(len, packs))
                break
            packs = packs[size:]
        if self._limit is not None and self._accepted() > self._limit:
            self._limit = None  # Slurm accepts more again
        return handles

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        if self._fault:
            raise EngineError(self._fault)
        now = time.monotonic()
        if now - self._looked >= LOOK and (self._runs or self._watch.silence):
            self._looked, before = now, self._watch.listing
            self._watch.look([run.slurm for run in self._runs.values()])
            self._send_cancels()
            for folder in {run.folder.path: run.folder for run in self._runs.values()}.values():
                self._codes |= folder.ended(fresh=self._watch.listing is not before)
        statuses = {id: self._status(self._runs[id]) for id in ids if id in self._runs}
        for id, status in statuses.items():
            if status.phase is JobPhase.ENDED:
                self._forget(id)
        return {id: statuses.get(id, JobStatus(JobPhase.ENDED)) for id in ids}

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        level = 2 if force else 1
        for run in (self._runs[id] for id in ids if id in self._runs):
            if run.cancelled < level:
                run.cancelled = level
                if all(other.cancelled >= level for other in self._runs.values() if other.slurm == run.slurm):
                    self._cancels[run.slurm] = force
                # else the others go on, and this run's job finds that its lease is gone

    def attach(self, ids: Collection[str]) -> Collection[str]:
        folders: dict[str, JobsFolder] = {}
        for id in ids:
            token, slurm, name = id.split("/")
            folder = folders.setdefault(token, JobsFolder(self._own.path.with_name(token)))
            self._runs[id] = _SlurmRun(folder, slurm, name, time.monotonic())  # poll will find whether it is there
        self._submitted |= bool(ids)
        return ids

    def close(self) -> None:
        """Leave the jobs alone; remove the folder if there are none."""
        if self._cancels and not self._closed:
            self._send_cancels()
        self._closed = True
        if self._folder is not None and not self._runs:
            self._folder.remove()

    @property
    def _own(self) -> JobsFolder:
        assert self._folder is not None, "check() comes first"
        return self._folder

    def _request(self) -> dict[str, object]:
        """What each job asks for, as options of sbatch without their dashes."""
        limit = {"time": self._options.time} if self._options.time else {}
        partition = {"partition": self._partition} if self._options.partition else {}
        exclude = {"exclude": ",".join(sorted(self._unsuited))} if self._unsuited else {}
        return {**self._resources.options(), **limit, **partition, **exclude}

    def _refused(self, error: SlurmError | OSError) -> OSError:
        """The error to report for jobs that were not submitted, after which none are for a while.

        Raises:
            EngineError: Slurm has never accepted one.
        """
        if isinstance(error, OSError):  # a full disk
            self._refusal, self._resume = str(error), time.monotonic() + REFUSED
            return error
        if not self._submitted:
            excluded = "".join(f"; left out: {node}, {why}" for node, why in self._unsuited.items())
            raise EngineError(f"Slurm refuses the jobs: {error.reason}{excluded}") from None
        if error.unreached:
            self._watch.silence = error.reason  # until it answers
            return SubmissionDeferred(error.reason)
        self._limit, self._resume = self._accepted(), time.monotonic() + REFUSED
        self._refusal = f"{error.reason}; fewer at once: --array_parallelism"
        return SubmissionDeferred(self._refusal)

    def _accepted(self) -> int:
        """How many of our jobs are in Slurm's queue."""
        return len({run.slurm for run in self._runs.values() if not run.cancelled})

    def _submit_array(self, packs: Sequence[Sequence[JobSpec]]) -> list[JobHandle]:
        begin = time.monotonic()
        ids = submit_array(packs, self._own, self._request(), self._options)
        self._submitted = True
        handles = []
        for pack, slurm in zip(packs, ids, strict=True):
            for job in pack:
                run = _SlurmRun(self._own, slurm, f"{job.key}.{job.attempt}", begin)
                handles.append(JobHandle(f"{self._own.path.name}/{run.slurm}/{run.name}"))
                self._runs[handles[-1].id] = run
        return handles

    def _status(self, run: _SlurmRun) -> JobStatus:
        if run.name in self._codes:
            code = self._codes[run.name]
            message = run.folder.last_line(run.slurm, after=f"job {run.name}: ") if code > 0 else ""
            if code < 0:
                message = f"signal {-code} ended it"
            return JobStatus(JobPhase.ENDED, code, message)
        listing = self._watch.listing
        if listing.asked < run.submitted:
            return JobStatus(JobPhase.PENDING)
        row = listing.rows.get(run.slurm)
        if row is None:
            return JobStatus(JobPhase.ENDED, message="Slurm no longer knows the job")
        if row.state in WAITING:
            if row.reason in HOPELESS:
                self._give_up(f"Slurm will never start the jobs: {row.reason}")
            return JobStatus(JobPhase.PENDING)
        if row.state in RUNNING and not (row.state == "COMPLETING" and run.cancelled == 2):
            return JobStatus(JobPhase.RUNNING, device=row.node)
        why = self._explain(run, row.state, row.node, row.reason)
        # If the fault is the cluster's, the job is reported as waiting, for the manager to put its run back.
        return JobStatus(JobPhase.PENDING) if self._fault else JobStatus(JobPhase.ENDED, message=why)

    def _explain(self, run: _SlurmRun, state: str, node: str, reason: str) -> str:
        """Why a job has ended without noting so itself. Nodes that cannot run our jobs are excluded from now on."""
        text = f"Slurm says {state} on {node or 'no node'} ({reason})"
        code = exit_code(run.slurm) if state == "FAILED" and not run.cancelled else None
        printed = run.folder.last_line(run.slurm)
        if code not in UNSUITED:
            return f"{text}: {printed}" if printed and code else text
        if code == NO_ROOT:
            printed = (
                f"{self._own.path.parent.parent} is not there: --root must be on a file system that all nodes share"
            )
        why = f"node {node}: {printed}"
        if run.folder.path != self._own.path:  # an earlier manager's job: the node may have been repaired since
            return why
        self._unsuited[node] = printed
        if not run.folder.has_suitable_node():
            self._give_up(why)
        return why

    def _give_up(self, why: str) -> None:
        """Cancel the waiting jobs, which would fail too, and raise the error at the next poll. Running jobs go on."""
        if not self._fault:
            cancel_waiting(sorted({run.slurm for run in self._runs.values()}))
            self._fault = why

    def _send_cancels(self) -> None:
        if self._watch.silence:
            return
        for force in (False, True):
            ids = sorted(id for id, forced in self._cancels.items() if forced is force)
            if ids and not cancel_jobs(ids, force):
                return  # tried again at the next look
            self._cancels = {id: forced for id, forced in self._cancels.items() if id not in ids}

    def _forget(self, id: str) -> None:
        """Drop an ended run's job, and its files with the last one of those that shared a Slurm job."""
        run = self._runs.pop(id)
        self._codes.pop(run.name, None)
        run.folder.forget_run(run.name)
        if all(other.slurm != run.slurm for other in self._runs.values()):
            run.folder.forget_job(run.slurm)
        if run.folder.path != self._own.path and all(o.folder is not run.folder for o in self._runs.values()):
            run.folder.remove()


def _largest_array(configuration: str) -> int:
    """The maximum number of jobs in an array, from the output of ``scontrol show config``."""
    words = next((line.split() for line in configuration.splitlines() if line.startswith("MaxArraySize")), ["1"])
    return max(1, int(words[-1]))
