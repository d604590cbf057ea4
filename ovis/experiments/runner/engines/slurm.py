"""Jobs on a Slurm cluster, handed over by submitit. They outlive the manager; the next one knows them by their ids.

Slurm places them and says where they stand. How a run ended is in its folder alone, and that its job has ended is said
in a folder beside the experiments (``slurm_files.py``): nothing depends on accounting, which a site may not have.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovis.experiments.runner.engines.base import (
    EngineError,
    EngineRequest,
    JobHandle,
    JobPhase,
    JobStatus,
    SubmissionDeferred,
)
from ovis.experiments.runner.engines.options import SlurmOptions
from ovis.experiments.runner.engines.slurm_commands import (
    QueueWatch,
    ask,
    cancel_jobs,
    cancel_waiting,
    exit_code,
    find_commands,
    is_unheard,
)
from ovis.experiments.runner.engines.slurm_dir import JobsFolder
from ovis.experiments.runner.engines.slurm_node import NO_ROOT, UNSUITED
from ovis.experiments.runner.engines.slurm_resources import plan_resources, read_nodes
from ovis.experiments.runner.engines.slurm_submit import hand_over, may_be_too_many
from ovis.experiments.runner.job import JobSpec

__all__ = ["SlurmEngine"]

#: Seconds between two looks at what the jobs have left.
LOOK = 0.3

#: Seconds to wait after Slurm has refused a job that is like those it has taken.
REFUSED = 60.0

WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "CONFIGURING"}
AT_WORK = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}

#: Why a job waits that waiting won't help.
HOPELESS = {"PartitionTimeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
            "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit"}  # fmt: skip


@dataclass
class _Member:
    """A run's job: one of those that share a job of Slurm's, which is ``slurm``."""

    folder: JobsFolder
    slurm: str
    name: str  # key.attempt
    submitted: float
    told: int = 0  # 1: to stop; 2: it was killed


class SlurmEngine:
    """Jobs of Slurm, each with one run or with those that share its GPUs.

    Args:
        options: of ``--engine slurm``.
        request: the device, and how many runs share one.

    Raises:
        EngineError: no Slurm, no answer from it, no such partition, or none with such GPUs.
    """

    kind = "slurm"
    detached = True

    def __init__(self, options: SlurmOptions, request: EngineRequest) -> None:
        find_commands()
        try:
            said = ask("sinfo", "--noheader", "--Node", "--format=%P|%N|%c|%G|%t")
        except EngineError as error:
            raise EngineError(f"no Slurm cluster answers here: {error}") from None
        self._options = replace(options, partition=options.partition or os.environ.get("SBATCH_PARTITION", ""))
        self._partition, self._nodes = read_nodes(said, self._options.partition)
        self._resources = plan_resources(options, request, self._nodes)
        self._folder: JobsFolder | None = None
        self._largest = 1  # array
        self._members: dict[str, _Member] = {}  # by our id, "<folder>/<Slurm's>/<key>.<attempt>"
        self._codes: dict[str, int] = {}  # of the members that have ended, by name
        self._cancels: dict[str, bool] = {}  # Slurm's ids that are to be cancelled, and whether by force
        self._watch = QueueWatch()
        self._looked = self._resume = float("-inf")
        self._submitted, self._refusal, self._fault, self._closed = False, "", "", False
        self._most: int | None = None  # jobs that Slurm takes of us, where that is fewer than we would hand over
        self._bad: dict[str, str] = {}  # nodes that can't run our jobs, and why

    @property
    def location(self) -> str:
        count = len(self._nodes)
        return f"Slurm, partition {self._partition} of {count} node{'s' * (count > 1)}, {self._resources}"

    @property
    def slots(self) -> int:
        return min(self._options.array_parallelism * self._resources.runs, max(1, self._resources.slots(self._nodes)))

    def check(self, root: Path) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._request().items()]
        try:
            ask("sbatch", "--test-only", *flags, "--output=/dev/null", "--wrap=true")
        except EngineError as error:
            raise EngineError(f"Slurm refuses such a job: {error}") from None
        self._largest = _largest_array(ask("scontrol", "show", "config"))
        self._folder = JobsFolder.create(root)

    def capacity(self) -> int:
        if time.monotonic() < self._resume or self._watch.silence or self._fault:
            return 0
        most, taken = self._options.array_parallelism, self._taken()
        if self._most is not None:
            most = min(most, self._most + 1)  # one more, to see whether it still refuses
        return max(0, most - taken) * self._resources.runs

    def waiting(self) -> str:
        if self._watch.silence:
            return f"Slurm's controller does not answer: {self._watch.silence}"
        return f"Slurm takes no more jobs: {self._refusal}" if time.monotonic() < self._resume else ""

    def submit(self, jobs: Sequence[JobSpec]) -> Sequence[JobHandle | OSError]:
        device = "cuda" if self._resources.gpus or self._resources.shards else "cpu"
        specs = [replace(job, device=device) for job in jobs]
        packs = list(_groups(specs, self._resources.runs))
        done: list[JobHandle | OSError] = []
        size = self._largest
        while packs:
            array = packs[:size]
            try:
                done += self._submit_array(array)
            except OSError as error:
                if isinstance(error, SubmissionDeferred) and len(array) > 1 and may_be_too_many(str(error)):
                    size = len(array) // 2  # a limit on jobs in the queue refuses an array as a whole
                    continue
                done += [self._refused(error)] * sum(map(len, packs))
                break
            packs = packs[size:]
        if self._most is not None and self._taken() > self._most:
            self._most = None  # it takes more again
        return done

    def poll(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        if self._fault:
            raise EngineError(self._fault)
        now = time.monotonic()
        if now - self._looked >= LOOK and (self._members or self._watch.silence):
            self._looked, before = now, self._watch.answer
            self._watch.look([member.slurm for member in self._members.values()])
            self._send_cancels()
            for folder in {member.folder.path: member.folder for member in self._members.values()}.values():
                self._codes |= folder.ended(fresh=self._watch.answer is not before)
        found = {id: self._status(self._members[id]) for id in ids if id in self._members}
        for id in [id for id, status in found.items() if status.phase is JobPhase.ENDED]:
            self._forget(id)
        return {id: found.get(id, JobStatus(JobPhase.ENDED)) for id in ids}

    def cancel(self, ids: Collection[str], force: bool = False) -> None:
        told = 2 if force else 1
        for member in (self._members[id] for id in ids if id in self._members):
            if member.told < told:
                member.told = told
                others = [other.told for other in self._members.values() if other.slurm == member.slurm]
                if min(others) >= told:  # the lease of one alone is gone, which it will see
                    self._cancels[member.slurm] = force

    def attach(self, ids: Collection[str]) -> Collection[str]:
        folders: dict[str, JobsFolder] = {}
        for id in ids:
            token, slurm, name = id.split("/")
            folder = folders.setdefault(token, JobsFolder(self._own.path.with_name(token)))
            self._members[id] = _Member(folder, slurm, name, time.monotonic())  # is it still there? poll will find
        self._submitted |= bool(ids)
        return ids

    def close(self) -> None:
        """Leave the jobs alone; tidy up where there are none."""
        if self._cancels and not self._closed:
            self._send_cancels()
        self._closed = True
        if self._folder is not None and not self._members:
            self._folder.remove()

    @property
    def _own(self) -> JobsFolder:
        assert self._folder is not None, "check() comes first"
        return self._folder

    def _request(self) -> dict[str, Any]:
        """What each job asks Slurm for, as sbatch's options."""
        limit = {"time": self._options.time} if self._options.time else {}
        where = {"partition": self._partition} if self._options.partition else {}
        left_out = {"exclude": ",".join(sorted(self._bad))} if self._bad else {}
        return {**self._resources.parameters(), **limit, **where, **left_out}

    def _refused(self, error: OSError) -> OSError:
        """What to say of jobs that could not be handed over, after which no more are for a while.

        Raises:
            EngineError: Slurm has never taken one.
        """
        if not isinstance(error, SubmissionDeferred):  # a full disk
            self._refusal, self._resume = str(error), time.monotonic() + REFUSED
            return error
        if not self._submitted:
            raise EngineError(f"Slurm refuses the jobs: {error}{self._without()}") from None
        if is_unheard(str(error)):
            self._watch.silence = str(error)  # until it answers
            return error
        self._most, self._resume = self._taken(), time.monotonic() + REFUSED
        self._refusal = f"{error}; fewer at once: --array_parallelism"
        return SubmissionDeferred(self._refusal)

    def _taken(self) -> int:
        """How many jobs Slurm has of us."""
        return len({member.slurm for member in self._members.values() if not member.told})

    def _submit_array(self, packs: Sequence[Sequence[JobSpec]]) -> list[JobHandle]:
        """Raises SubmissionDeferred: Slurm did not take them."""
        begin = time.monotonic()
        ids = hand_over(packs, self._own, self._request(), self._options)
        self._submitted = True
        handles = []
        for pack, slurm in zip(packs, ids, strict=True):
            for job in pack:
                member = _Member(self._own, slurm, f"{job.key}.{job.attempt}", begin)
                handles.append(JobHandle(f"{self._own.path.name}/{member.slurm}/{member.name}"))
                self._members[handles[-1].id] = member
        return handles

    def _status(self, member: _Member) -> JobStatus:
        if member.name in self._codes:
            code = self._codes[member.name]
            said = member.folder.said(member.slurm, after=f"job {member.name}: ") if code > 0 else ""
            if code < 0:
                said = f"signal {-code} ended it"
            return JobStatus(JobPhase.ENDED, code, said)
        answer = self._watch.answer
        if answer.asked < member.submitted:
            return JobStatus(JobPhase.PENDING)
        row = answer.rows.get(member.slurm)
        if row is None:
            return JobStatus(JobPhase.ENDED, message="Slurm no longer knows the job")
        if row.state in WAITING:
            if row.reason in HOPELESS:
                self._give_up(f"Slurm will never start the jobs: {row.reason}")
            return JobStatus(JobPhase.PENDING)
        if row.state in AT_WORK and not (row.state == "COMPLETING" and member.told == 2):
            return JobStatus(JobPhase.RUNNING, device=row.node)
        why = self._explain(member, row.state, row.node, row.reason)
        return (
            JobStatus(JobPhase.PENDING) if self._fault else JobStatus(JobPhase.ENDED, message=why)
        )  # not this job's fault

    def _explain(self, member: _Member, state: str, node: str, reason: str) -> str:
        """Why a job has ended that did not say so itself; nodes that are not fit for us are left out from now on."""
        text = f"Slurm says {state} on {node or 'no node'} ({reason})"
        code = exit_code(member.slurm) if state == "FAILED" and not member.told else None
        if code not in UNSUITED:
            said = member.folder.said(member.slurm)
            return f"{text}: {said}" if said and code else text
        why = member.folder.said(member.slurm)
        if code == NO_ROOT:
            why = f"{self._own.path.parent.parent} is not there: --root must be on a file system that all nodes share"
        if member.folder.path != self._own.path:  # an earlier manager's: what was wrong may be mended
            return f"node {node}: {why}"
        self._bad[node] = why
        if not member.folder.has_suited():
            self._give_up(f"node {node}: {why}")
        return f"node {node}: {why}"

    def _give_up(self, why: str) -> None:
        """Take back what waits, as it would fare no better; what runs goes on, and is said to before the end is."""
        if not self._fault:
            cancel_waiting(sorted({member.slurm for member in self._members.values()}))
            self._fault = why

    def _without(self) -> str:
        return "".join(f"; left out: {node}, {why}" for node, why in self._bad.items())

    def _send_cancels(self) -> None:
        if self._watch.silence:
            return
        for force in (False, True):
            ids = sorted(id for id, forced in self._cancels.items() if forced is force)
            if ids and not cancel_jobs(ids, force):
                return  # again at the next look
            self._cancels = {id: forced for id, forced in self._cancels.items() if id not in ids}

    def _forget(self, id: str) -> None:
        """Drop a job that has ended, and its files with the last one of those that shared a job of Slurm's."""
        member = self._members.pop(id)
        self._codes.pop(member.name, None)
        member.folder.forget_run(member.name)
        if all(other.slurm != member.slurm for other in self._members.values()):
            member.folder.forget_job(member.slurm)
        if member.folder.path != self._own.path and all(o.folder is not member.folder for o in self._members.values()):
            member.folder.remove()


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _largest_array(configuration: str) -> int:
    """How many jobs an array can have, by what ``scontrol show config`` says."""
    words = next((line.split() for line in configuration.splitlines() if line.startswith("MaxArraySize")), ["1"])
    return max(1, int(words[-1]))
