"""Published files: lookup, verification, and downloads from a server that fails in many ways."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import logging
import socket
import sys

import pytest

from ovis.experiments.datasets import files
from ovis.experiments.datasets.files import DataError, Source, content

DATA = bytes(range(256)) * 4096  # a megabyte
CHECKSUM = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    """What a path stands for: its content, and how it is sent."""

    requested: list[str] = []  # noqa: RUF012 (emptied by the fixture)

    def do_GET(self):
        self.requested.append(self.path)
        body = gzip.compress(DATA) if self.path.endswith(".gz") else DATA
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/file")
            return self.end_headers()
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/file")
            return self.end_headers()
        self.send_response(200)
        if not self.path.startswith("/unsized"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.startswith("/stalled"):
            self.wfile.write(body[:1000])
            self.server.released.wait(10)
            return None
        if self.path.startswith("/broken"):
            body = body[: len(body) // 2]
        if self.path.startswith("/wrong"):
            body = body[:-1] + b"!"
        with contextlib.suppress(OSError):
            self.wfile.write(body)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(serve, monkeypatch):
    """Address of a server on this machine; plain http is allowed."""
    monkeypatch.setattr(files, "SCHEMES", ("http",))
    monkeypatch.setattr(Handler, "requested", [])
    return serve(Handler)


def refused(root, source):
    """The error message, one line, after which no temporary file is left."""
    before = sorted(root.rglob("*"))
    with pytest.raises(DataError) as caught:
        content(root, source)
    folder = (root / source.path).parent
    assert [path for path in sorted(root.rglob("*")) if path not in (*before, folder, folder.parent)] == []
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OSError)
    return str(caught.value)


@pytest.mark.parametrize("name", ["file", "file.gz", "unsized", "unsized.gz", "moved"])
def test_a_missing_file_is_fetched_once(tmp_path, server, name):
    source = Source("set/raw/file", f"{server}/{name}", CHECKSUM)
    assert content(tmp_path, source) == DATA
    (kept,) = (tmp_path / "set" / "raw").iterdir()
    assert kept.name == ("file.gz" if name.endswith(".gz") else "file")
    requested = len(Handler.requested)
    assert content(tmp_path, source) == DATA
    assert len(Handler.requested) == requested


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_there_is_used(tmp_path, packed):
    (tmp_path / ("file" + ".gz" * packed)).write_bytes(gzip.compress(DATA) if packed else DATA)
    assert content(tmp_path, Source("file", "https://nowhere.invalid/file", CHECKSUM)) == DATA


def test_the_download_is_logged_and_shown(tmp_path, server, caplog, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with caplog.at_level(logging.INFO):
        content(tmp_path, Source("file", f"{server}/file", CHECKSUM))
    assert f"downloading {server}/file to {tmp_path / 'file'}" in caplog.text
    assert "100%" in shown.getvalue()
    assert "1.00M/1.00M" in shown.getvalue()


def test_no_bar_in_the_log_of_a_job(tmp_path, server, capsys):
    content(tmp_path, Source("file", f"{server}/file", CHECKSUM))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "HTTP 404 Not Found"),
        ("broken", f"the transfer broke off at {len(DATA) // 2} of {len(DATA)} bytes"),
        ("broken.gz", "the transfer broke off at"),
        ("wrong", "this is not the published file, its sha256 is "),
        ("wrong.gz", "the file is corrupt"),
        ("stalled", "timed out"),
        ("elsewhere", "redirected to ftp://127.0.0.1/file, which is not https"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_why(tmp_path, server, monkeypatch, name, reason):
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    message = refused(tmp_path, Source("set/file", f"{server}/{name}", CHECKSUM))
    path = tmp_path / ("set/file" + ".gz" * name.endswith(".gz"))
    assert message.startswith(f"{path} is missing and can't be downloaded from {server}/{name}: {reason}")
    assert message.endswith("; put it there by hand, or say --data_root")


def test_a_failed_download_may_be_tried_again(tmp_path, server):
    refused(tmp_path, Source("file", f"{server}/broken", CHECKSUM))
    assert content(tmp_path, Source("file", f"{server}/file", CHECKSUM)) == DATA


def test_what_a_killed_download_has_left_does_no_harm(tmp_path, server):
    (tmp_path / ".file.part").write_bytes(DATA[:1000])
    assert content(tmp_path, Source("file", f"{server}/file", CHECKSUM)) == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unreachable_server(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SCHEMES", ("http",))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "Connection refused; put it" in refused(tmp_path, Source("f", f"http://127.0.0.1:{port}/f", CHECKSUM))


@pytest.mark.parametrize("url", ["http://127.0.0.1/f", "file:///etc/hostname", "ftp://127.0.0.1/f"])
def test_only_https_is_supported(tmp_path, url):
    assert "not an https address" in refused(tmp_path, Source("f", url, CHECKSUM))


def test_a_full_disk(tmp_path, server):
    (tmp_path / ".file.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        content(tmp_path, Source("file", f"{server}/file", CHECKSUM))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_made(tmp_path, server):
    (tmp_path / "set").write_text("in the way")
    assert "exists; put it" in refused(tmp_path, Source("set/file", f"{server}/file", CHECKSUM))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("file", DATA[:-1], "this is not the published file, its sha256 is "),
        ("file", b"", "this is not the published file"),
        ("file.gz", gzip.compress(DATA)[:-100], "the file is corrupt (Compressed file ended"),
        ("file.gz", gzip.compress(DATA[:-1]), "this is not the published file"),
    ],
)
def test_a_damaged_file_is_named_and_kept(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path, Source("file", "https://nowhere.invalid/file", CHECKSUM))
    assert message.startswith(f"{tmp_path / name}: {reason}")
    assert message.endswith("; remove it to download it again, from https://nowhere.invalid/file")
    assert (tmp_path / name).read_bytes() == data


def test_a_flipped_bit_is_noticed(tmp_path):
    data = bytearray(gzip.compress(DATA))
    data[len(data) // 2] ^= 1
    (tmp_path / "file.gz").write_bytes(data)
    assert "corrupt" in refused(tmp_path, Source("file", "https://nowhere.invalid/file", CHECKSUM))


def test_a_folder_instead_of_a_file(tmp_path):
    (tmp_path / "file").mkdir()
    assert (
        refused(tmp_path, Source("file", "https://x.invalid/file", CHECKSUM)) == f"{tmp_path / 'file'}: Is a directory"
    )


def test_other_checksums(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    digest = hashlib.md5(DATA).hexdigest()
    assert content(tmp_path, Source("file", "https://x.invalid/file", f"md5:{digest}")) == DATA
    assert "its md5 is" in refused(tmp_path, Source("file", "https://x.invalid/file", "md5:0"))
