"""The queue's ledger: two TinyDB tables in one file that is replaced whole, changed under a lock, read without one.

``runs`` holds a row for each run, without what is at its default: all of it is read at every transaction, and written.
``snapshots`` holds one for each copy of the code that runs refer to; the last is what attempts run on from now on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tinydb import TinyDB
from tinydb.middlewares import CachingMiddleware
from tinydb.storages import Storage
from tinydb.table import Document

from ovis.experiments.runner.queue.lock_holder import clear_holder, read_holder, write_holder
from ovis.experiments.runs.atomic import replace_file
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.paths import ExperimentPaths, is_safe_name
from ovis.experiments.runs.status import DEFAULTS, State

__all__ = ["SNAPSHOTS", "TOLD_AFTER", "AtomicStorage", "Ledger", "LedgerError", "LedgerLocked", "Row", "Transaction"]

TABLE = "runs"
SNAPSHOTS = "snapshots"

#: Seconds of waiting for the lock after which the user is told. A transaction takes 0.1 s at 10,000 runs, but waiting
#: for it is not fair.
TOLD_AFTER = 10.0

Row = dict[str, Any]


class LedgerError(RuntimeError):
    """The ledger can't be read, locked or written: one line that says which file and why. Nothing was changed."""


class LedgerLocked(LedgerError):
    """Another process has the ledger's lock: one line that says which."""


