"""Figure 2's small K with 1 - v_k held at float32's rounding unit, as the reference code holds it, and without.

    python benchmarks/reference_clamp.py [--estimators ovis-gamma1,ovis-gamma0] [--iw 2,5]

In OVIS~ the reference takes log(1 - v_k) for log(1.2e-7) = -15.9 at least. Where one weight is nearly all of the sum,
the exact learning signal is larger, so the clamp bounds what a single particle can do to q. Ten seeds, all of the
100,000 steps: about two minutes a line on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ovis.experiments.cli import train
from ovis.experiments.runner.experiment_file import ExperimentRun, load_experiment
from ovis.experiments.runs.identity import option_words
from ovis.functional import control_variates
from ovis.functional.log_weights import Alpha, LeaveOneOut

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "gaussian-mixture-model.json"

exact = control_variates.leave_one_out


def clamped(log_w: torch.Tensor, alpha: Alpha = 0.0) -> LeaveOneOut:
    """The reference's numbers."""
    sums = exact(log_w, alpha)
    return sums._replace(log_rest=sums.log_rest.clamp(min=math.log(torch.finfo(torch.float32).eps)))


def train_here(runs: Sequence[ExperimentRun], folder: Path) -> None:
    """All seeds at once, in this process."""
    torch.set_num_threads(1)
    options = {**runs[0].identity.settings, "exp": folder.name, "root": str(folder.parent), "device": "cpu"}
    words = [word for name, value in options.items() for word in option_words(name, value)]
    if train.main([*words, "--ensemble", *(str(run.settings.seed) for run in runs)]):
        raise SystemExit("a training failed")


def measured(folder: Path) -> Iterator[tuple[float, float, float]]:
    """Of each run: smallest errors of posterior and prior, mean SNR."""
    for file in folder.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        errors = [min(row[f"test:gmm/{name}_mse"] for row in rows) for name in ("posterior", "prior")]
        yield errors[0], errors[1], statistics.mean(row["train:grads/snr"] for row in rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", default="ovis-gamma1,ovis-gamma0", help="separated by commas")
    parser.add_argument("--iw", default="2,5", help="particles K, separated by commas")
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)  # how, estimator, K, folder
    opt = parser.parse_args()
    figure = load_experiment(EXPERIMENT).runs
    if opt.here:
        how, name, iw, folder = opt.here
        control_variates.leave_one_out = clamped if how == "clamped" else exact
        train_here([r for r in figure if (r.settings.estimator, r.settings.iw) == (name, int(iw))], Path(folder))
        return
    wanted = [(name, iw) for name in opt.estimators.split(",") for iw in opt.iw.split(",")]
    there = {(run.settings.estimator, str(run.settings.iw)) for run in figure}
    for name, iw in wanted:
        if (name, iw) not in there:
            names, counts = (", ".join(sorted(set(column))) for column in zip(*there, strict=True))
            parser.error(f"{name} with K = {iw} is not in Figure 2; there are {names}; K = {counts}")
    print(f"{'estimator':18s} {'K':>3s} {'1 - v_k':>8s} {'posterior L2':>16s} {'prior L2':>16s} {'mean SNR':>16s}")
    for name, iw in wanted:
        for how in ("exact", "clamped"):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "runs" / "clamp"
                folder.mkdir(parents=True)
                words = [sys.executable, __file__, "--here", how, name, iw, str(folder)]
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                columns = list(zip(*measured(folder), strict=True))
            errors = [statistics.stdev(column) / math.sqrt(len(column)) for column in columns]
            cells = [f"{statistics.mean(c):.3f} ± {error:.3f}" for c, error in zip(columns, errors, strict=True)]
            print(f"{name:18s} {iw:>3s} {how:>8s} " + " ".join(f"{cell:>16s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
