"""Stands in for ``ovis.experiments.cli.train`` with several runs: notes its options, and does as the environment says.

``publish`` says how its first run ended; ``die`` kills itself; ``stop`` waits until it is asked to; ``fence`` waits
until another attempt may publish in its second run; ``fail`` ends with an error.
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

from ovis.experiments.runs.fencing import publish_outcome, read_fence
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import AttemptResult, Outcome


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run_dir", type=Path, action="append", required=True)
    parser.add_argument("--attempt", type=int, action="append", required=True)
    parser.add_argument("--settings", type=json.loads, action="append", required=True)
    options = parser.parse_args()
    runs = [RunPaths(folder) for folder in options.run_dir]
    for settings, attempt, run in zip(options.settings, options.attempt, runs, strict=True):
        (run.folder / "call.json").write_text(json.dumps([settings.get("seed", 1), attempt, len(runs)]))
    does = os.environ["STUB"].split()
    if "publish" in does:
        publish_outcome(runs[0], Outcome(AttemptResult.EXCEPTION, options.attempt[0], exit=1, message="its own"))
    if "die" in does:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fence" in does:
        before = read_fence(runs[1])
        while read_fence(runs[1]) == before:
            time.sleep(0.05)
    if "stop" in does:
        stops: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
        (runs[0].folder / "ready").touch()
        while not stops:
            time.sleep(0.05)
        return 3
    if "fail" in does:
        print("error: out of luck")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
