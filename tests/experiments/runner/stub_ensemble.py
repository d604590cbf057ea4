"""Stands in for ``ovis.experiments.cli.train --ensemble``: notes what it was told, and does as the environment says.

``publish`` says how its first run ended; ``die`` kills itself; ``stop`` waits until it is told to; ``fence`` waits
until another attempt may publish in its second run; ``fail`` ends with an error.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from ovis.experiments.runs.fencing import publish_outcome, read_fence
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import AttemptResult, Outcome


def main() -> int:
    triples = [word.split(":", 2) for word in sys.argv[sys.argv.index("--ensemble") + 1 :]]
    runs = [RunPaths(Path(folder)) for _, _, folder in triples]
    for (seed, attempt, _), run in zip(triples, runs, strict=True):
        (run.folder / "call.json").write_text(json.dumps([int(seed), int(attempt), len(runs)]))
    does = os.environ["STUB"].split()
    if "publish" in does:
        publish_outcome(runs[0], Outcome(AttemptResult.EXCEPTION, int(triples[0][1]), exit=1, message="its own"))
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
