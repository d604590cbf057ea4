"""The code that the runs of an experiment use: a copy of the package, made when they are queued, and its origin.

The copy is in ``<experiment>/.snapshots/<id>/ovis/``, where ``<id>`` is the beginning of a hash of its content.
``changes.diff`` beside it holds the differences from its commit. A copy is written completely or not at all. It is not
flushed to the disk, as every manager checks the hash when it starts.

Only the sources and the data of the package are copied, with their permissions; other files in its folder, and what
symbolic links refer to elsewhere, are not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
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

#: Names of the files of the package: its sources, and the data that pyproject.toml declares.
FILES = ("*.py", "*.json", "*.csv", "py.typed", "*.css", "*.js", "*.j2")

#: Upper limit of their size in bytes, as every version of the code is copied.
MAX_SIZE = 20_000_000

#: Hexadecimal digits of a snapshot's id.
ID_LENGTH = 12

#: Length to which the diff is cut in the ledger, which is rewritten at every transaction.
MAX_DIFF = 65_536

#: Timeout in seconds of one git command.
GIT_TIMEOUT = 10.0


@dataclass(frozen=True)
class Code:
    """The code of a package. Its files are read when their content is first needed.

    Attributes:
        package: its folder.
        modes: the permissions of each file, by its path in the package, with slashes.
        links: paths of the symbolic links that were left out.
    """

    package: Path
    modes: Mapping[str, int]
    links: tuple[str, ...] = ()

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """The bytes of each file, by its path.

        Raises:
            OSError: a file can't be read.
        """
        return {name: (self.package / name).read_bytes() for name in self.modes}

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
    """List the files of a package and check their size. Their content is read later, see :class:`Code`.

    Symbolic links to folders, and those to files outside of the package, are left out.

    Args:
        package: its folder.

    Raises:
        OSError: a file or folder can't be read, or the files are too large.
    """
    root, modes, sizes, links = package.resolve(), {}, {}, []
    for path in _walk(package):
        name = path.relative_to(package).as_posix()
        if path.is_dir():
            links.append(name)
        elif path.is_file() and any(fnmatch(path.name, pattern) for pattern in FILES):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                links.append(name)
            else:
                status = path.stat()
                modes[name], sizes[name] = stat.S_IMODE(status.st_mode), status.st_size
    if sum(sizes.values()) > MAX_SIZE:
        largest = max(sizes, key=sizes.__getitem__)
        reason = (
            f"{sizes[largest] / 1e6:.1f} MB, but the code of a sweep is copied, and may have {MAX_SIZE / 1e6:.0f} MB "
            f"in all: keep data outside of the package"
        )
        raise OSError(errno.EFBIG, reason, str(package / largest))
    return Code(package, modes, tuple(links))


def is_intact(paths: ExperimentPaths, id: str, digest: str) -> bool:
    """Whether the copy exists and is unchanged."""
    package = paths.snapshot(id) / PACKAGE
    try:  # all its files, as one that was added could be imported
        names = (path.relative_to(package).as_posix() for path in _walk(package) if path.is_file())
        return Code(package, dict.fromkeys(names, 0)).digest == digest
    except OSError:
        return False


def take_snapshot(paths: ExperimentPaths, code: Code, defaults: Mapping[str, Any]) -> Snapshot:
    """Copy the code into the experiment's folder, unless it is there already. The ledger is not changed.

    Args:
        paths: the experiment's files.
        code: the code to copy.
        defaults: the defaults of its options.

    Raises:
        OSError: the copy can't be written; the incomplete one is removed.
    """
    commit, diff = _origin(code.package)
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
            path.touch(mode=0o600)
            path.write_bytes(content)
            path.chmod(code.modes[name])
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


def _walk(package: Path) -> Iterator[Path]:
    """The files of a package, and the symbolic links to folders, except hidden ones and bytecode."""
    for folder, folders, names in os.walk(package, onerror=_refuse):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (path for name in folders if (path := Path(folder, name)).is_symlink())
        yield from (Path(folder, name) for name in names if not name.startswith(".") and not name.endswith(".pyc"))


def _origin(package: Path) -> tuple[str, str]:
    """The commit of a package and its differences from it; both empty without a git clone, or where git fails.

    Of untracked files the diff lists the names only; their content is in the copy.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # fails if it is only installed in a clone
        commit = _git(package, "rev-parse", "--verify", "HEAD").strip()
        plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
        diff = _git(package, "diff", *plain, "HEAD", "--", *FILES)
        strays = _git(package, "ls-files", "--others", "--exclude-standard", "--", *FILES).splitlines()
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
