"""MNIST and Fashion-MNIST through torchvision: its own code against a server of this machine, and stand-ins for it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import multiprocessing
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from published import formatted, publish, synthetic

from ovis.experiments.datasets import fashion, mnist, torchvision_sets
from ovis.experiments.datasets.cache import cached
from ovis.experiments.datasets.files import DataError, content

FORK = multiprocessing.get_context("fork")
SETS = {"MNIST": mnist, "FashionMNIST": fashion}
LABELS = np.array([2049, 3], dtype=">i4").tobytes() + bytes(3)
FILES = {
    "train-images-idx3-ubyte.gz": gzip.compress(formatted()["idx-train"]),
    "train-labels-idx1-ubyte.gz": gzip.compress(LABELS),
    "t10k-images-idx3-ubyte.gz": gzip.compress(formatted()["idx-test"]),
    "t10k-labels-idx1-ubyte.gz": gzip.compress(LABELS),
}
IMAGES = [name for name in FILES if "images" in name]
OTHER = gzip.compress(formatted()["idx-train"][:-1] + b"!")  # a byte of one image


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the file with the name of the path, in the way that its folder names."""

    sent: list[str] = []  # noqa: RUF012 (emptied by the fixture)

    def do_GET(self):
        _, how, name = self.path.split("/")
        if how == "missing":
            return self.send_error(404)
        body = OTHER if how == "other" and name == IMAGES[0] else FILES[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how == "stalled":
            self.server.released.wait(10)
        with contextlib.suppress(OSError):
            self.wfile.write(body[: len(body) // 2] if how == "broken" else body)
        self.sent.append(name)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(serve, monkeypatch):
    """Address of a server on this machine."""
    monkeypatch.setattr(Handler, "sent", [])
    return serve(Handler)


@pytest.fixture
def small(monkeypatch):
    """Small images pass for the published ones; the addresses in messages differ from those of torchvision."""
    for module in SETS.values():
        monkeypatch.setattr(module, "TRAIN", publish(module.TRAIN, formatted()["idx-train"]))
        monkeypatch.setattr(module, "TEST", publish(module.TEST, formatted()["idx-test"]))
        monkeypatch.setattr(module, "VALID", 10)


@pytest.fixture
def mirrored(small, torchvision, server, monkeypatch):
    """Have torchvision's own classes ask the server: (how it sends, files whose MD5 they expect) -> nothing."""

    def point(how, served=FILES):
        for name in SETS:
            monkeypatch.setattr(getattr(torchvision, name), "mirrors", [f"{server}/{how}/"])
            resources = [(file, hashlib.md5(data).hexdigest()) for file, data in served.items()]
            monkeypatch.setattr(getattr(torchvision, name), "resources", resources)

    return point


def stand_in(monkeypatch, fill):
    """A torchvision of which MNIST only calls ``fill(folder of the raw files)``."""

    def create(root, download):
        assert download
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        fill(raw)

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=create))


def write(raw, names=FILES):
    for name in names:
        (raw / name).write_bytes(FILES[name])
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(FILES[name]))


