"""A data folder with small files in the formats of the real ones, which pass for the published ones."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from published import HELD_OUT, formatted, publish, synthetic

from ovis.experiments.datasets import binmnist, fashion, mnist, omniglot


def no_network(root: str, download: bool) -> None:
    raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror, got:\n<urlopen error>\n")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The folder, and the images in it by data set and split. torchvision finds no network."""
    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=no_network, FashionMNIST=no_network))
    data = formatted()
    sources = {
        split: publish(source, data[f"amat-{split}"], tmp_path, packed=split == "train")
        for split, source in binmnist.FILES.items()
    }
    monkeypatch.setattr(binmnist, "FILES", sources)
    for module, packed in ((mnist, True), (fashion, False)):
        monkeypatch.setattr(module, "TRAIN", publish(module.TRAIN, data["idx-train"], tmp_path, packed))
        monkeypatch.setattr(module, "TEST", publish(module.TEST, data["idx-test"], tmp_path, packed))
    monkeypatch.setattr(omniglot, "FILE", publish(omniglot.FILE, data["chardata"], tmp_path))
    for module in (mnist, fashion, omniglot):
        monkeypatch.setattr(module, "VALID", HELD_OUT)
    grey, binary = synthetic()["grey"], synthetic()["binary"]
    return {"root": tmp_path, "binmnist": binary, "mnist": grey, "fashion": grey, "omniglot": grey}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Start a server on this machine and return its address. A handler may stall until ``server.released`` is set."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:

        def start(handler: type[BaseHTTPRequestHandler]) -> str:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            server.released = threading.Event()
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.released.set)
            return f"http://127.0.0.1:{server.server_port}"

        yield start