class AtomicStorage(Storage):
    """TinyDB storage that replaces the file whole: a kill or a full disk leaves the old content.

    The file is opened by its path at every read, as a handle kept open would go on showing the replaced one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, dict[str, Any]] | None:
        try:
            data: dict[str, dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
            _check(data)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"can't read the queue {self.path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            fault = f"is {error}" if isinstance(error, _EarlierVersion) else f"is broken: {error}"
            raise LedgerError(
                f"the queue {self.path} {fault}; move it aside, and manager.py makes it anew from the run folders"
            ) from None
        return data

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        try:
            with replace_file(self.path) as temporary:
                temporary.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
                failpoint("ledger.temporary")
        except OSError as error:
            raise LedgerError(f"can't write the queue {self.path}, it stays as it was: {error}") from error


class _EarlierVersion(ValueError):
    """The content is valid for an earlier version of ovis only."""


def _check(data: Any) -> None:
    """Refuse content that no ovis queue has written, or whose names lead out of the run root.

    Raises:
        ValueError: says what is wrong.
    """
    if not (isinstance(data, dict) and all(isinstance(table, dict) and _is_numbered(table) for table in data.values())):
        raise ValueError("it is not a TinyDB file")
    for number, row in data.get(TABLE, {}).items():
        _check_row(row, f"record {number}")
    for number, row in data.get(SNAPSHOTS, {}).items():
        _check_snapshot(row, f"snapshot {number}")


def _is_numbered(table: Iterable[str]) -> bool:
    return all(map(str.isdecimal, table))


def _check_row(row: Any, where: str) -> None:
    """Check a row of the table of runs; times that are none are replaced by the default, as they decide nothing."""
    if isinstance(row, dict) and "settings" not in row and "arg" in row:
        raise _EarlierVersion("of an earlier version, which kept a run's settings as one string")
    _check_fields(row, TABLE, where)
    for name in (row["name"], row["key"]):
        if not is_safe_name(name):
            raise ValueError(f"{where} has an unsafe run name or key {name!r}")
    if row["state"] not in _STATES:
        raise ValueError(f"{where} has an unknown state {row['state']!r}")
    if row.get("snapshot") and not is_safe_name(row["snapshot"]):
        raise ValueError(f"{where} has an unsafe snapshot {row['snapshot']!r}")
    if not all(abs(row.get(name, 0)) <= LARGEST for name in COUNTERS):
        raise ValueError(f"{where} has a counter that is too large")
    if not set(map(type, row["settings"].values())) <= SCALARS:
        raise ValueError(f"{where} has a setting that is no number, text or true/false")
    for name in TIMES:
        if name in row and not 0 <= row[name] <= LARGEST:
            row[name] = 0.0


def _check_snapshot(row: Any, where: str) -> None:
    _check_fields(row, SNAPSHOTS, where)
    if not is_safe_name(row["id"]):
        raise ValueError(f"{where} has an unsafe id {row['id']!r}")
    if not 0 <= row["time"] <= LARGEST:
        row["time"] = 0.0


def _check_fields(row: Any, table: str, where: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not an object")
    wrong = _find_wrong(table, tuple(row), tuple(map(type, row.values())))
    if wrong:
        raise ValueError(f"{where} has no valid {wrong!r}: {row.get(wrong)!r}")


@functools.lru_cache(maxsize=1000)
def _find_wrong(table: str, names: tuple[str, ...], types: tuple[type, ...]) -> str | None:
    """The first field of a row that is missing or of a wrong type. Its many rows are of a few kinds."""
    given = dict(zip(names, types, strict=True))
    optional = DEFAULTS if table == TABLE else {}
    for name, kinds in _KINDS[table].items():
        if not (issubclass(given[name], kinds) if name in given else name in optional):
            return name
    return None


_STATES = frozenset(state.value for state in State)
_NUMBER: tuple[type, ...] = (int, float)

#: Fields of a row of the table of runs.
COUNTERS = ("attempt", "valid_from", "failures", "lost", "priority", "fresh_from")
TIMES = ("not_before", "created", "started", "ended")

#: Types of settings.
SCALARS = {str, int, float, bool, type(None)}

#: Largest counter, and largest time in seconds since 1970, which a float still holds exactly.
LARGEST = 2**53

_KINDS: dict[str, dict[str, tuple[type, ...]]] = {
    TABLE: {
        **dict.fromkeys(("key", "name", "state", "owner", "reason", "error", "device", "snapshot"), (str,)),
        "settings": (dict,),
        **dict.fromkeys(COUNTERS, (int,)),
        **dict.fromkeys(TIMES, _NUMBER),
        "engine": (dict, type(None)),
    },
    SNAPSHOTS: {
        **dict.fromkeys(("id", "digest", "commit", "diff", "version"), (str,)),
        "dirty": (bool,),
        "time": _NUMBER,
        "defaults": (dict,),
    },
}


class _Row(Document):
    """A row of the table of runs: what it leaves out is at its default."""

    def __missing__(self, name: str) -> Any:
        return DEFAULTS[name]


def _without_defaults(row: Row) -> Row:
    """A row as it is written."""
    return {name: value for name, value in row.items() if name not in DEFAULTS or value != DEFAULTS[name]}


class Transaction:
    """The rows of the ledger by key, as they are while the lock is held.

    Change a row in place and :meth:`touch` it, or hand new ones to :meth:`insert`; leaving the block writes them once.
    """

    def __init__(self, documents: Iterable[Document], snapshots: Iterable[Row] = ()) -> None:
        self.rows: dict[str, Document] = {row["key"]: row for row in documents}
        self.snapshots = [dict(row) for row in snapshots]  # without the numbers they have in the table
        self.touched: set[str] = set()
        self.inserted: list[Row] = []
        self.cleared = self.resnapped = False

    @property
    def snapshot(self) -> str:
        """The id of the snapshot that attempts run on from now on; empty: none, the code at hand."""
        return str(self.snapshots[-1]["id"]) if self.snapshots else ""

    def use_snapshot(self, row: Row) -> None:
        """Let attempts run on this snapshot from now on, and forget those that no run refers to."""
        used = {run.get("snapshot") for run in self.rows.values()} - {row["id"]}
        self.snapshots = [*(old for old in self.snapshots if old["id"] in used), row]
        self.resnapped = True

    def touch(self, key: str) -> None:
        self.touched.add(key)

    def insert(self, rows: Iterable[Row]) -> None:
        self.inserted += rows

    def clear(self) -> None:
        """Forget every row and every snapshot."""
        self.rows, self.touched, self.cleared = {}, set(), True
        self.snapshots, self.resnapped = [], True

    def commit(self, database: TinyDB) -> None:
        """Bring the changes into TinyDB: one pass over the table for all changed rows, one for all new ones."""
        table = database.table(TABLE)
        if self.cleared:
            table.truncate()
        if self.touched:
            table.update(self._renew, doc_ids=self._touched_ids())
        if self.inserted:
            table.insert_multiple(_without_defaults(row) for row in self.inserted)
        if self.resnapped:
            database.table(SNAPSHOTS).truncate()
            database.table(SNAPSHOTS).insert_multiple(self.snapshots)

    def _renew(self, row: MutableMapping[str, Any]) -> None:
        new = _without_defaults(self.rows[row["key"]])
        row.clear()
        row.update(new)

    def _touched_ids(self) -> list[int]:
        return [self.rows[key].doc_id for key in self.touched]


class Ledger:
    """The ledger of one experiment.

    Args:
        paths: the experiment's files.
    """

    def __init__(self, paths: ExperimentPaths) -> None:
        self.paths = paths
        self._device: int | None = None  # number of the file system on which the ledger was found

    def read(self, table: str = TABLE) -> list[Row]:
        """All rows of a table, as of the last complete write. Takes no lock and writes nothing."""
        data = AtomicStorage(self.paths.ledger).read()
        if data is None:
            self._check_mounted()
            data = {}
        kind = _Row if table == TABLE else Document
        return [kind(row, int(number)) for number, row in data.get(table, {}).items()]

    @contextlib.contextmanager
    def transaction(self, patience: float | None = None) -> Iterator[Transaction]:
        """Lock, read, let the caller change rows, write once, release; an exception in the block changes nothing.

        Args:
            patience: seconds to wait for the lock; None: as long as it takes, and stderr says for which process.

        Raises:
            LedgerLocked: another process has the lock.
            LedgerError: the file can't be locked, read or written.
        """
        self._check_mounted()  # else the lock would be created in the folder on which it is mounted
        with self._locked(patience):
            # The cache makes the whole block one read and one write; it is dropped, not flushed, on an exception.
            database = TinyDB(self.paths.ledger, storage=CachingMiddleware(AtomicStorage))  # type: ignore[no-untyped-call]
            database.table(TABLE).document_class = _Row  # TinyDB has no parameter for it; it keeps the table
            transaction = Transaction(database.table(TABLE).all(), database.table(SNAPSHOTS).all())
            yield transaction
            transaction.commit(database)
            database.close()
        self._check_mounted()  # a new ledger is there now

    def _check_mounted(self) -> None:
        """Tell a ledger that was deleted from one whose file system is not there.

        Raises:
            LedgerError: the file system is not there.
        """
        if self.paths.ledger.exists():
            self._device = self.paths.ledger.stat().st_dev  # a server that is mounted again may have another one
        elif self._device is not None:
            folder = self.paths.folder
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if there.stat().st_dev != self._device:
                line = f"the file system of {folder} is not there: is it still mounted?"
                raise LedgerError(line) from OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    @contextlib.contextmanager
    def _locked(self, patience: float | None) -> Iterator[None]:
        lock = FileLock(str(self.paths.lock))
        try:
            self._acquire(lock, patience)
        except (OSError, NotImplementedError) as error:
            raise LedgerError(f"can't lock the queue {self.paths.lock}: {error}") from error
        try:
            write_holder(self.paths.lock_holder)
            yield
        finally:
            clear_holder(self.paths.lock_holder)
            lock.release()

    def _acquire(self, lock: FileLock, patience: float | None) -> None:
        try:
            lock.acquire(timeout=TOLD_AFTER if patience is None else patience)
        except Timeout:
            line = f"the queue's lock {self.paths.lock} is held by {read_holder(self.paths.lock_holder)}"
            if patience is not None:
                raise LedgerLocked(line) from None
            print(f"waiting: {line}", file=sys.stderr, flush=True)
            lock.acquire()
