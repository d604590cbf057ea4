"""A real browser for tests: headless Chromium, driven over a pipe in its DevTools protocol. No package, no network."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What Chromium is called by Debian and others.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

#: Seconds to wait for an answer: a busy machine takes its time to start a browser.
PATIENCE = 90.0

#: The first free number from here on is given to our ends of the pipes: 3 and 4 are the browser's.
ABOVE = 10


def find_chromium() -> str | None:
    """The browser's path; None: there is none here."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """The browser's only tab.

    Attributes:
        events: every event so far, as (method, parameters).
    """

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer
        self.numbers = itertools.count(1)
        self.buffer = b""
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.session = ""

    def attach(self) -> None:
        (target,) = (t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something, and wait for its answer."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.reader], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no answer from the browser for {PATIENCE:.0f} s"
            chunk = os.read(self.reader, 1 << 16)
            assert chunk, "the browser has ended"
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file, with a window of this size in CSS pixels, and wait until it is there."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in [method for method, _ in self.events]:
            self._receive()

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings in the console, and exceptions, since the page was opened."""
        result = [p["exceptionDetails"]["text"] for m, p in self.events if m == "Runtime.exceptionThrown"]
        result += [str(p["args"]) for m, p in self.events if m == "Runtime.consoleAPICalled"]
        return result + [p["entry"]["text"] for m, p in self.events if m == "Log.entryAdded"]

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened, those within the page aside."""
        urls = [p["request"]["url"] for m, p in self.events if m == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]


@contextlib.contextmanager
def start_chromium(path: str, profile: Path) -> Iterator[Tab]:
    """A browser with an empty profile, which ends with the block."""
    (its_input, writer), (reader, its_output) = _pipe(), _pipe()
    options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}"]

    def hand_over() -> None:
        os.dup2(its_input, 3)
        os.dup2(its_output, 4)

    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [path, *options, "about:blank"], stdout=log, stderr=log, preexec_fn=hand_over, pass_fds=(3, 4)
        )
    for end in (its_input, its_output):
        os.close(end)
    try:
        tab = Tab(reader, writer)
        tab.attach()
        yield tab
        tab.session = ""
        tab.call("Browser.close")
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for end in (reader, writer):
            os.close(end)


def _pipe() -> tuple[int, int]:
    """A pipe whose numbers are none of those that the browser expects."""
    result = []
    for end in os.pipe():
        result.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE))
        os.close(end)
    return result[0], result[1]
