"""How long report.py takes for 500 runs of 100 evaluations each; the budget is a minute.

    python benchmarks/bench_report.py [--runs 500] [--evaluations 100]

The runs are written first (not timed), to a temporary folder: five estimators at K = 5, 10, 20 and 50, each with 25
seeds, seven metrics per evaluation, as a sweep leaves them. Then report.py runs in a process of its own, with pivots,
curves and detailed plots. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "experiments" / "reporting"))

from synthetic_runs import Folder  # noqa: E402  (its folder is no package)

ESTIMATORS = ("ovis-gamma1", "ovis-gamma0", "ovis-S10-exclusive", "vimco", "tvo-part2-config1")
IW = (5, 10, 20, 50)
DETAILED = "test:loss/L_k,train:loss/L_k,train:loss/kl_q_p,train:loss/ess,train:grads/snr"

#: Seconds.
BUDGET = 60.0


def main() -> int:
    """Write the runs, time the report; 0 where it keeps to the budget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--evaluations", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_runs(root, options.runs, options.evaluations)
        command = [sys.executable, "report.py", "--exp=sweep", f"--root={root}", f"--output={root / 'reports'}"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, f"--detailed_metrics={DETAILED}"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.perf_counter() - start
        drawn = sorted(path.name for path in root.glob("reports/sweep/*.png"))
    print(done.stdout.splitlines()[0], *drawn, sep="\n")
    print(f"{options.runs} runs x {options.evaluations} evaluations: {seconds:.1f} s (budget {BUDGET:.0f} s)")
    return int(seconds > BUDGET)


def write_runs(root: Path, runs: int, evaluations: int) -> None:
    """Run folders whose values differ by estimator, K and seed."""
    sweep = Folder(root / "sweep")
    sweep.path.mkdir()
    for number in range(runs):
        index, seed = number % (len(ESTIMATORS) * len(IW)), number // (len(ESTIMATORS) * len(IW)) + 1
        estimator, iw = ESTIMATORS[index % len(ESTIMATORS)], IW[index // len(ESTIMATORS)]
        climb = [
            -90 - index / 10 - 20 * math.exp(-5 * i / evaluations) + 0.1 * math.sin(i + seed)
            for i in range(evaluations)
        ]
        values = {f"{split}:loss/{name}": climb for split in ("train", "valid", "test") for name in ("L_k",)}
        values |= {
            "train:loss/kl_q_p": [-value / 10 for value in climb],
            "train:loss/ess": [-value / 50 for value in climb],
        }
        values |= {
            "train:grads/snr": [-1 / value for value in climb],
            "train:grads/variance": [-value for value in climb],
        }
        sweep.add(estimator, values, seed, iw=iw, dataset="binmnist")


if __name__ == "__main__":
    raise SystemExit(main())
