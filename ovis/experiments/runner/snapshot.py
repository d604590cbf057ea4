"""The code that the runs of an experiment use: a copy of the package, made when they are queued, and its origin.

The copy is in ``<experiment>/.snapshots/<id>/ovis/``, where ``<id>`` is the beginning of a hash of its content.
``changes.diff`` beside it holds the differences from its commit. A copy is written completely or not at all. It is not
flushed to the disk, as every manager checks the hash when it starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import ovis
from ovis.experiments.runs.atomic import TEMPORARY
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.paths import ExperimentPaths

__all__ = ["Code", "Snapshot", "is_intact", "live_package", "read_code", "take_snapshot"]

PACKAGE = "ovis"
DIFF = "changes.diff"

#: Hexadecimal digits of a snapshot's id.
ID_LENGTH = 12

#: Length to which the diff is cut in the ledger, which is rewritten at every transaction.
MAX_DIFF = 65_536

#: Timeout in seconds of one git command.
GIT_TIMEOUT = 10.0


@dataclass(frozen=True)
class Code:
    """The content of a package.

    Attributes:
        files: the bytes of each file, by its path in the package, with slashes.
    """

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all names and contents, with their lengths."""
        hashed = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            for part in (os.fsencode(name), content):
                hashed.update(b"%d:" % len(part))
                hashed.update(part)
        return hashed.hexdigest()

    @property
    def id(self) -> str:
        return self.digest[:ID_LENGTH]


@dataclass(frozen=True)
class Snapshot:
    """One copy of the code, as recorded in the ledger.

    Attributes:
        id: name of its folder.
        digest: hash of its content.
        commit: the git commit of the package; empty: it was not in a git clone.
        dirty: whether it differed from the commit.
        diff: the differences, cut to 65,536 characters; ``changes.diff`` in its folder is complete.
        version: version of the package.
        time: when it was taken, in seconds since 1970.
        defaults: the defaults of its options, as of :func:`ovis.experiments.runner.plan.option_defaults`.
    """

    id: str
    digest: str
    commit: str
    dirty: bool
    diff: str
    version: str
    time: float
    defaults: Mapping[str, Any]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Snapshot:
        """A snapshot from its JSON object, which the ledger has checked. Fields of later versions are dropped."""
        return cls(**{item.name: row[item.name] for item in fields(cls)})

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """The snapshot in a message: ``2026-11-22 (commit abc1234 with changes)``."""
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        changes = " with changes" if self.dirty else ""
        return f"{day} (commit {self.commit[:7]}{changes})" if self.commit else f"{day} (version {self.version})"


def live_package() -> Path:
    """The folder of the package that this process has imported."""
    return Path(ovis.__file__).resolve().parent


def read_code(package: Path) -> Code:
    """Read the files of a package, except hidden files and bytecode.

    Args:
        package: its folder.

    Raises:
        OSError: a file or folder can't be read.
    """
    files = {}
    for folder, folders, names in os.walk(package, onerror=_refuse):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".") and not name.endswith(".pyc")):
            if path.is_file():  # not a pipe or a broken link
                files[path.relative_to(package).as_posix()] = path.read_bytes()
    return Code(files)


def is_intact(paths: ExperimentPaths, id: str, digest: str) -> bool:
    """Whether the copy exists and is unchanged."""
    try:
        return read_code(paths.snapshot(id) / PACKAGE).digest == digest
    except OSError:
        return False


def take_snapshot(paths: ExperimentPaths, code: Code, package: Path, defaults: Mapping[str, Any]) -> Snapshot:
    """Copy the code into the experiment's folder, unless it is there already. The ledger is not changed.

    Args:
        paths: the experiment's files.
        code: the code to copy.
        package: the folder it was read from, where git is run.
        defaults: the defaults of its options.

    Raises:
        OSError: the copy can't be written; the incomplete one is removed.
    """
    commit, diff = _origin(package)
    _store(paths, code, diff)
    cut = diff if len(diff) <= MAX_DIFF else f"{diff[:MAX_DIFF]}\n[cut: {DIFF} of the snapshot is whole]\n"
    return Snapshot(code.id, code.digest, commit, bool(diff), cut, ovis.__version__, time.time(), defaults)


def _store(paths: ExperimentPaths, code: Code, diff: str) -> None:
    """Write the copy under a temporary name and rename it, so that two managers can write the same one at once."""
    folder = paths.snapshot(code.id)
    if is_intact(paths, code.id, code.digest):
        os.utime(folder)  # keeps it from being removed as stale before the ledger refers to it
        return
    temporary, damaged = (paths.snapshots / f"{TEMPORARY}{uuid.uuid4().hex}" for _ in range(2))
    try:
        for name, content in code.files.items():
            path = temporary / PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (temporary / DIFF).write_text(diff, encoding="utf-8")
        failpoint("snapshot.copied")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(damaged)
        try:
            temporary.rename(folder)
        except OSError:
            if not is_intact(paths, code.id, code.digest):  # else another manager was faster
                raise
    finally:
        for leftover in (temporary, damaged):
            shutil.rmtree(leftover, ignore_errors=True)


def _origin(package: Path) -> tuple[str, str]:
    """The commit of a package and its differences from it; both empty without a git clone, or where git fails.

    Of untracked files the diff lists the names only; their content is in the copy.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # fails if it is only installed in a clone
        commit = _git(package, "rev-parse", "--verify", "HEAD").strip()
        plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
        diff = _git(package, "diff", *plain, "HEAD", "--", ".")
        strays = _git(package, "ls-files", "--others", "--exclude-standard", "--", ".").splitlines()
    except (OSError, subprocess.SubprocessError):
        return "", ""
    return commit, "".join(f"# not in git: {PACKAGE}/{name}\n" for name in strays) + diff


def _git(folder: Path, *words: str) -> str:
    """The output of a git command in ``folder``, which ignores ``GIT_*`` variables and writes nothing there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=GIT_TIMEOUT,
        env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
    ).stdout.decode("utf-8", errors="replace")


def _refuse(error: OSError) -> None:
    raise error
