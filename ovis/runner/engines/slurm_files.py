"""What the manager and Slurm's jobs have to tell each other, on the file system that all nodes share::

<root>/.slurm/<job>_submitted.pkl      what submitit runs in a job
<root>/.slurm/<job>.log                what a job has printed, until it is known to have ended
<root>/.slurm/ended/<key>.<attempt>    a run's job has ended, and with which code
<root>/.slurm/<token>/                 made by a manager: a node that sees it shares the root, and leaves its name in it
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from pathlib import Path

from ovis.runner.atomic import TEMPORARY, write_text
from ovis.runner.status import last_line

__all__ = ["SharedFolder", "mark_ended"]

#: Seconds after which a file of a job that nobody follows is rubbish: a week.
RUBBISH = 7 * 86400.0


def mark_ended(folder: Path, name: str, code: int) -> None:
    """Called in a job: the run's job called ``name`` has ended."""
    write_text(folder / "ended" / name, f"{code}\n")


class SharedFolder:
    """``<root>/.slurm``, as its manager sees it.

    Args:
        root: the folder of all experiments.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, root: Path) -> None:
        self.path = root.resolve() / ".slurm"
        self.probe = self.path / uuid.uuid4().hex[:8]
        self._ended = self.path / "ended"
        self._ended.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self.probe.mkdir()

    def ended(self, fresh: bool = False) -> dict[str, int]:
        """Which jobs have ended and have not been forgotten, by name, and with which codes.

        Args:
            fresh: trust no copy of the folder's listing, see :func:`_refresh`.
        """
        if fresh:
            _refresh(self._ended)
        codes = {}
        for path in self._ended.iterdir():
            if not path.name.startswith("."):
                with contextlib.suppress(OSError, ValueError):
                    codes[path.name] = int(path.read_text(encoding="utf-8"))
        return codes

    def has_suited(self) -> bool:
        """Whether any node has had all that a job needs."""
        _refresh(self.probe)
        return any(not path.name.startswith(".") for path in self.probe.iterdir())

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

    def close(self) -> None:
        """Remove what only jobs of this manager needed, and the rest where nothing of another's is in it."""
        shutil.rmtree(self.probe, ignore_errors=True)
        for folder in (self._ended, self.path):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _log(self, job: str) -> Path:
        return self.path / f"{job}.log"

    def _sweep(self) -> None:
        """Remove what the jobs of managers long gone have left."""
        for path in [*self.path.iterdir(), *self._ended.iterdir()]:
            with contextlib.suppress(OSError):
                if path != self._ended and time.time() - path.stat().st_mtime > RUBBISH:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refresh(folder: Path) -> None:
    """A network file system may show a listing of a minute ago, until the folder is changed from here."""
    mark = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    mark.touch()
    mark.unlink()
