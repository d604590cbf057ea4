"""The cache: written once and atomically, and again if it is damaged."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ovis.experiments.datasets import cache
from ovis.experiments.datasets.cache import cached
from ovis.experiments.datasets.files import DataError

FORK = multiprocessing.get_context("fork")
SPLITS = {name: np.full((3, 2, 2), value, dtype=np.uint8) for value, name in enumerate(("train", "valid", "test"))}


def make(root: Path) -> cache.Arrays:
    """Remember in a file that this was called: processes count together."""
    with (root / "made").open("a") as file:
        file.write("x")
    return SPLITS


def made(root: Path) -> int:
    return (root / "made").stat().st_size


def is_right(arrays) -> bool:
    return arrays.keys() == SPLITS.keys() and all(np.array_equal(arrays[name], SPLITS[name]) for name in SPLITS)


def file_of(root: Path) -> Path:
    return root / "cache" / f"set-v{cache.VERSION}.npz"


def test_made_once(tmp_path):
    assert is_right(cached(tmp_path, "set", make))
    assert is_right(cached(tmp_path, "set", make))
    assert made(tmp_path) == 1
    assert cached(tmp_path, "set", make)["train"].dtype == np.uint8
    assert is_right(cached(tmp_path, "other", make))
    assert made(tmp_path) == 2
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_another_version_is_prepared_again(tmp_path, monkeypatch):
    cached(tmp_path, "set", make)
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    cached(tmp_path, "set", make)
    assert made(tmp_path) == 2


def test_what_can_not_be_made_is_not_kept(tmp_path):
    def fail(root):
        raise DataError("no such file")

    with pytest.raises(DataError, match="no such file"):
        cached(tmp_path, "set", fail)
    assert is_right(cached(tmp_path, "set", make))


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(bytes(12))] ^= 1  # the twelve zeros of train
    path.write_bytes(data)


def damage_flag(path: Path) -> None:
    """A bit of the directory that marks the first entry as encrypted."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] ^= 1
    path.write_bytes(data)


def damage_version(path: Path) -> None:
    """A bit of the directory that requires a later version of zip."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] ^= 128
    path.write_bytes(data)


def rewrite(path: Path, change) -> None:
    """As another program would, which keeps the checksum."""
    with np.load(path) as file:
        np.savez(path, **{name: file[name] if name == "checksum" else change(file[name]) for name in file.files})


def other_data_set(root: Path) -> Path:
    other = root / "other"
    other.mkdir()
    cached(other, "another", lambda root: SPLITS)
    return other / "cache" / f"another-v{cache.VERSION}.npz"


@pytest.mark.parametrize(
    "damage",
    [
        damage_end,
        damage_flag,
        damage_version,
        damage_bit,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: np.savez(path, train=SPLITS["train"]),
        lambda path: rewrite(path, lambda array: 255 * array),
        lambda path: rewrite(path, lambda array: array[:, :1, :1]),
        lambda path: rewrite(path, lambda array: array.reshape(1, 6, 2)),
        lambda path: rewrite(path, lambda array: array.astype(np.float32)),
        lambda path: np.savez(path, **SPLITS),
        lambda path: path.write_bytes(other_data_set(path.parents[1]).read_bytes()),
        lambda path: np.savez(path, train=np.array([{}], dtype=object), valid=SPLITS["valid"], test=SPLITS["test"]),
    ],
    ids=[
        "cut short",
        "encrypted",
        "later version",
        "flipped bit",
        "empty",
        "no archive",
        "a split is missing",
        "values of 0 to 255",
        "smaller images",
        "another shape",
        "another type",
        "no checksum",
        "another data set",
        "objects",
    ],
)
def test_a_damaged_file_is_made_again(tmp_path, damage, caplog):
    cached(tmp_path, "set", make)
    damage(file_of(tmp_path))
    assert is_right(cached(tmp_path, "set", make))
    assert f"{file_of(tmp_path)} can't be used, it is made again" in caplog.text
    assert is_right(cached(tmp_path, "set", make))
    assert made(tmp_path) == 2


def test_processes_that_start_together_make_it_once(tmp_path):
    def slow(root):
        time.sleep(0.2)
        return make(root)

    def child(answers):
        answers.put(is_right(cached(tmp_path, "set", slow)))

    answers = FORK.Queue()
    children = [FORK.Process(target=child, args=(answers,)) for _ in range(6)]
    for process in children:
        process.start()
    assert [answers.get(timeout=20) for _ in children] == [True] * 6
    for process in children:
        process.join()
    assert made(tmp_path) == 1


def test_a_process_killed_while_it_prepares_does_not_block_others(tmp_path):
    ready = FORK.Event()

    def stuck(root):
        (root / "cache" / f".set-v{cache.VERSION}.npz.part").write_bytes(b"half")
        ready.set()
        time.sleep(60)

    process = FORK.Process(target=cached, args=(tmp_path, "set", stuck))
    process.start()
    assert ready.wait(20)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert is_right(cached(tmp_path, "set", make))
    assert [path.name for path in (tmp_path / "cache").glob("*.npz")] == [file_of(tmp_path).name]
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_a_folder_that_can_not_be_written_is_no_obstacle(tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    assert is_right(cached(tmp_path, "set", make))
    assert f"set is not cached: {tmp_path / 'cache'}: File exists" in caplog.text


def test_a_read_only_disk_is_no_obstacle(tmp_path, caplog, monkeypatch):
    def acquire(self, timeout=None):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache.FileLock, "acquire", acquire)
    assert is_right(cached(tmp_path, "set", make))
    assert "Read-only file system" in caplog.text


def test_a_full_disk_is_no_obstacle(tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f".set-v{cache.VERSION}.npz.part").symlink_to("/dev/full")
    assert is_right(cached(tmp_path, "set", make))
    assert f"{file_of(tmp_path)} is not written: No space left on device" in caplog.text
    assert not file_of(tmp_path).exists()
    assert is_right(cached(tmp_path, "set", make))
    assert file_of(tmp_path).exists()
