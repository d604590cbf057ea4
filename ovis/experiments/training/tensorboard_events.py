"""TensorBoard's event files, written synchronously: when a call returns, its events are on the disk."""

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
from ovis.experiments.runs.paths import EVENTS

__all__ = ["EventFile"]


class EventFile:
    """The event file of this attempt, in the same folder as those of earlier attempts.

    Args:
        folder: the run's folder.
        step: steps already taken; TensorBoard ignores later steps in earlier event files.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(self, folder: Path, step: int):
        self.path = _next_path(folder)
        start = SessionLog(status=SessionLog.START)
        self._write([Event(file_version="brain.Event:2"), Event(step=step + 1, session_log=start)])

    def add(self, step: int, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        """Add the numbers and images of a step.

        Args:
            step: optimizer steps so far.
            scalars: numbers by tag.
            images: PNG files in grey levels by tag.

        Raises:
            OSError: the disk is full; the file is unchanged.
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
    """A name that sorts after those of earlier attempts, even if the clock was set back: TensorBoard sorts by name."""
    second = int(time.time())
    for path in folder.glob(f"{EVENTS}.*"):
        earlier = path.name.split(".")[3]
        if earlier.isdecimal():
            second = max(second, int(earlier) + 1)
    return folder / f"{EVENTS}.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"


def _image(png: bytes) -> Summary.Image:
    # in the header of a PNG file, width and height follow after 16 bytes
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return Summary.Image(width=width, height=height, colorspace=1, encoded_image_string=png)
