"""The environment of a job.

This module imports the standard library only, as it is sent to Ray's nodes, see ``ray_cluster.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["job_environment"]

#: Variables that limit the number of threads of a process.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def job_environment(threads: int, code: Path, **variables: str) -> dict[str, str]:
    """The environment of a job: this process's own, a number of threads, the code to import, and ``variables``.

    The job must also be started in ``code``, as ``python -m`` searches the working directory first, and the user's may
    be a clone.
    """
    search = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": search, **variables}
