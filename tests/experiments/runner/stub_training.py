"""Stands in for ``ovis.experiments.cli.train``: checkpoint, progress, exit codes; in milliseconds.

It keeps a journal in the run's folder, which the tests read. The setting ``id`` determines its behaviour: ``fail`` ends
with an error at step 3; ``die`` kills itself there, in its first attempt; ``wait`` stays there until it is asked to
stop, in its first attempt; ``stubborn`` ignores SIGTERM; ``step250`` takes 250 ms for a step and records each.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from ovis.experiments.runs.atomic import append, naming
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.runs.retrying import retry


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    options, _ = parser.parse_known_args()
    nsteps, label = options.settings.get("nsteps", 5), options.settings.get("id", "")
    folder: Path = options.run_dir
    (folder / "call.json").write_text(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}))
    pace = re.fullmatch(r"step(\d+)", label)
    pause = int(pace[1]) / 1000 if pace else 0.01
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))

    def note(text: str) -> None:
        append(folder / "journal.txt", f"{text} {options.attempt}\n".encode())

    with (folder / "stub.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("overlap")
        checkpoint = folder / "checkpoint.txt"
        begin = step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        note(f"start at {step} in")
        while step < nsteps:
            time.sleep(pause)
            step += not (label == "wait" and step == 3 and options.attempt == 1)
            print("step", step)
            if pace:
                note(f"step {step} in")
            replace(checkpoint, str(step))
            progress = {"step": step, "nsteps": nsteps, "loss": 1 / step, "t": time.time(), "begin": begin}
            replace(folder / "progress.json", json.dumps(progress))
            if label == "fail" and step == 3:
                print("Traceback (most recent call last):\nValueError: the loss is not finite", file=sys.stderr)
                return 1
            if label == "die" and step == 3 and options.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if stops and label != "stubborn":
                note("stopped in")
                return 3
        note("done in")
    return 0


def replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")

    def write() -> None:
        with naming(path):
            temporary.write_text(text)
            failpoint(f"{path.stem}.temporary")
            temporary.replace(path)

    retry(write)


if __name__ == "__main__":
    raise SystemExit(main())
