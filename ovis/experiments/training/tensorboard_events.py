"""TensorBoard's event files. No thread: what was added is on the disk, or an error raised, when the call returns."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from ovis.experiments.runs.atomic import append

__all__ = ["EventFile"]

PREFIX = "events.out.tfevents"


class EventFile:
    """An event file of this attempt, beside those of earlier ones.

    Args:
        folder: of the run.
        step: steps already taken: TensorBoard drops what earlier event files hold of later ones.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(self, folder: Path, step: int):
        self.path = _next_path(folder)
        start = SessionLog(status=SessionLog.START)
        self._write([Event(file_version="brain.Event:2"), Event(step=step + 1, session_log=start)])

    def add(self, step: int, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        """Add the numbers and pictures of a step.

        Args:
            step: optimizer steps so far.
            scalars: by tag.
            images: PNG files of grey levels by tag.

        Raises:
            OSError: no room on the disk; the file is as it was.
        """
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        values += [Summary.Value(tag=tag, image=_image(png)) for tag, png in images.items()]
        self._write(Event(step=step, summary=Summary(value=[value])) for value in values)

    def _write(self, events: Iterable[Event]) -> None:
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        append(self.path, buffer.getvalue())


def _next_path(folder: Path) -> Path:
    """A name that comes after those of earlier attempts, even if the clock was set back: TensorBoard sorts by name."""
    second = int(time.time())
    for path in folder.glob(f"{PREFIX}.*"):
        earlier = path.name.split(".")[3]
        if earlier.isdecimal():
            second = max(second, int(earlier) + 1)
    return folder / f"{PREFIX}.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"


def _image(png: bytes) -> Summary.Image:
    # the header of a PNG file: 16 bytes, then width and height
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return Summary.Image(width=width, height=height, colorspace=1, encoded_image_string=png)
