"""The names of all files of an experiment and of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EVENTS", "ExperimentPaths", "RunPaths", "is_safe_name"]

#: Beginning of the names of TensorBoard's event files.
EVENTS = "events.out.tfevents"

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")

#: Names of leases and of copies of the package; the runner removes no other files from their folders.
LEASE = re.compile(r"[^.].*\.\d+(\.expired)?")
SNAPSHOT = re.compile(r"[0-9a-f]{12}|\.tmp-[0-9a-f]{32}")


def is_safe_name(name: str) -> bool:
    """Whether ``name`` is one plain, visible folder name: it can't leave the folder it is joined to, nor hide in it."""
    return SAFE_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class RunPaths:
    """The files of one training run, all in ``folder``."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> Path:
        """The settings and the machine, written at the start of each attempt."""
        return self.folder / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per evaluation: ``{"step": 100, "time": 3.2, "train:loss/L_k": -93.1, ...}``."""
        return self.folder / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """``{"step", "nsteps", "loss", "t"}``, renewed about once a second for the status table."""
        return self.folder / "progress.json"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the last; used where the last is missing or corrupt."""
        return self.folder / "checkpoint.previous.pt"

    @property
    def best(self) -> Path:
        """The model's parameters at the best evaluation so far."""
        return self.folder / "best.pt"

    @property
    def best_mark(self) -> Path:
        """``{"step", "sha256"}`` of ``best.pt``."""
        return self.folder / "best.json"

    @property
    def samples(self) -> Path:
        """Samples from the prior."""
        return self.folder / "prior_samples.png"

    @property
    def reconstructions(self) -> Path:
        """Training data, and below them their reconstructions."""
        return self.folder / "reconstructions.png"

    def log(self, attempt: int) -> Path:
        """The output of an attempt."""
        return self.folder / f"log.{attempt}.txt"

    @property
    def outcome(self) -> Path:
        """How the run ended; its existence is the commit point."""
        return self.folder / "outcome.json"

    @property
    def success(self) -> Path:
        """An empty file that marks success, as in the reference code."""
        return self.folder / "success.txt"

    @property
    def lock(self) -> Path:
        """Locked (flock) by the job, or by a training started by hand, as long as it lives."""
        return self.folder / ".run.lock"

    @property
    def fence(self) -> Path:
        """The number of the attempt that may publish here."""
        return self.folder / ".attempt"


@dataclass(frozen=True)
class ExperimentPaths:
    """The files of one experiment: ``<root>/<exp>``."""

    folder: Path

    @property
    def ledger(self) -> Path:
        return self.folder / ".db.json"

    @property
    def lock(self) -> Path:
        return self.folder / ".db.json.lock"

    @property
    def lock_holder(self) -> Path:
        """Which process has locked the ledger, and since when; empty where none has."""
        return self.folder / ".db.json.holder"

    @property
    def leases(self) -> Path:
        return self.folder / ".leases"

    def lease(self, key: str, attempt: int) -> Path:
        """Heartbeat of one attempt: an empty file whose mtime is the last sign of life."""
        return self.leases / f"{key}.{attempt}"

    def all_leases(self) -> Iterator[Path]:
        """The leases that exist, revoked ones included."""
        return (path for path in self.leases.glob("*") if LEASE.fullmatch(path.name) and not path.is_dir())

    @property
    def experiment(self) -> Path:
        """The experiment file as it was when its runs were queued."""
        return self.folder / ".experiment.json"

    @property
    def snapshots(self) -> Path:
        return self.folder / ".snapshots"

    def snapshot(self, id: str) -> Path:
        """The folder that holds a copy of the package, to be searched for modules.

        Raises:
            ValueError: the id could lead out of the experiment's folder.
        """
        if not is_safe_name(id):
            raise ValueError(f"unsafe id of a snapshot {id!r}")
        return self.snapshots / id

    def has_snapshot(self, id: str) -> bool:
        """Whether the copy of the package exists. Without it, Python would import another one."""
        return (self.snapshot(id) / "ovis" / "__init__.py").is_file()

    def all_snapshots(self) -> Iterator[Path]:
        """The copies of the package that exist, incomplete ones included."""
        return (path for path in self.snapshots.glob("*") if SNAPSHOT.fullmatch(path.name) and path.is_dir())

    @property
    def jobs_log(self) -> Path:
        """What the jobs print, beside their trainings: empty unless one of them fails."""
        return self.folder / ".jobs.log"

    def trash(self, token: str) -> Path:
        """Folder of runs that are about to be deleted."""
        return self.folder / f".trash-{token}"

    def run(self, name: str) -> RunPaths:
        """The files of the run called ``name``.

        Raises:
            ValueError: the name could lead out of the experiment's folder.
        """
        if not is_safe_name(name):
            raise ValueError(f"unsafe run name {name!r}")
        return RunPaths(self.folder / name)

    def runs(self) -> Iterator[RunPaths]:
        """Every folder here that is not hidden, sorted by name."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield RunPaths(path)
