"""How jobs are handed over to Slurm: an array, by submitit and sbatch."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from ovis.experiments.runner.engines.base import SubmissionDeferred
from ovis.experiments.runner.engines.options import SlurmOptions
from ovis.experiments.runner.engines.slurm_commands import OURS_BEGIN, is_unheard, one_line
from ovis.experiments.runner.engines.slurm_dir import JobsFolder
from ovis.experiments.runner.engines.slurm_node import prepare, run_jobs
from ovis.experiments.runner.job import JobSpec

__all__ = ["hand_over", "may_be_too_many"]

#: Seconds before a job's time limit at which its runs are told to write their checkpoints.
LEAD = 120

#: Seconds for sbatch, which waits and tries again for two minutes where the controller's own queue is full.
PATIENCE = 30

#: What it says meanwhile: fewer jobs at once don't help.
FULL = "temporarily unable to accept job"

#: What sbatch would read from the user's environment instead of the script that says it.
OURS = ("ARRAY_INX", "OUTPUT", "ERROR", "JOB_NAME", "OPEN_MODE", "REQUEUE", "NO_REQUEUE", "SIGNAL", "PARTITION", "GRES",
        "GPUS_PER_NODE", "EXCLUSIVE", "TIMELIMIT")  # fmt: skip


def hand_over(
    packs: Sequence[Sequence[JobSpec]], folder: JobsFolder, request: dict[str, Any], options: SlurmOptions
) -> list[str]:
    """Hand over an array of jobs, each of the runs of one pack.

    Args:
        packs: the runs.
        folder: of the manager's jobs.
        request: what each job asks for, as sbatch's options.
        options: of the user.

    Returns:
        Slurm's id of each job.

    Raises:
        SubmissionDeferred: Slurm did not take them, none of them.
        OSError: what they need can't be written.
    """
    # "exec" makes the process the batch script's own: no step is needed, and the signals reach it.
    executor = SlurmExecutor(folder.path, python=f"exec {quote(sys.executable)}")
    lead = LEAD if not options.time else min(LEAD, options.time * 60 // 4)
    files = {"output": "/dev/null", "error": "/dev/null", "chdir": "/"}  # its log is opened once the root is seen
    more = {**files, "no-requeue": True, "signal": f"B:TERM@{lead}"}  # the ledger alone retries
    executor.update_parameters(
        **{"time": None, **request},
        job_name=f"{OURS_BEGIN}{packs[0][0].folder.name}",
        setup=prepare(folder.path),
        use_srun=False,
        array_parallelism=options.array_parallelism,
        wckey=None,
        additional_parameters=more,
    )
    try:
        quiet = contextlib.redirect_stderr(io.StringIO())  # submitit prints what it then raises
        with quiet, _bounded(), _own_options(() if options.time else ("TIMELIMIT",)):
            jobs = executor.map_array(run_jobs, packs, itertools.repeat(folder.path))
    except (FailedJobError, FailedSubmissionError) as error:
        raise SubmissionDeferred(one_line(str(error))) from None
    finally:
        folder.tidy_submission()
    return [job.job_id for job in jobs]


def may_be_too_many(refusal: str) -> bool:
    """Whether Slurm might take fewer jobs at once."""
    return not is_unheard(refusal) and FULL not in refusal


@contextlib.contextmanager
def _own_options(keep: Collection[str]) -> Iterator[None]:
    """Hide what of the user's ``SBATCH_...`` would take the place of what a script asks for; the rest goes with it.

    Args:
        keep: names that the script does not say.
    """
    names = [f"SBATCH_{name}" for name in OURS if name not in keep]
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """End sbatch where it takes too long, and keep Ctrl-C from it: ``timeout`` has a process group of its own.

    submitit has no place to say so, and makes an executor of its own class for an array.
    """
    plain = SlurmExecutor._make_submission_command

    def bounded(self: Any, script: Path) -> list[str]:
        return ["timeout", str(PATIENCE), *plain(self, script)]

    SlurmExecutor._make_submission_command = bounded  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        SlurmExecutor._make_submission_command = plain  # type: ignore[method-assign]
