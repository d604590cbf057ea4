"""What a manager and its Slurm jobs have to tell each other, on the file system that all nodes share::

<root>/.slurm/<token>/                       one for each manager; a node that sees it shares the root
<root>/.slurm/<token>/<job>_submitted.pkl    what submitit runs in a job of Slurm's
<root>/.slurm/<token>/<job>.log              what it has printed, until it is known to have ended
<root>/.slurm/<token>/nodes/<node>           a node that has all that a job needs
<root>/.slurm/<token>/ended/<key>.<attempt>  a run's job has ended, and with which code
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

from ovis.experiments.runs.atomic import TEMPORARY, write_text
from ovis.experiments.runs.status import last_line

__all__ = ["JobsFolder"]

#: Seconds after which a folder that nobody writes into is rubbish: a year, longer than any job runs.
RUBBISH = 365 * 86400.0


class JobsFolder:
    """The folder of one manager's jobs, seen by it, by the next one, or by a job.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended, self._nodes = path / "ended", path / "nodes"

    @classmethod
    def create(cls, root: Path) -> JobsFolder:
        """A new one below the folder of all experiments; what is a year old there is removed.

        Raises:
            OSError: it can't be written.
        """
        folder = cls(root.resolve() / ".slurm" / uuid.uuid4().hex[:8])
        for path in (folder.path, folder._ended, folder._nodes):
            path.mkdir(parents=True)
        for path in folder.path.parent.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > RUBBISH:
                    shutil.rmtree(path)
        return folder

    def mark_node(self, name: str) -> None:
        """Called in a job: its node has what it takes."""
        (self._nodes / name).touch()

    def mark_ended(self, name: str, code: int) -> None:
        """Called in a job: the run's job called ``name`` has ended."""
        write_text(self._ended / name, f"{code}\n")

    def ended(self, fresh: bool = False) -> dict[str, int]:
        """Which jobs have ended and have not been forgotten, by name, and with which codes.

        Args:
            fresh: trust no copy of the folder's listing, see :func:`_refresh`.
        """
        codes = {}
        with contextlib.suppress(FileNotFoundError):  # somebody has cleaned up
            if fresh:
                _refresh(self._ended)
            for entry in os.scandir(self._ended):
                if not entry.name.startswith("."):
                    with contextlib.suppress(OSError, ValueError):
                        codes[entry.name] = int(Path(entry.path).read_text(encoding="utf-8"))
        return codes

    def has_suited(self) -> bool:
        """Whether any node has had what it takes."""
        with contextlib.suppress(FileNotFoundError):
            _refresh(self._nodes)
            return any(not path.name.startswith(".") for path in self._nodes.iterdir())
        return False

    def said(self, job: str, after: str = "") -> str:
        """The last line in the log of a job of Slurm's; of those that begin with ``after``, what follows it."""
        return last_line(self._log(job), after=after)

    def tidy_submission(self) -> None:
        """Remove the scripts that submitit has written, once Slurm has read them."""
        for pattern in ("*_submission.sh", ".submission_file_*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def forget_run(self, name: str) -> None:
        """Remove the mark of a run's job, its end being known."""
        (self._ended / name).unlink(missing_ok=True)

    def forget_job(self, job: str) -> None:
        """Remove the files of a job of Slurm's."""
        for path in (self._log(job), self.path / f"{job}_submitted.pkl", self.path / f"{job}_0_result.pkl"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it all, and the folder that holds such folders with the last one of them."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def _log(self, job: str) -> Path:
        return self.path / f"{job}.log"


def _refresh(folder: Path) -> None:
    """A network file system may show a listing of a minute ago, until the folder is changed from here."""
    mark = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):  # a full disk: what the listing shows will do
        mark.touch()
        mark.unlink()