def refused(root, name="MNIST"):
    """The error message, one line, after which the folder is unchanged."""
    before = sorted(root.rglob("*"))
    module = SETS[name]
    with pytest.raises(DataError) as caught:
        module.prepare(root)
    assert sorted(root.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    missing = [source for source in (module.TRAIN, module.TEST) if not (root / f"{source.path}.gz").exists()]
    files = " and ".join(f"{Path(source.path).name}.gz" for source in missing)
    assert message.startswith(f"missing in {root / name / 'raw'}: {files}; torchvision: ")
    assert message.endswith(f"; put them there by hand, from http://published.invalid/{name}/raw/, or say --data_root")
    return message


@pytest.mark.parametrize("name", SETS)
def test_torchvision_downloads_what_is_missing_once(tmp_path, mirrored, name, capfd):
    mirrored("right")
    arrays = SETS[name].prepare(tmp_path)
    assert [len(arrays[split]) for split in ("train", "valid", "test")] == [50, 10, 20]
    if name == "FashionMNIST":
        assert np.array_equal(arrays["test"], synthetic()["grey"]["test"] > 127)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(IMAGES)
    assert content(tmp_path, SETS[name].TRAIN) == formatted()["idx-train"]
    requests = len(Handler.sent)
    assert requests >= len(FILES)
    SETS[name].prepare(tmp_path)
    assert len(Handler.sent) == requests
    assert capfd.readouterr() == ("", "")  # no bar in the log of a job


def test_the_bar_is_shown_on_a_terminal(tmp_path, mirrored, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    mirrored("right")
    mnist.prepare(tmp_path)
    assert "100%" in shown.getvalue()


def test_only_what_is_missing_is_replaced(tmp_path, mirrored):
    mirrored("right")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    own = gzip.compress(formatted()["idx-train"], 1)
    (raw / IMAGES[0]).write_bytes(own)
    mnist.prepare(tmp_path)
    assert (raw / IMAGES[0]).read_bytes() == own
    assert sorted(path.name for path in raw.iterdir()) == sorted(IMAGES)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "HTTP Error 404: Not Found"),
        ("broken", "File not found or corrupted"),
        ("other", "File not found or corrupted"),
        ("stalled", "timed out"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_why(tmp_path, mirrored, monkeypatch, name, how, reason):
    monkeypatch.setattr(torchvision_sets, "PATIENCE", 0.3)
    mirrored(how)
    assert reason in refused(tmp_path, name)
    assert socket.getdefaulttimeout() is None
    mirrored("right")
    assert len(SETS[name].prepare(tmp_path)["train"]) == 50


def test_a_forged_file_whose_md5_torchvision_takes_is_refused(tmp_path, mirrored):
    """As after an attack on its plain http with a collision of MD5."""
    mirrored("other", {**FILES, IMAGES[0]: OTHER})
    assert f"torchvision: {IMAGES[0]}: this is not the published file, its sha256 is " in refused(tmp_path)


def test_an_unreachable_server(tmp_path, small, torchvision, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setattr(torchvision.MNIST, "mirrors", [address])
    message = refused(tmp_path)
    assert "Connection refused" in message
    assert address in message


def test_what_a_killed_download_has_left_does_no_harm(tmp_path, small, monkeypatch):
    stand_in(monkeypatch, write)
    left = tmp_path / ".MNIST.part" / "MNIST" / "raw"
    left.mkdir(parents=True)
    (left / IMAGES[0]).write_bytes(FILES[IMAGES[0]][:100])
    mnist.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_a_torchvision_that_puts_files_elsewhere(tmp_path, small, monkeypatch):
    stand_in(monkeypatch, lambda raw: write(raw, IMAGES[:1]))
    assert IMAGES[1] in refused(tmp_path)


def test_processes_that_start_together_download_once(tmp_path, small, monkeypatch):
    def slowly(raw):
        with (tmp_path / "downloads").open("a") as file:
            file.write("x")
        write(raw)
        time.sleep(0.2)

    def child(answers):
        answers.put(len(cached(tmp_path, "mnist", mnist.prepare)["train"]))

    stand_in(monkeypatch, slowly)
    answers = FORK.Queue()
    children = [FORK.Process(target=child, args=(answers,)) for _ in range(4)]
    for process in children:
        process.start()
    assert [answers.get(timeout=20) for _ in children] == [50] * 4
    for process in children:
        process.join()
    assert (tmp_path / "downloads").read_text() == "x"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_files_that_are_there_need_no_torchvision(tmp_path, small, monkeypatch, name, packed):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    for source, data in ((SETS[name].TRAIN, "idx-train"), (SETS[name].TEST, "idx-test")):
        publish(source, formatted()[data], tmp_path, packed)
    assert len(SETS[name].prepare(tmp_path)["train"]) == 50


@pytest.mark.slow
def test_torchvision_is_imported_only_when_needed():
    modules = "ovis.experiments.datasets.mnist, ovis.experiments.training.trainer"
    code = f"import sys, {modules}; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, ""),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("raise OSError('libcudart.so.13: no such file')", "libcudart.so.13: no such file"),
        ("assert False, 'one\\ntwo'", "one two"),
    ],
    ids=["missing", "other build", "no CUDA", "anything"],
)
def test_a_torchvision_that_can_not_be_imported(tmp_path, small, monkeypatch, source, reason):
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    if source is None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
    else:
        package = tmp_path / "path" / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(package.parent)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
    message = refused(tmp_path)
    assert f"; torchvision: can't be imported ({reason}" in message
    assert "pip install torchvision==0.28.0 for torch 2.13; put them there by hand" in message
