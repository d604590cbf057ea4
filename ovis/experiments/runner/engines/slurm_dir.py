"""The files by which a manager and its Slurm jobs communicate, on the file system that all nodes share::

<root>/.slurm/<token>/                       one folder for each manager; a node that sees it shares the root
<root>/.slurm/<token>/<batch>-<index>.jsonl  the runs of a submitted Slurm job, until it starts
<root>/.slurm/<token>/<job>.log              the output of a Slurm job, until its end is known
<root>/.slurm/<token>/nodes/<node>           a node that has everything that a job needs
<root>/.slurm/<token>/ended/<key>.<attempt>  the exit code of a run's job that has ended
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from ovis.experiments.runs.atomic import TEMPORARY, write_text
from ovis.experiments.runs.status import last_line

__all__ = ["JobsFolder"]

#: Seconds without a change after which a folder is removed: a year, longer than any job runs.
EXPIRY = 365 * 86400.0


class JobsFolder:
    """The folder of one manager's jobs, as used by this manager, by the next one, and by the jobs.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended, self._nodes = path / "ended", path / "nodes"

    @classmethod
    def create(cls, root: Path) -> JobsFolder:
        """Create a folder below the root of all experiments, and remove those that have not changed for a year.

        Raises:
            OSError: it can't be written.
        """
        folder = cls(root.resolve() / ".slurm" / uuid.uuid4().hex[:8])
        for path in (folder.path, folder._ended, folder._nodes):
            path.mkdir(parents=True)
        for path in folder.path.parent.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > EXPIRY:
                    shutil.rmtree(path)
        return folder

    def write_specs(self, packs: Sequence[Sequence[str]]) -> str:
        """Write the runs of each job of an array, one a line; called before its submission.

        Returns:
            the name of the batch. A job's own name has its index in addition: ``<batch>-<index>``.

        Raises:
            OSError: they can't be written.
        """
        batch = uuid.uuid4().hex[:8]
        try:
            for index, pack in enumerate(packs):
                text = "".join(f"{spec}\n" for spec in pack)
                (self.path / f"{batch}-{index}.jsonl").write_text(text, encoding="utf-8")
        except OSError:
            self.forget_specs(batch)
            raise
        return batch

    def forget_specs(self, batch: str) -> None:
        """Remove the files of an array that was not submitted."""
        for path in self.path.glob(f"{batch}-*.jsonl"):
            path.unlink(missing_ok=True)

    def take_specs(self, name: str) -> list[str]:
        """Read and remove a job's runs; called in the job.

        Raises:
            OSError: they can't be read.
        """
        path = self.path / f"{name}.jsonl"
        specs = path.read_text(encoding="utf-8").splitlines()
        with contextlib.suppress(OSError):  # it is removed with the folder
            path.unlink()
        return specs

    def mark_node(self, name: str) -> None:
        """Note that a node has everything that a job needs; called in a job."""
        (self._nodes / name).touch()

    def mark_ended(self, name: str, code: int) -> None:
        """Note that the run's job called ``name`` has ended; called in a job."""
        write_text(self._ended / name, f"{code}\n")

    def ended(self, fresh: bool = False) -> dict[str, int]:
        """The exit codes of the jobs that have ended and have not been forgotten, by name.

        Args:
            fresh: do not rely on a cached listing of the folder, see :func:`_refresh`.
        """
        codes = {}
        with contextlib.suppress(FileNotFoundError):  # the user has removed the folder
            if fresh:
                _refresh(self._ended)
            for entry in os.scandir(self._ended):
                if not entry.name.startswith("."):
                    with contextlib.suppress(OSError, ValueError):
                        codes[entry.name] = int(Path(entry.path).read_text(encoding="utf-8"))
        return codes

    def has_suitable_node(self) -> bool:
        """Whether any node was found to have everything that a job needs."""
        with contextlib.suppress(FileNotFoundError):
            _refresh(self._nodes)
            return any(not path.name.startswith(".") for path in self._nodes.iterdir())
        return False

    def last_line(self, job: str, after: str = "") -> str:
        """The last line in the log of a Slurm job; of the lines that begin with ``after``, what follows it."""
        return last_line(self._log(job), after=after)

    def forget_run(self, name: str) -> None:
        """Remove the mark of a run's job, its end being known."""
        (self._ended / name).unlink(missing_ok=True)

    def forget_job(self, job: str) -> None:
        """Remove the log of a Slurm job."""
        self._log(job).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, and its parent if it was the last one."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def _log(self, job: str) -> Path:
        return self.path / f"{job}.log"


def _refresh(folder: Path) -> None:
    """Change the folder, as a network file system may show an old listing until it is changed from this host."""
    mark = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):  # a full disk: the cached listing has to do
        mark.touch()
        mark.unlink()
