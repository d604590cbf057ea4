"""Errors that may pass are waited for, up to a limit; others are raised at once."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ovis.experiments.runs import retrying
from ovis.experiments.runs.atomic import append, replace_file, write_bytes, write_text
from ovis.experiments.runs.attempt import make_attempts
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.retrying import is_out_of_memory, is_transient, retry
from ovis.experiments.runs.status import EXHAUSTED, AttemptResult, read_outcome

PASSING = ("EPERM", "EACCES", "EROFS", "EIO", "ESTALE", "ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "EAGAIN", "ENOLCK")
LASTING = ("ENOSYS", "EOPNOTSUPP", "EINVAL", "EFBIG", "ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "EPIPE")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "PAUSE", 0.001)
    monkeypatch.setattr(retrying, "RETRY_SECONDS", 5.0)


class Faults:
    """Lets a function of ``os`` fail at its first calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: str, count: int, code: int = errno.EIO) -> None:
        self.left, self.code, self.real = count, code, getattr(os, function)
        monkeypatch.setattr(os, function, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **options)


@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_which_errors_of_files_pass(name: str) -> None:
    assert is_transient(OSError(getattr(errno, name), "")) is (name in PASSING)


def test_an_error_passes_if_its_cause_does() -> None:
    error = RuntimeError("can't write")
    error.__cause__ = OSError(errno.EIO, "")
    assert is_transient(error)
    assert not is_transient(RuntimeError("can't write"))
    assert not is_transient(OSError("no number"))


def test_the_lack_of_memory_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)  # torch's own allocator: more than any machine has
    errors = (caught.value, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError())
    assert all(is_out_of_memory(error) and is_transient(error) for error in errors)
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_retry_ends_with_the_first_success(caplog: pytest.LogCaptureFixture) -> None:
    errors = [OSError(errno.ENOSPC, "", "a/b"), OSError(errno.EIO, "", "c"), None]

    def action() -> str:
        if error := errors.pop(0):
            raise error
        return "done"

    assert retry(action) == "done"
    assert [record.message for record in caplog.records] == ["disk full: a/b; tried again for up to 5 s"]


@pytest.mark.parametrize(("code", "least"), [(errno.EIO, 2), (errno.ENOSYS, 1)])
def test_a_retry_has_a_limit_and_other_errors_are_raised_at_once(
    monkeypatch: pytest.MonkeyPatch, code: int, least: int
) -> None:
    monkeypatch.setattr(retrying, "RETRY_SECONDS", 0.05)
    calls = []

    def action() -> None:
        calls.append(time.monotonic())
        raise OSError(code, "")

    with pytest.raises(OSError, match=str(code)):
        retry(action)
    assert least <= len(calls) <= (1 if least == 1 else 50)
    assert (calls[-1] - calls[0] >= 0.05) is (least > 1)


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod", "open"])
def test_a_file_is_replaced_once_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    faults = Faults(monkeypatch, function, 2)
    write_text(path, "new")
    assert faults.left == 0
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_what_need_not_last_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faults(monkeypatch, "replace", 1)
    with pytest.raises(OSError, match="Input/output error"):
        write_bytes(tmp_path / "file", b"", durable=False)


def test_a_folder_that_cannot_be_flushed_does_not_undo_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def flush(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    with replace_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_line_is_added_once_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file could not be shortened after the error: the next try does it."""
    path = tmp_path / "lines"
    append(path, b"one\n")
    faults = [Faults(monkeypatch, "fsync", 3), Faults(monkeypatch, "ftruncate", 2)]
    append(path, b"two\n")
    assert [each.left for each in faults] == [0, 0]
    append(path, b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ESTALE, "Stale file handle", "data/x.npz")])
def test_a_run_that_meets_such_an_error_is_to_be_queued_again(tmp_path: Path, error: Exception) -> None:
    run = RunPaths(tmp_path / "run")

    def work(contexts: Any) -> Any:
        raise error

    level = logging.getLogger().level
    assert make_attempts([run], work) == EXHAUSTED
    logging.getLogger().setLevel(level)
    outcome = read_outcome(run)
    assert outcome is not None
    assert outcome.status is AttemptResult.EXHAUSTED
