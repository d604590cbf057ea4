"""What happens inside a Slurm job, on its node: the look at the node, and the runs that share the job.

The batch script makes sure that the node sees the root and has the manager's versions, then submitit calls
:func:`run_jobs` in a process that takes the place of the script's shell, so that Slurm's signals reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ovis
from ovis.experiments.runner.engines.slurm_dir import JobsFolder
from ovis.experiments.runner.engines.versions import DIFFERENT, installed
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runs.process import parent_guard

__all__ = ["NO_PYTHON", "NO_ROOT", "UNSUITED", "prepare", "run_jobs"]

#: Exit codes of a job whose node could not run it.
NO_ROOT, NO_PYTHON = 91, 92
UNSUITED = (NO_ROOT, NO_PYTHON, DIFFERENT)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def prepare(folder: Path) -> list[str]:
    """The lines of the batch script before its command.

    Args:
        folder: of the manager's jobs: a node that sees it shares the file system. The job's log goes there.
    """
    python, package = shlex.quote(sys.executable), shlex.quote(str(Path(ovis.__file__).resolve().parent.parent))
    versions = shlex.quote(json.dumps(installed()))
    return [
        f"test -d {shlex.quote(str(folder))} || exit {NO_ROOT}",
        "id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        f'exec >{shlex.quote(str(folder))}/"$id".log 2>&1',
        f"test -x {python} || {{ echo there is no {python}; exit {NO_PYTHON}; }}",
        f"export PYTHONPATH={package}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"{python} -m ovis.experiments.runner.engines.versions {versions} || exit {DIFFERENT}",
    ]


def run_jobs(jobs: Sequence[JobSpec], folder: Path) -> None:
    """Run jobs side by side to their ends, each on one of the GPUs that Slurm gave; hand SIGTERM on to them.

    They die with this process.

    Args:
        jobs: the jobs.
        folder: of the manager's jobs: where their ends are marked.
    """
    node, shared = os.environ.get("SLURMD_NODENAME") or socket.gethostname(), JobsFolder(folder)
    running: dict[int, JobSpec] = {}
    stopped: list[int] = []

    def tell() -> None:
        for pid in list(running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        tell()

    signal.signal(signal.SIGTERM, stop)  # submitit's own handler would ignore it
    shared.mark_node(node)
    children = []
    for index, job in enumerate(jobs):
        words = replace(job, place=node).argv()
        environment = _environment(index, len(jobs))
        children.append(subprocess.Popen(words, env=environment, preexec_fn=parent_guard()))
        running[children[-1].pid] = job
    if stopped:  # some were not there yet
        tell()
    while running:
        pid, status = os.wait()
        if pid not in running:  # a child that was there before
            continue
        job = running.pop(pid)
        with contextlib.suppress(OSError):  # its outcome is in its folder, and the others' jobs are this one's children
            shared.mark_ended(f"{job.key}.{job.attempt}", os.waitstatus_to_exitcode(status))


def _environment(index: int, jobs: int) -> dict[str, str]:
    """The variables of one of ``jobs`` jobs that share what Slurm gave: one GPU, and a part of the cores."""
    shared = {**os.environ}
    gpus = [name for name in shared.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if gpus:
        shared["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    cores = shared.get("SLURM_CPUS_ON_NODE", "")
    threads = max(1, int(cores) // jobs) if cores.isdigit() else 1
    return {**shared, **dict.fromkeys(THREADS, str(threads))}
