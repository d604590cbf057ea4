"""A Slurm job, from its submission to its end: the batch script, and the process that runs its runs on the node.

The batch script checks that the node sees the root and has the manager's versions, then replaces itself by
``python -m ovis.experiments.runner.engines.slurm_job``, so that Slurm's signals reach this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.environment import job_environment
from ovis.experiments.runner.engines.slurm_commands import JOB_NAME_PREFIX, SlurmError, run_command
from ovis.experiments.runner.engines.slurm_dir import JobsFolder
from ovis.experiments.runner.engines.versions import DIFFERENT, installed
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.snapshot import live_package
from ovis.experiments.runs.process import parent_guard

__all__ = ["NO_PYTHON", "NO_ROOT", "UNSUITED", "batch_script", "main", "run_jobs", "submit_array"]

#: This module, as the batch script runs it.
MODULE = "ovis.experiments.runner.engines.slurm_job"

#: Exit codes of a job whose node cannot run it.
NO_ROOT, NO_PYTHON = 91, 92
UNSUITED = (NO_ROOT, NO_PYTHON, DIFFERENT)

#: Seconds before a job's time limit at which its runs are asked to write their checkpoints.
LEAD = 120

#: Seconds for sbatch, which retries for two minutes while the controller's own queue is full.
PATIENCE = 30.0

#: Variables of the user's environment that sbatch would prefer to the options in the script.
OVERRIDDEN = ("ARRAY_INX", "OUTPUT", "ERROR", "JOB_NAME", "OPEN_MODE", "REQUEUE", "NO_REQUEUE", "SIGNAL", "PARTITION",
              "GRES", "GPUS_PER_NODE", "EXCLUSIVE")  # fmt: skip


def submit_array(
    packs: Sequence[Sequence[JobSpec]], folder: JobsFolder, request: Mapping[str, object], options: SlurmOptions
) -> list[str]:
    """Submit an array of Slurm jobs, each with the runs of one pack. A single pack becomes a plain job.

    Args:
        packs: the runs of each Slurm job.
        folder: the folder of the manager's jobs.
        request: what each job asks for, as options of sbatch without their dashes.
        options: of the user.

    Returns:
        Slurm's id of each job.

    Raises:
        SlurmError: Slurm has accepted none of them.
        OSError: the jobs' files cannot be written.
    """
    array = {"array": f"0-{len(packs) - 1}%{min(len(packs), options.array_parallelism)}"} if len(packs) > 1 else {}
    lead = LEAD if not options.time else min(LEAD, options.time * 60 // 4)
    fixed = {"job-name": f"{JOB_NAME_PREFIX}{packs[0][0].folder.name}", "signal": f"B:TERM@{lead}"}
    batch = folder.write_specs([[job.to_json() for job in pack] for pack in packs])
    script = batch_script({**fixed, **array, **request}, folder.path, batch, packs[0][0].code)
    overridden = {f"SBATCH_{name}" for name in [*OVERRIDDEN, *(["TIMELIMIT"] if options.time else [])]}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in overridden and not name.startswith("SLURM_ARRAY_")  # of a manager that is itself such a job
    }
    try:
        printed = run_command("sbatch", "--parsable", patience=PATIENCE, text=script, environment=environment)
        number = re.search(r"^(\d+)(;|$)", printed, re.MULTILINE)
        if number is None:
            raise SlurmError("sbatch", f"it has printed no job id: {printed.strip()!r}")
    except SlurmError:
        folder.forget_specs(batch)
        raise
    return [f"{number[1]}_{index}" for index in range(len(packs))] if array else [number[1]]


def batch_script(options: Mapping[str, object], folder: Path, batch: str, code: Path) -> str:
    """The script of an array, or of a plain job.

    Args:
        options: of sbatch, without their dashes.
        folder: the folder of the manager's jobs. A node that sees it shares the root; the job's log is written there.
        batch: the name of the jobs' specifications, as of :meth:`JobsFolder.write_specs`.
        code: the folder of the code that the jobs run on.
    """
    python, package = quote(sys.executable), quote(str(code))
    versions = quote(json.dumps(installed()))
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={quote(str(value))}" for name, value in options.items()),
        "#SBATCH --no-requeue",  # only the ledger retries
        "#SBATCH --output=/dev/null",  # the log is opened once the root is known to be there
        "#SBATCH --error=/dev/null",
        "#SBATCH --chdir=/",
        f"test -d {quote(str(folder))} || exit {NO_ROOT}",
        "id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        f'exec >{quote(str(folder))}/"$id".log 2>&1',
        f"test -x {python} || {{ echo there is no {python}; exit {NO_PYTHON}; }}",
        f"cd {package} || exit",  # python -m looks there first
        f"export PYTHONPATH={package}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"{python} -m ovis.experiments.runner.engines.versions {versions} || exit {DIFFERENT}",
        # exec: the process needs no job step, and gets the signals itself
        f"exec {python} -u -m {MODULE} {quote(str(folder))} {batch}-${{SLURM_ARRAY_TASK_ID:-0}}",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m ovis.experiments.runner.engines.slurm_job FOLDER SPECS``: run the runs of one Slurm job."""
    path, specs = sys.argv[1:] if argv is None else argv
    folder = JobsFolder(Path(path))
    try:
        jobs = [JobSpec.from_json(text) for text in folder.take_specs(specs)]
    except OSError as error:
        print(f"this job has no runs: {error}", file=sys.stderr)
        return 1
    run_jobs(jobs, folder)
    return 0


def run_jobs(jobs: Sequence[JobSpec], folder: JobsFolder) -> None:
    """Run jobs side by side to their ends, each on one of the job's GPUs. SIGTERM is passed on to them.

    They die with this process.

    Args:
        jobs: the jobs.
        folder: the folder of the manager's jobs, where their ends are noted.
    """
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    running: dict[int, JobSpec] = {}
    stopped: list[int] = []

    def terminate() -> None:
        for pid in list(running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        terminate()

    signal.signal(signal.SIGTERM, stop)
    folder.mark_node(node)
    children = []  # a Popen object that is collected would reap its process
    for index, job in enumerate(jobs):
        words = replace(job, location=node).argv()
        environment = _environment(index, len(jobs))
        children.append(subprocess.Popen(words, env=environment, preexec_fn=parent_guard()))
        running[children[-1].pid] = job
    if stopped:  # when some had not been started yet
        terminate()
    while running:
        pid, status = os.wait()
        if pid not in running:  # a child that this process inherited
            continue
        job = running.pop(pid)
        with contextlib.suppress(OSError):  # the outcome is in the run's folder, and other jobs are still running
            folder.mark_ended(f"{job.key}.{job.attempt}", os.waitstatus_to_exitcode(status))


def _environment(index: int, jobs: int) -> dict[str, str]:
    """The variables of one of ``jobs`` jobs that share the Slurm job's resources: one GPU, and a part of the cores."""
    gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    cores = os.environ.get("SLURM_CPUS_ON_NODE", "")
    threads = max(1, int(cores) // jobs) if cores.isdigit() else 1
    code = live_package().parent  # this process runs on the jobs' code
    return job_environment(threads, code, **({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}))


if __name__ == "__main__":
    raise SystemExit(main())
